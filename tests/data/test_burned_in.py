import cv2
import numpy as np
import pytest

from busseg.data.burned_in import CORNER_PX, ENOUGH, count_stroke_pixels, has_marks
from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES

SEEDS = range(6)


def phantom(label="benign", seed=0):
    return draw_phantom(label, seed)[0]


def written(image, text, place=(60, 330), level=235):
    """A scanner's letters have hard edges: no anti-aliasing."""
    return cv2.putText(image.copy(), text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, level, 2, cv2.LINE_8)


def measured(image, *ends):
    """Calipers: a cross at each end."""
    image = image.copy()
    for end in ends:
        cv2.drawMarker(image, end, 235, cv2.MARKER_CROSS, 15, 2)
    return image


@pytest.mark.parametrize("label", CLASSES)
def test_echoes_alone_are_no_marks(label):
    assert [seed for seed in SEEDS if has_marks(phantom(label, seed))] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_text_is_found(seed):
    assert has_marks(written(phantom("malignant", seed), "RT AXILLA"))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_caliper_over_a_dark_lesion_is_found(seed):
    image, mask = draw_phantom("benign", seed)
    inside = cv2.erode(mask, np.ones((9, 9), np.uint8)) * (255 - image)  # where the lesion is darkest
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    assert has_marks(measured(image, (int(column), int(row))))


def test_square_dot_counts_the_pixels_of_its_rim():
    image = np.full((100, 100), 40, np.uint8)
    image[60:64, 60:64] = 240
    assert count_stroke_pixels(image) == 4 * 4 - 2 * 2  # the pixels inside have none darker beside them


@pytest.mark.parametrize(("level", "expected"), [(100 + 99, 0), (100 + 100, 12)])
def test_stroke_must_stand_out_by_a_hundred_grey_levels(level, expected):
    image = np.full((100, 100), 100, np.uint8)
    image[60:64, 60:64] = level
    assert count_stroke_pixels(image) == expected


def test_only_what_lies_close_together_is_counted():
    image = np.zeros((300, 300), np.uint8)
    image[100:104, 100:104] = image[200:204, 200:204] = 255
    assert count_stroke_pixels(image) == 12


def test_sharp_edge_of_a_wide_bright_area_is_no_mark():
    image = np.zeros((300, 300), np.uint8)
    cv2.fillConvexPoly(image, np.array([(150, 0), (300, 300), (0, 300)]), 200)  # a sector
    assert not has_marks(image)


def test_logo_in_the_top_left_corner_is_passed_over():
    image = np.zeros((300, 300), np.uint8)
    logo = written(image, "IQ", place=(5, 25))
    assert np.argwhere(logo).max() < CORNER_PX
    assert count_stroke_pixels(logo) == 0
    assert count_stroke_pixels(logo[:, ::-1]) >= ENOUGH  # in another corner it is a mark


def test_image_is_left_as_it_was():
    image = written(phantom(), "LT 3")
    before = image.copy()
    has_marks(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (6, 6), (50, 50)])
def test_tiny_image_has_no_strokes(shape):
    assert count_stroke_pixels(np.full(shape, 255, np.uint8)) == 0


@pytest.mark.parametrize(("shape", "expected"), [((255, 255), None), ((120, 256), True), ((256, 120), True)])
def test_small_image_is_not_judged(shape, expected):
    image = written(np.zeros(shape, np.uint8), "LT", place=(60, 100))
    assert has_marks(image) is expected
