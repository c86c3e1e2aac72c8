import cv2
import numpy as np
import pytest

from busseg.imaging.lesions import find_lesions, measure_diameters, simplify
from busseg.imaging.polygons import outline_mask


def shoelace(corners):
    x, y = corners.astype(np.float64).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def blob(seed, size=60):
    """The largest connected part of a random mask, without holes, cropped to its box."""
    noise = np.random.default_rng(seed).random((size, size), np.float32)
    mask = (cv2.GaussianBlur(noise, (0, 0), 2) > 0.5).astype(np.uint8)
    lesion = find_lesions(mask)[0]
    left, top, width, height = lesion.box
    _, numbers, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    number = 1 + int(boxes[1:, cv2.CC_STAT_AREA].argmax())
    part = np.pad((numbers[top : top + height, left : left + width] == number).astype(np.uint8), 1)
    outside = cv2.connectedComponents(1 - part, connectivity=4)[1]
    return (outside != outside[0, 0]).astype(np.uint8)[1:-1, 1:-1]


# === Diameters ===
def test_diameters_of_a_rectangle_are_its_diagonal_and_the_extent_across_it():
    points = np.int32([[x, y] for x in range(5) for y in range(4)])  # from 0, 0 to 4, 3
    # The diagonal is sqrt(4^2 + 3^2) = 5. Each of the other corners lies 4 * 3 / 5 = 2.4 from it, one on each side.
    assert measure_diameters(points) == pytest.approx((5, 4.8))


def test_diameters_are_in_the_unit_of_the_spacing():
    points = np.int32([[0, 0], [8, 0], [8, 3], [0, 3]])
    # Columns are 0.5 mm apart and rows 1 mm: 4 mm by 3 mm, as above.
    assert measure_diameters(points, spacing=(1, 0.5)) == pytest.approx((5, 4.8))


@pytest.mark.parametrize("degrees", [0, 30, 45, 110])
def test_diameters_of_a_rotated_ellipse_are_its_axes(degrees):
    mask = np.zeros((300, 300), np.uint8)
    cv2.ellipse(mask, (150, 150), (100, 40), degrees, 0, 360, 1, thickness=-1)
    (lesion,) = find_lesions(mask, (0.2, 0.2))
    assert lesion.diameters_px == pytest.approx((200, 80), abs=2)  # pixels are whole
    assert lesion.diameters_mm == pytest.approx((40, 16), abs=0.4)
    assert lesion.area_px == pytest.approx(np.pi * 100 * 40, rel=0.03)
    assert lesion.center == pytest.approx((150, 150), abs=0.5)


def test_one_pixel_has_diameters_of_0_and_a_row_of_pixels_none_across():
    assert measure_diameters(np.int32([[3, 4]])) == (0, 0)
    assert measure_diameters(np.int32([[x, 4] for x in range(6)])) == (5, 0)


# === Lesions ===
def test_parts_that_touch_by_a_corner_are_one_lesion_and_the_largest_is_first():
    mask = np.zeros((8, 10), np.uint8)
    mask[0, 0] = mask[1, 1] = 1
    mask[4:7, 5:9] = 1
    large, small = find_lesions(mask, (0.5, 0.25))
    assert (large.area_px, large.box, large.center) == (12, (5, 4, 4, 3), (6.5, 5.0))  # columns 5 to 8, rows 4 to 6
    assert (large.area_mm2, small.area_mm2) == (12 * 0.5 * 0.25, 2 * 0.5 * 0.25)
    assert (small.area_px, small.box, small.center) == (2, (0, 0, 2, 2), (0.5, 0.5))
    assert small.diameters_mm == pytest.approx((np.hypot(0.25, 0.5), 0))


def test_lesion_without_a_scale_has_no_millimetres_and_an_empty_mask_no_lesion():
    (lesion,) = find_lesions(np.ones((2, 3), np.uint8))
    assert (lesion.area_mm2, lesion.diameters_mm) == (None, None)
    assert lesion.diameters_px == pytest.approx((np.hypot(2, 1), 2 * 2 * 1 / np.hypot(2, 1)))
    assert find_lesions(np.zeros((2, 3), np.uint8), (1, 1)) == ()


# === Outlines ===
def test_outline_leaves_holes_out():
    part = np.zeros((9, 12), np.uint8)
    part[1:8, 2:11] = 1
    part[3:5, 4:7] = 0
    (lesion,) = find_lesions(part)
    assert shoelace(lesion.outline) == 7 * 9  # with the hole
    assert lesion.area_px == 7 * 9 - 2 * 3


@pytest.mark.parametrize("pixels", [[(0, 0)], [(0, 0), (1, 1)], [(0, 0), (1, 1), (2, 2), (3, 3)], [(0, 0), (0, 1)]])
def test_outline_of_a_few_pixels_encloses_them(pixels):
    part = np.zeros((4, 4), np.uint8)
    part[tuple(np.transpose(pixels))] = 1
    (lesion,) = find_lesions(part)
    assert shoelace(lesion.outline) == len(pixels)


def test_outline_lies_where_the_lesion_does():
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 10:17] = 1
    (lesion,) = find_lesions(mask)
    assert sorted(map(tuple, lesion.outline.tolist())) == [(10, 5), (10, 9), (17, 5), (17, 9)]


def test_simple_outline_has_few_corners_and_nearly_the_same_pixels():
    mask = np.zeros((300, 300), np.uint8)
    cv2.ellipse(mask, (150, 150), (100, 40), 30, 0, 360, 1, thickness=-1)
    (lesion,) = find_lesions(mask)
    assert len(lesion.outline) < len(outline_mask(mask)[0]) / 3
    assert shoelace(lesion.outline) == pytest.approx(lesion.area_px, rel=0.02)


def test_outline_has_no_more_corners_than_it_may():
    part = blob(3)
    (edges,) = outline_mask(part, holes=False)
    assert len(simplify(edges)) > 20 >= len(simplify(edges, most=20)) > 2
