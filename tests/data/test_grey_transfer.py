import numpy as np

from busseg.data.grey_transfer import match_histogram


def test_levels_of_equal_shares_take_the_other_image_s_levels():
    # Half of the pixels are 10, half 20; of the reference half are 100, half 200.
    image = np.uint8([[10, 20], [20, 10]])
    reference = np.uint8([[100, 200, 200, 100]])
    assert match_histogram(image, reference).tolist() == [[100, 200], [200, 100]]


def test_share_between_two_levels_is_interpolated():
    # Up to level 10 are 3/4 of the pixels. The reference reaches 1/2 at level 100 and 1 at level 200: half way.
    image = np.uint8([[10, 10, 10, 20]])
    reference = np.uint8([[100, 100, 200, 200]])
    assert match_histogram(image, reference).tolist() == [[150, 150, 150, 200]]


def test_fill_of_value_0_stays_and_does_not_count():
    image = np.uint8([[0, 0, 0, 0, 10, 20]])
    reference = np.uint8([[0, 100, 200]])
    assert match_histogram(image, reference).tolist() == [[0, 0, 0, 0, 100, 200]]
    assert match_histogram(np.zeros((2, 2), np.uint8), reference).tolist() == [[0, 0], [0, 0]]
    assert np.array_equal(match_histogram(image, np.zeros((2, 2), np.uint8)), image)


def test_image_keeps_its_own_histogram():
    image = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    changed = match_histogram(image, image)
    assert changed.dtype == np.uint8
    assert np.array_equal(changed, image)


def test_order_of_grey_values_is_kept_and_the_histogram_is_the_reference_s():
    random = np.random.default_rng(0)
    image, reference = random.integers(1, 90, (64, 64), np.uint8), random.integers(100, 256, (32, 32), np.uint8)
    changed = match_histogram(image, reference)
    assert np.all(np.diff(changed.ravel()[np.argsort(image.ravel(), kind="stable")].astype(int)) >= 0)
    assert np.allclose(np.percentile(changed, (10, 50, 90)), np.percentile(reference, (10, 50, 90)), atol=4)
