import numpy as np
import pytest

from busseg.imaging.dicom import read_dicom
from busseg.imaging.dicom_regions import MOST

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")

WHOLE = "whole frame shown, with any name on it"


def region(left, top, width, height, format=1, data=1, step_cm=0.01, **others):
    """An item of SequenceOfUltrasoundRegions; by default two-dimensional tissue, 0.1 mm a pixel."""
    item = pydicom.Dataset()
    item.RegionSpatialFormat, item.RegionDataType = format, data
    item.RegionLocationMinX0, item.RegionLocationMaxX1 = left, left + width - 1
    item.RegionLocationMinY0, item.RegionLocationMaxY1 = top, top + height - 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = step_cm
    for keyword, value in others.items():
        if value is None:
            delattr(item, keyword)
        else:
            setattr(item, keyword, value)
    return item


@pytest.fixture
def read(tmp_path, write_scan):
    """Function from items of SequenceOfUltrasoundRegions to the `Scan` of a frame 60 high and 100 wide."""

    def read(*items, **attributes):
        pixels = np.arange(6000).reshape(60, 100).astype(np.uint8)
        if items:
            attributes["SequenceOfUltrasoundRegions"] = list(items)
        return read_dicom(write_scan(tmp_path / "a.dcm", pixels, **attributes))

    return read


# === Read ===
@pytest.mark.parametrize("data", [1, 2])
def test_region_of_tissue_or_of_colour_flow_is_read_with_its_scale(read, data):
    scan = read(region(10, 5, 40, 30, data=data))
    assert (scan.regions.boxes, scan.regions.notes, scan.regions.fault) == (((10, 5, 40, 30),), (), None)
    assert scan.spacing_mm == pytest.approx((0.1, 0.1))


def test_both_halves_of_a_dual_screen_are_read_in_their_order(read):
    scan = read(region(0, 0, 45, 60), region(50, 0, 50, 60, data=2))
    assert scan.boxes == ((0, 0, 45, 60), (50, 0, 50, 60))
    assert (scan.region, scan.spacing_mm) == ((50, 0, 50, 60), pytest.approx((0.1, 0.1)))
    left, right = scan.crops(scan.read_frame())
    assert (left.shape, right.shape) == ((60, 45), (60, 50))
    placed = scan.place([left, right])
    np.testing.assert_array_equal(np.delete(placed, range(45, 50), axis=1), np.hstack([left, right]))
    assert not placed[:, 45:50].any()


@pytest.mark.parametrize("box", [(20, 10, 30, 30), (10, 5, 60, 50), (8, 5, 62, 50)])  # within, the same, 2 px out
def test_colour_box_in_its_image_is_read_with_it(read, box):
    scan = read(region(10, 5, 60, 50), region(*box, data=2))
    assert len(scan.boxes) == 1
    assert scan.regions.notes == ()


def test_overlapping_regions_are_both_read_and_the_greatest_value_stands(read):
    scan = read(region(0, 0, 40, 40), region(30, 30, 40, 30))
    assert len(scan.boxes) == 2
    placed = scan.place([np.full((40, 40), 0.2), np.full((30, 40), -0.5)])
    assert (placed[0, 0], placed[35, 35], placed[50, 60], placed[0, 99]) == (0.2, 0.2, -0.5, 0)


def test_spectrum_beside_an_image_is_no_image_and_no_fault(read):
    assert read(region(0, 0, 40, 60), region(50, 0, 50, 60, format=3, data=3)).regions.notes == ()


# === Not read, and named ===
@pytest.mark.parametrize(
    ("other", "note"),
    [
        (region(50, 0, 50, 60, data=15), "not read: region 2 is of data type 15, not tissue or colour flow"),
        (region(50, 0, -10, 60), "not read: region 2 is empty, inverted or smaller than 16 px"),
        (pydicom.Dataset(), "not read: region 2 is incomplete"),
        (region(50, 0, 50, 60, RegionLocationMaxX1=None), "not read: region 2 is incomplete"),
        (region(50, 0, 50, 60, RegionSpatialFormat=[1, 1]), "not read: region 2 is incomplete"),
        (region(200, 0, 50, 60), "not read: region 2 is outside of the frame"),
    ],
)
def test_region_that_is_not_read_is_named_and_the_other_is_read(read, other, note):
    scan = read(region(0, 0, 40, 60), other)
    assert (scan.boxes, scan.regions.notes) == (((0, 0, 40, 60),), (note,))


def test_of_very_many_regions_the_largest_are_read_and_the_others_counted(read):
    regions = [region(6 * i, 0, 16 + i, 20) for i in range(10)]  # each reaches out of the one before
    scan = read(*regions)
    assert len(scan.boxes) == MOST == 8
    assert scan.boxes[0] == (12, 0, 18, 20)
    assert scan.regions.notes == ("not read: 2 regions beyond the 8 largest",)


def test_many_broken_regions_make_a_short_line(read):
    note, rest = read(region(0, 0, 40, 60), *[pydicom.Dataset()] * 100).regions.notes
    assert note.startswith("not read: region 2 is incomplete, region 3 is incomplete, ")
    assert note.endswith(", region 5 is incomplete and 59 more")  # 63 less the four named
    assert rest == "not read: regions after the first 64"


def test_regions_of_different_scales_have_none(read):
    scan = read(region(0, 0, 40, 60), region(50, 0, 40, 60, step_cm=0.02))
    assert (scan.spacing_mm, scan.regions.notes) == (None, ("no size in mm: the regions have different scales",))


# === The whole frame ===
@pytest.mark.parametrize(
    ("regions", "fault"),
    [
        ([], "no region is marked"),
        ([region(0, 0, 100, 60, format=3, data=3)], "region 1 is a Doppler spectrum"),
        ([region(0, 0, 100, 60, format=2)], "region 1 is an M-mode"),
        ([region(0, 0, 1, 1)], "region 1 is empty, inverted or smaller than 16 px"),
        ([region(50, 50, -20, -20)], "region 1 is empty, inverted or smaller than 16 px"),
        ([region(0, 0, 200, 120)], "region 1 is larger than the frame"),
        ([pydicom.Dataset()], "region 1 is incomplete"),
    ],
)
def test_frame_without_a_usable_region_is_whole_and_says_why(read, regions, fault):
    scan = read(*regions)
    assert (scan.boxes, scan.regions.boxes, scan.spacing_mm) == (((0, 0, 100, 60),), (), None)
    assert (scan.regions.fault, scan.regions.notes) == (fault, (f"{WHOLE} ({fault})",))


def test_names_that_the_file_says_are_burned_in_are_warned_of_where_they_are_shown(read):
    assert read(BurnedInAnnotation="YES").regions.notes == (
        f"{WHOLE} (no region is marked, BurnedInAnnotation is YES)",
    )
    assert read(region(0, 0, 40, 60), BurnedInAnnotation="YES").regions.notes == ()


def test_broken_scale_costs_the_scale_alone(read):
    for step in (float("nan"), 0.0):
        scan = read(region(0, 0, 40, 60, step_cm=step))
        assert (scan.boxes, scan.spacing_mm) == (((0, 0, 40, 60),), None)
