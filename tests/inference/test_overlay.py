from dataclasses import replace

import cv2
import numpy as np
import pytest

from busseg.inference.overlay import (
    LESION_RGB,
    TRUTH_RGB,
    caption_as_out_of_distribution,
    draw_contour,
    draw_heat,
    draw_legend,
    draw_overlay,
)
from busseg.inference.prediction import Prediction


def mask_of(shape, rows=slice(0), columns=slice(0)):
    mask = np.zeros(shape, np.uint8)
    mask[rows, columns] = 1
    return mask


def prediction_of(mask):
    return Prediction("benign", np.float32([0.05, 0.9, 0.05]), mask, mask.astype(np.float32))


def has(picture, color):
    """Where a line runs. Its pixels share their colour with their neighbours' a little, so near is enough."""
    return np.all(np.abs(picture - np.float32(color)) < 50, axis=-1)


# === Contour ===
def test_outline_runs_along_the_lesions_edge():
    mask = mask_of((20, 30), slice(5, 12), slice(8, 20))
    drawn = has(draw_contour(np.full((20, 30), 90, np.uint8), mask), LESION_RGB)
    edge = mask.copy()
    edge[6:11, 9:19] = 0  # the rectangle without its inside
    assert drawn[edge == 1].all()
    beside = cv2.dilate(edge, np.ones((3, 3)))  # a line of two pixels reaches one beyond the edge
    assert not drawn[beside == 0].any()


def test_hole_is_outlined_too():
    mask = mask_of((40, 40), slice(4, 36), slice(4, 36))
    mask[15:25, 15:25] = 0
    drawn = has(draw_contour(np.zeros((40, 40), np.uint8), mask), LESION_RGB)
    assert drawn[4, 4:36].all()  # the outer edge
    assert drawn[14, 15:25].all()  # round the hole
    assert not drawn[6:12, 6:34].any()


def test_without_a_lesion_the_image_is_left_grey():
    image = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(draw_contour(image, mask_of((6, 8))), np.repeat(image[..., None], 3, axis=-1))


def test_truth_and_prediction_are_drawn_one_over_the_other():
    image = np.full((30, 30), 90, np.uint8)
    once = draw_contour(image, mask_of((30, 30), slice(3, 10), slice(3, 10)), TRUTH_RGB)
    twice = draw_contour(once, mask_of((30, 30), slice(15, 25), slice(15, 25)))
    assert has(twice, TRUTH_RGB).any()
    assert has(twice, LESION_RGB).any()
    assert not has(once, LESION_RGB).any()  # what was drawn on is left as it is
    assert set(np.unique(image)) == {90}


# === Overlay ===
@pytest.mark.parametrize("shape", [(480, 640), (100, 400), (400, 100), (32, 32), (7, 9), (1, 1)])
def test_strip_stands_above_the_whole_image(shape):
    image = np.random.default_rng(0).integers(0, 90, shape, np.uint8)
    mask = mask_of(shape, slice(shape[0] // 4, shape[0] // 2), slice(shape[1] // 4, shape[1] // 2))
    picture = draw_overlay(image, prediction_of(mask))
    height = len(picture) - shape[0]
    assert picture.dtype == np.uint8
    assert picture.shape == (height + shape[0], shape[1], 3)
    assert 12 <= height <= 40
    np.testing.assert_array_equal(picture[height:], draw_contour(image, mask))


@pytest.mark.parametrize("width", [100, 300, 640, 1600])
def test_writing_fits_into_the_strip(width):
    image = np.zeros((40, width), np.uint8)
    strip = draw_overlay(image, prediction_of(mask_of(image.shape)))[:-40]
    written = np.flatnonzero(strip.any(axis=(0, 2)))
    assert written.size > 20
    assert written.max() < width - 1  # nothing is cut off
    assert not strip[[0, -1]].any()


def test_caption_has_the_class_and_the_area():
    image = np.zeros((40, 300), np.uint8)
    small, large = (prediction_of(mask_of(image.shape, slice(2), slice(n))) for n in (10, 200))
    other = Prediction("malignant", small.probabilities, small.mask, small.probability_map)
    strips = [draw_overlay(image, prediction)[:-40] for prediction in (small, large, other)]
    assert not np.array_equal(strips[0], strips[1])
    assert not np.array_equal(strips[0][:, :100], strips[2][: len(strips[0]), :100])


@pytest.mark.parametrize("width", [100, 300])
def test_writing_of_an_image_that_cannot_be_read_has_no_class_also_where_it_comes_later(width):
    image = np.full((40, width), 90, np.uint8)
    readable = prediction_of(mask_of(image.shape, slice(5, 20), slice(10, 40)))
    unreadable = [replace(readable, ood_score=1.1, label=label) for label in ("benign", "malignant")]
    first, second = (draw_overlay(image, prediction) for prediction in unreadable)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, draw_overlay(image, readable))
    np.testing.assert_array_equal(caption_as_out_of_distribution(draw_overlay(image, readable), 40), first)


def test_heat_goes_from_blue_to_yellow_over_any_image():
    values = np.tile(np.linspace(0.2, 0.4, 50, dtype=np.float32), (30, 1))
    for image in (np.full((30, 50), 128, np.uint8), np.full((30, 50, 3), 128, np.uint8)):
        picture = draw_heat(image, values)
        assert (picture.shape, picture.dtype) == ((30, 50, 3), np.uint8)
        red, blue = picture[15, :, 0].astype(int), picture[15, :, 2].astype(int)
        assert blue[0] > red[0] + 20
        assert red[-1] > blue[-1] + 20
    assert (draw_heat(image, np.zeros((30, 50))) == draw_heat(image, np.ones((30, 50)))).all()  # all values are equal


def test_legend_leads_from_the_colour_of_the_smallest_value_to_that_of_the_largest():
    values = np.float32([[-0.25, 0.5]])
    legend = draw_legend(values, "malignant 0.96   occlusion", 300)
    black = np.zeros((1, 2), np.uint8)
    ends = 2 * draw_heat(black, values).astype(int)  # over black, `draw_heat` halves each colour
    np.testing.assert_allclose(legend[-8, [0, -1]], ends[0], atol=1)
    assert not np.array_equal(legend, draw_legend(2 * values, "malignant 0.96   occlusion", 300))  # other numbers
    assert not legend[: len(legend) - 12, -1].any()  # nothing is cut off
