import numpy as np
import pytest

from busseg.data.lesion_free import crop_beside_lesion
from busseg.imaging.images import fit_to_square

SIZE = 100
MARGIN = 3  # 0.03 of the square's side


def scan(columns, rows=slice(0, SIZE)):
    """An image whose grey value is its column + 1, in some rows; and a lesion in some columns."""
    image, mask = np.zeros((2, SIZE, SIZE), np.uint8)
    image[rows] = np.arange(1, SIZE + 1)
    mask[40:60, columns] = 1
    return image, mask


def crops(image, mask, count=50):
    return [crop_beside_lesion(image, mask, np.random.default_rng(seed)) for seed in range(count)]


def test_only_the_side_that_is_wide_enough_is_cropped_from_the_skin_down():
    # Left of the lesion and its margin lie 20 - 3 = 17 columns, right 100 - 43 = 57, of which a third of 100 is needed.
    image, mask = scan(slice(20, 40))
    image[:, :43] += 100  # so that a pixel of the left half would show
    expected = fit_to_square(image[:95, 43:], SIZE)  # 57 / 0.6 = 95 rows
    for crop in crops(image, mask):
        assert (crop.shape, crop.dtype) == ((SIZE, SIZE), np.uint8)
        assert np.array_equal(crop, expected)


def test_crop_keeps_a_margin_from_the_lesion():
    image, mask = scan(slice(60, 70))
    image[:, 60 - MARGIN :] = 255
    for crop in crops(image, mask):  # the right side is 100 - 73 = 27 columns wide, too narrow
        assert crop.max() <= 60 - MARGIN


def test_each_side_is_chosen_in_proportion_to_its_width():
    image, mask = scan(slice(40, 47))  # 37 columns left, 50 right
    left = fit_to_square(image[: round(37 / 0.6), :37], SIZE)
    chosen = sum(np.array_equal(crop, left) for crop in crops(image, mask, 600))
    assert chosen == pytest.approx(600 * 37 / 87, abs=40)  # standard deviation sqrt(600 * 37/87 * 50/87) = 12


def test_crop_lies_in_the_image_not_in_the_fill_around_it():
    # The image is 60 of 100 rows high, from row 20 on: so is the crop, for 57 / 0.6 = 95 are not there.
    image, mask = scan(slice(20, 40), rows=slice(20, 80))
    assert np.array_equal(crops(image, mask, 1)[0], fit_to_square(image[20:80, 43:], SIZE))


@pytest.mark.parametrize("columns", [slice(34, 68), slice(0, 100), slice(35, 66)])
def test_lesion_with_no_room_beside_it_has_no_crop(columns):
    # At most 34 - 3 = 31 or 35 - 3 = 32 columns on a side: less than 0.33 of the width.
    assert crops(*scan(columns), 5) == [None] * 5


def test_several_lesions_are_passed_by_together():
    image, mask = scan(slice(5, 10))
    mask[10:20, 50:55] = 1
    # Of columns 5 to 55 none is taken: right of them lie 100 - 58 = 42.
    assert crops(image, mask, 1)[0].max() == 100
    assert set(np.unique(crops(image, mask, 1)[0])) <= {0, *range(59, 101)}
