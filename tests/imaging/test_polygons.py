import numpy as np
import pytest

from busseg.data.phantom import draw_phantom
from busseg.imaging.polygons import check_polygon, fill_polygons, outline_mask


def mask_of(*rows):
    return np.array([[character == "#" for character in row] for row in rows], np.uint8)


def random_mask(seed, share=0.5):
    return (np.random.default_rng(seed).random((23, 31)) < share).astype(np.uint8)


def area(polygon):
    x, y = np.asarray(polygon, float).T
    return abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2


def test_rectangle_has_its_four_corners():
    mask = np.zeros((30, 40), np.uint8)
    mask[5:9, 10:20] = 1
    (polygon,) = outline_mask(mask)
    assert polygon.tolist() == [[10, 5], [20, 5], [20, 9], [10, 9]]
    assert area(polygon) == 4 * 10


@pytest.mark.parametrize("pixel", [(0, 0), (2, 3)])
def test_single_pixel_is_a_square_of_area_1(pixel):
    mask = np.zeros((3, 4), np.uint8)
    mask[pixel] = 1
    (polygon,) = outline_mask(mask)
    assert area(polygon) == 1
    np.testing.assert_array_equal(fill_polygons([polygon], mask.shape), mask)


def test_hole_joins_its_part_by_a_slit_without_area():
    mask = mask_of("#####", "#...#", "#.#.#", "#...#", "#####")
    ring, dot = outline_mask(mask)
    assert (area(ring), area(dot)) == (25 - 9, 1)
    np.testing.assert_array_equal(fill_polygons([ring, dot], mask.shape), mask)


def test_pixels_that_touch_at_a_corner_are_one_part():
    mask = mask_of("#..#", ".##.")
    assert len(outline_mask(mask)) == 1
    np.testing.assert_array_equal(fill_polygons(outline_mask(mask), mask.shape), mask)


def test_parts_come_from_top_to_bottom_and_from_left_to_right():
    polygons = outline_mask(mask_of("#..#", "....", "..#."))
    assert [polygon[0].tolist() for polygon in polygons] == [[0, 0], [3, 0], [2, 2]]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_filled_outline_is_the_mask(seed, share):
    mask = random_mask(seed, share)
    np.testing.assert_array_equal(fill_polygons(outline_mask(mask), mask.shape), mask)


@pytest.mark.parametrize("label", ["benign", "malignant"])
def test_filled_outline_of_a_phantom_is_its_mask(label):
    _, mask = draw_phantom(label, seed=3)
    np.testing.assert_array_equal(fill_polygons(outline_mask(mask), mask.shape), mask != 0)


# Centres right of x = 1.2: 1.5, 2.5; above the diagonal y = x: those with y < x.
@pytest.mark.parametrize(
    ("polygon", "rows"),
    [
        ([(1.2, 0), (3, 0), (3, 2), (1.2, 2)], (".##", ".##", "...")),
        ([(0, -0.1), (3.1, -0.1), (3.1, 3)], (".##", "..#", "...")),
        ([(-5, -5), (9, -5), (9, 9), (-5, 9)], ("###", "###", "###")),
        ([(7, 7), (9, 7), (9, 9)], ("...", "...", "...")),
    ],
)
def test_pixel_is_filled_if_its_centre_lies_inside(polygon, rows):
    np.testing.assert_array_equal(fill_polygons([polygon], (3, 3)), mask_of(*rows))


def test_polygons_that_overlap_are_united():
    square = [(0, 0), (2, 0), (2, 2), (0, 2)]
    np.testing.assert_array_equal(fill_polygons([square, square], (2, 3)), mask_of("##.", "##."))


@pytest.mark.parametrize("seed", range(5))
def test_pycocotools_fills_an_outline_without_holes_alike(seed):
    coco = pytest.importorskip("pycocotools.mask", reason="needs busseg[formats]")
    _, mask = draw_phantom("malignant", seed=seed)
    flat = [polygon.ravel().astype(float).tolist() for polygon in outline_mask(mask)]
    runs = coco.merge(coco.frPyObjects(flat, *mask.shape))
    np.testing.assert_array_equal(coco.decode(runs), mask != 0)


@pytest.mark.parametrize("numbers", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, float("nan")]])
def test_less_than_three_finite_points_are_refused(numbers):
    with pytest.raises(ValueError, match=r"^Expected a polygon of three or more points"):
        check_polygon(numbers)
