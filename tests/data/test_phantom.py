import cv2
import numpy as np
import pytest

from busseg.data.phantom import LESION_AREA, draw_clip, draw_phantom, envelope, write_phantoms
from busseg.data.sample import CLASSES
from busseg.imaging.images import read_image

LESIONS = ("benign", "malignant")


@pytest.fixture(scope="module")
def phantoms():
    """Forty phantoms of each class: `{label: [(image, mask), ...]}`."""
    return {label: [draw_phantom(label, seed) for seed in range(40)] for label in CLASSES}


@pytest.mark.parametrize("label", CLASSES)
def test_same_seed_draws_the_same_pixels(label):
    for first, second in zip(draw_phantom(label, 7), draw_phantom(label, 7), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("label", CLASSES)
def test_another_seed_draws_another_image(label):
    assert np.mean(draw_phantom(label, 7)[0] != draw_phantom(label, 8)[0]) > 0.5


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize(("height", "width"), [(360, 440), (64, 64), (301, 199)])
def test_image_and_mask_are_uint8_of_the_asked_size(label, height, width):
    image, mask = draw_phantom(label, 0, height, width)
    assert image.shape == mask.shape == (height, width)
    assert image.dtype == mask.dtype == np.uint8
    assert image.std() > 20  # not a constant
    assert set(np.unique(mask)) <= {0, 1}


def test_unknown_label_is_named_in_the_error():
    with pytest.raises(ValueError, match="label='cyst'"):
        draw_phantom("cyst", 0)


def test_normal_mask_is_empty(phantoms):
    assert not any(mask.any() for _, mask in phantoms["normal"])


@pytest.mark.parametrize("label", LESIONS)
def test_lesion_is_one_piece_clear_of_the_image_border(phantoms, label):
    for _, mask in phantoms[label]:
        pieces = cv2.connectedComponents(mask)[0] - 1  # less the background
        assert pieces == 1
        assert mask.sum() == mask[1:-1, 1:-1].sum()


@pytest.mark.parametrize("label", LESIONS)
def test_lesion_area_has_the_median_and_the_wide_spread_of_busi(phantoms, label):
    areas = np.array([mask.mean() for _, mask in phantoms[label]])
    assert np.median(areas) == pytest.approx(LESION_AREA[label], rel=0.4)
    assert np.percentile(areas, 90) > 3 * np.percentile(areas, 10)


def test_benign_lesions_lie_flatter_and_have_smoother_margins(phantoms):
    def height_over_width(mask):
        return np.ptp(np.flatnonzero(mask.any(axis=1))) / np.ptp(np.flatnonzero(mask.any(axis=0)))

    def solidity(mask):
        (outline,), _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return cv2.contourArea(outline) / cv2.contourArea(cv2.convexHull(outline))

    for measure, benign_is in ((height_over_width, np.less), (solidity, np.greater)):
        assert benign_is(*(np.median([measure(mask) for _, mask in phantoms[label]]) for label in LESIONS))


@pytest.mark.parametrize("label", LESIONS)
def test_lesion_is_darker_than_its_surroundings_on_average_but_not_always_by_much(phantoms, label):
    contrast = []
    for image, mask in phantoms[label]:
        ring = cv2.dilate(mask, np.ones((41, 41), np.uint8)) - mask
        contrast.append(image[ring > 0].mean() - image[mask > 0].mean())
    assert np.mean(contrast) > 20  # grey levels
    assert np.percentile(contrast, 10) < 25


def test_benign_lesions_brighten_and_malignant_ones_shadow_what_lies_below(phantoms):
    def brightness_below(image, mask, reach=50):
        """Grey level under the middle of the lesion, less that beside the lesion at the same depth."""
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        left, right = columns[0], columns[-1]
        quarter = (right - left) // 4
        strip = image[rows[-1] + 6 : rows[-1] + reach].astype(float)
        beside = np.hstack([strip[:, max(left - 60, 0) : left], strip[:, right + 1 : right + 61]])
        return strip[:, left + quarter : right - quarter].mean() - beside.mean()

    below = {label: np.mean([brightness_below(*phantom) for phantom in phantoms[label]]) for label in LESIONS}
    assert below["benign"] > 10
    assert below["malignant"] < -10


def test_uniform_tissue_gives_rayleigh_speckle():
    speckle = envelope(np.full((400, 400), 3, np.float32), np.random.default_rng(0))
    assert np.mean(speckle**2) == pytest.approx(3**2, rel=0.05)
    assert speckle.mean() / speckle.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)  # 1.91


def test_speckle_is_wider_than_deep_and_widens_with_depth():
    speckle = envelope(np.ones((600, 400), np.float32), np.random.default_rng(0), axial_px=1, lateral_px=1.6)

    def correlation(part, rows, columns):
        one = part[: part.shape[0] - rows, : part.shape[1] - columns]
        return np.corrcoef(one.ravel(), part[rows:, columns:].ravel())[0, 1]

    assert correlation(speckle, 0, 2) > correlation(speckle, 2, 0) + 0.1
    assert correlation(speckle[-150:], 0, 3) > correlation(speckle[:150], 0, 3) + 0.1


def test_sheets_do_not_speckle():
    bright = np.full((50, 50), 5, np.float32)
    np.testing.assert_allclose(envelope(0 * bright, np.random.default_rng(0), bright)[0], 5, rtol=1e-4)


def test_folder_is_shaped_like_busi(tmp_path):
    write_phantoms(tmp_path, per_class=10, seed=3)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    expected = {
        f"{label}/phantom {label} ({n}){end}.png" for label in CLASSES for n in range(1, 11) for end in ("", "_mask")
    }
    second = {f"{label}/phantom {label} (10)_mask_1.png" for label in LESIONS}
    assert names == expected | second

    sizes = set()
    for name in sorted(expected):
        if not name.endswith("_mask.png"):
            image, mask = (
                read_image(tmp_path / name),
                read_image((tmp_path / name).with_stem(f"{name[:-4].split('/')[1]}_mask")),
            )
            sizes.add(image.shape)
            assert image.shape == mask.shape
            assert set(np.unique(mask)) == ({0} if name.startswith("normal") else {0, 255})
    assert len(sizes) > 3


def test_two_lesions_of_one_image_are_apart(tmp_path):
    write_phantoms(tmp_path, per_class=10)
    for label in LESIONS:
        first, second = (
            read_image(tmp_path / label / f"phantom {label} (10){end}.png") for end in ("_mask", "_mask_1")
        )
        assert first.any()
        assert second.any()
        assert not np.any(first & second)


def test_lesion_of_a_clip_moves_to_the_left_under_noise_of_each_frame():
    images, masks = draw_clip("benign", seed=1, frames=4, step_px=10, noise=5)
    assert images.shape == masks.shape == (4, 360, 440)
    assert masks.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(masks[3][:, :-30], masks[0][:, 30:])  # 3 steps of 10 pixels
    difference = images[3][:, :-30].astype(float) - images[0][:, 30:]
    assert 3 < difference.std() < 5 * 2**0.5 + 0.5  # two noises of 5, less where grey levels end
    np.testing.assert_array_equal(images, draw_clip("benign", seed=1, frames=4, step_px=10, noise=5)[0])
