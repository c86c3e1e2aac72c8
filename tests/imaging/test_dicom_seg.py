import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from busseg import __version__
from busseg.imaging.dicom import read_dicom
from busseg.imaging.dicom_results import NOTICE, without_quotes
from busseg.imaging.dicom_seg import write_overlay, write_segmentation

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
highdicom = pytest.importorskip("highdicom", reason="needs busseg[dicom]")

SOURCES = (
    "examples_ybr_color.dcm", "examples_palette.dcm", "examples_rgb_color.dcm", "examples_jpeg2k.dcm",
    "ExplVR_BigEnd.dcm",
)  # fmt: skip


@pytest.mark.parametrize("error", [OSError("No tag to read at file position 42C"), EOFError(), KeyError("Muster^A")])
def test_any_error_of_a_broken_header_is_reported_without_its_words(error):
    with pytest.raises(ValueError, match=rf"^Expected a header .*, found another \({type(error).__name__}\): a\.dcm$"):  # noqa: SIM117
        with without_quotes("a.dcm"):
            raise error


def test_full_disk_is_no_fault_of_the_header():
    with pytest.raises(OSError, match="No space"), without_quotes("a.dcm"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def clip(tmp_path, write_scan):
    """A clip of five frames of 17 x 19 pixels, whose 323 pixels end within a byte, and one mask a frame."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 17, 19), np.uint8)
    path = write_scan(tmp_path / "clip.dcm", pixels, region=(1, 1, 18, 16), spacing_cm=(0.02, 0.01))
    return read_dicom(path), np.random.default_rng(1).integers(0, 2, (5, 17, 19), np.uint8)


def source_of(segmentation):
    return segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID


def read_back(path, frames):
    """Array `(frames, height, width)` of the numbers of the segments, by the references to the source's frames."""
    segmentation = highdicom.seg.segread(path)
    options = {"combine_segments": True, "assert_missing_frames_are_empty": True}
    if frames == 1:
        return segmentation.get_pixels_by_source_instance([source_of(segmentation)], **options)
    numbers = list(range(1, frames + 1))
    return segmentation.get_pixels_by_source_frame(source_of(segmentation), numbers, **options)


def code(item):
    return item.CodeValue, item.CodingSchemeDesignator


def complaints(path):
    """What the validator of dicom3tools calls an error."""
    if not shutil.which("dciodvfy"):
        pytest.skip("needs dciodvfy, of dicom3tools")
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith(("Error", "Abort"))]


# === Segmentation ===
def test_lesions_of_a_clip_come_back_frame_by_frame(tmp_path, clip):
    scan, masks = clip
    labels = ["malignant", "normal", "benign", "malignant", "normal"]
    write_segmentation(tmp_path / "seg.dcm", scan, masks, labels, "best")
    expected = masks * np.uint8([2, 0, 1, 2, 0])[:, None, None]  # benign is segment 1, malignant 2
    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", frames=5), expected)
    assert highdicom.seg.segread(tmp_path / "seg.dcm").NumberOfFrames == 3
    assert complaints(tmp_path / "seg.dcm") == []


def test_lesion_of_a_single_image_comes_back(tmp_path, write_scan):
    mask = np.uint8([[0, 1, 1], [1, 0, 0]])
    scan = read_dicom(write_scan(tmp_path / "a.dcm", 100 * mask))
    write_segmentation(tmp_path / "seg.dcm", scan, [mask], ["malignant"], "best")
    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", frames=1), [mask])
    assert complaints(tmp_path / "seg.dcm") == []


def test_segmentation_names_the_lesions_the_model_and_the_place(tmp_path, clip):
    scan, masks = clip
    write_segmentation(tmp_path / "seg.dcm", scan, masks, ["malignant", *["benign"] * 4], "best", "Look here")
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert segmentation.ContentDescription == NOTICE
    for number, label, modifier in ((1, "benign", "30807003"), (2, "malignant", "21594007")):
        segment = segmentation.get_segment_description(number)
        assert (segment.segment_label, segment.SegmentDescription) == (label, "Look here")
        assert code(segment.segmented_property_category) == ("49755003", "SCT")  # morphologically abnormal structure
        kind = segment.segmented_property_type
        assert code(kind) == ("52988006", "SCT")  # lesion
        assert code(kind.SegmentedPropertyTypeModifierCodeSequence[0]) == (modifier, "SCT")
        assert code(segment.anatomic_regions[0]) == ("76752008", "SCT")  # breast
        algorithm = segment.algorithm_identification
        assert (algorithm.name, algorithm.version, code(algorithm.family)) == ("busseg", __version__, ("123110", "DCM"))
        assert algorithm.parameters == {"model": "best"}
    source = pydicom.dcmread(scan.path)
    (series,) = segmentation.ReferencedSeriesSequence
    assert (series.SeriesInstanceUID, source_of(segmentation)) == (source.SeriesInstanceUID, source.SOPInstanceUID)
    references = {item.value for item in segmentation.iterall() if item.keyword == "ReferencedSOPClassUID"}
    assert references == {source.SOPClassUID}


@pytest.mark.parametrize("labels", [["normal"] * 5, ["normal", "benign", "normal", "normal", "normal"]])
def test_scan_without_a_lesion_has_an_empty_segment(tmp_path, clip, labels):
    scan, masks = clip
    write_segmentation(tmp_path / "seg.dcm", scan, 0 * masks, labels, "best")
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert segmentation.number_of_segments == 1
    assert not read_back(tmp_path / "seg.dcm", frames=5).any()
    assert complaints(tmp_path / "seg.dcm") == []


def test_patient_and_study_are_those_of_the_source(tmp_path, clip, patient):
    scan, masks = clip
    write_segmentation(tmp_path / "seg.dcm", scan, masks, ["benign"] * 5, "best")
    write_overlay(tmp_path / "overlay.dcm", scan, 2, np.zeros((17, 19, 3), np.uint8), "run")
    source = pydicom.dcmread(scan.path)
    for name in ("seg.dcm", "overlay.dcm"):
        result = pydicom.dcmread(tmp_path / name)
        assert {keyword: str(result.get(keyword)) for keyword in patient} == patient
        for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "PatientSex"):
            assert result.get(keyword) == source.get(keyword)
        assert result.SOPInstanceUID != source.SOPInstanceUID
        assert result.SeriesInstanceUID != source.SeriesInstanceUID


def test_anonymous_scan_without_any_patient_is_segmented(tmp_path, clip, patient):
    scan, masks = clip
    source = pydicom.dcmread(scan.path)
    for keyword in (*patient, "PatientSex", "StudyID", "StudyDate", "StudyTime", "SpecificCharacterSet"):
        delattr(source, keyword)
    source.save_as(scan.path)
    write_segmentation(tmp_path / "seg.dcm", scan, masks, ["benign"] * 5, "best")
    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", frames=5), masks)
    assert complaints(tmp_path / "seg.dcm") == []


def test_name_of_a_model_may_be_anything(tmp_path, clip):
    scan, masks = clip
    write_segmentation(tmp_path / "seg.dcm", scan, masks, ["benign"] * 5, "größe\\2 " + 80 * "x")
    algorithm = highdicom.seg.segread(tmp_path / "seg.dcm").get_segment_description(1).algorithm_identification
    assert algorithm.parameters["model"] == "gr__e_2 " + 56 * "x"  # 64 characters without a separator
    assert complaints(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("name", SOURCES)
def test_scans_in_pydicoms_own_package_are_segmented_in_place(tmp_path, name):
    scan = read_dicom(Path(pydicom.__file__).parent / "data/test_files" / name)
    labels = (["malignant", "benign", "normal"] * 10)[: scan.frame_count]
    masks = np.random.default_rng(0).integers(0, 2, (scan.frame_count, *scan.shape), np.uint8)
    write_segmentation(tmp_path / "seg.dcm", scan, iter(masks), labels, "best")
    numbers = {"malignant": len(set(labels) - {"normal"}), "benign": 1, "normal": 0}
    expected = masks * np.uint8([numbers[label] for label in labels])[:, None, None]
    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", scan.frame_count), expected)
    assert complaints(tmp_path / "seg.dcm") == []
    write_overlay(tmp_path / "overlay.dcm", scan, 1, np.zeros((*scan.shape, 3), np.uint8), "run")
    assert complaints(tmp_path / "overlay.dcm") == []


@pytest.mark.parametrize("kind", ["1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3"])
def test_retired_ultrasound_is_segmented(tmp_path, write_scan, kind):
    mask = np.uint8([[0, 1, 1], [1, 0, 0]])
    scan = read_dicom(write_scan(tmp_path / "a.dcm", 100 * mask, SOPClassUID=kind))
    write_segmentation(tmp_path / "seg.dcm", scan, [mask], ["malignant"], "best")
    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", frames=1), [mask])
    assert complaints(tmp_path / "seg.dcm") == []


# === Plane and scale, which viewers want ===
def test_plane_and_scale_are_those_of_the_scan(tmp_path, clip):
    scan, masks = clip
    write_segmentation(tmp_path / "seg.dcm", scan, masks, ["normal", "benign", "normal", "benign", "normal"], "best")
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    (shared,) = segmentation.SharedFunctionalGroupsSequence
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.1, 0.2]  # from row to row, from column to column
    positions = [
        frame.PlanePositionSequence[0].ImagePositionPatient for frame in segmentation.PerFrameFunctionalGroupsSequence
    ]
    assert positions == [[0, 0, 1], [0, 0, 3]]  # frames 2 and 4
    assert segmentation.FrameOfReferenceUID != pydicom.dcmread(scan.path).get("FrameOfReferenceUID")
    assert "SegmentDescription" not in segmentation.SegmentSequence[0]


def test_scale_that_the_scan_lacks_is_assumed_and_says_so_or_is_left_out(tmp_path, write_scan):
    mask = np.uint8([[0, 1, 1], [1, 0, 0]])
    scan = read_dicom(write_scan(tmp_path / "a.dcm", 100 * mask))
    write_segmentation(tmp_path / "made-up.dcm", scan, [mask], ["benign"], "best", "Look here")
    write_segmentation(tmp_path / "without.dcm", scan, [mask], ["benign"], "best", "Look here", assumed_mm=None)
    made_up, without = (pydicom.dcmread(tmp_path / f"{name}.dcm") for name in ("made-up", "without"))
    assert made_up.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [1, 1]
    (segment,) = made_up.SegmentSequence
    assert segment.SegmentDescription == "Look here. The scan states no scale: 1 mm a pixel is assumed"
    assert without.SegmentSequence[0].SegmentDescription == "Look here"
    keywords = {element.keyword for element in without.iterall()}
    assert not keywords & {"PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "FrameOfReferenceUID"}
    assert complaints(tmp_path / "made-up.dcm") == complaints(tmp_path / "without.dcm") == []


def test_scale_of_many_digits_is_written_in_the_sixteen_letters_of_dicom(tmp_path, write_scan):
    pixels = np.zeros((20, 20), np.uint8)
    scan = read_dicom(write_scan(tmp_path / "a.dcm", pixels, (0, 0, 20, 20), (1 / 300, 1 / 7000)))
    write_segmentation(tmp_path / "seg.dcm", scan, [pixels], ["benign"], "best")
    (shared,) = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence
    assert shared.PixelMeasuresSequence[0].PixelSpacing == pytest.approx([10 / 7000, 10 / 300], rel=1e-9)
    assert complaints(tmp_path / "seg.dcm") == []


# === Overlays ===
def test_overlay_is_an_image_that_refers_to_its_frame(tmp_path, clip):
    scan, _ = clip
    overlay = np.random.default_rng(0).integers(0, 256, (21, 19, 3), np.uint8)
    for number, run in ((2, "first"), (3, "first"), (3, "second")):
        write_overlay(tmp_path / f"{number}-{run}.dcm", scan, number, overlay, run)
    second, third, again = (pydicom.dcmread(tmp_path / f"{name}.dcm") for name in ("2-first", "3-first", "3-second"))
    np.testing.assert_array_equal(second.pixel_array, overlay)
    (reference,) = second.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == pydicom.dcmread(scan.path).SOPInstanceUID
    assert (reference.ReferencedFrameNumber, second.InstanceNumber) == (2, 2)
    assert (second.SOPClassUID.name, second.BurnedInAnnotation) == ("Secondary Capture Image Storage", "YES")
    assert second.SeriesInstanceUID == third.SeriesInstanceUID != again.SeriesInstanceUID
    assert len({second.SOPInstanceUID, third.SOPInstanceUID, again.SOPInstanceUID}) == 3
    assert complaints(tmp_path / "2-first.dcm") == []


# === Refusing ===
def test_missing_highdicom_names_the_extra(tmp_path, clip, monkeypatch):
    scan, masks = clip
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r'^Expected highdicom .* pip install "busseg\[dicom\]": .*clip\.dcm$'):
        write_segmentation(tmp_path / "seg.dcm", scan, masks, ["benign"] * 5, "best")


def test_masks_that_are_too_few_leave_no_file(tmp_path, clip):
    scan, masks = clip
    with pytest.raises(ValueError, match="longer than"):
        write_segmentation(tmp_path / "seg.dcm", scan, masks[:4], ["benign"] * 5, "best")
    assert not (tmp_path / "seg.dcm").exists()


WRITE = """
import logging, sys
logging.basicConfig(level=0)
import numpy as np
from busseg.imaging.dicom import read_dicom
from busseg.imaging.dicom_seg import write_overlay, write_segmentation
from busseg.imaging.dicom_sr import write_report
from busseg.imaging.findings import Finding
from busseg.imaging.lesions import find_lesions
scan = read_dicom(sys.argv[1])
lesions = find_lesions(np.ones(scan.shape, np.uint8))
findings = [Finding("benign", {"benign": 0.7, "malignant": 0.3}, lesions, number=number) for number in range(1, 6)]
write_segmentation("seg.dcm", scan, [np.ones(scan.shape, np.uint8)] * 5, ["benign"] * 5, "best")
write_report("sr.dcm", scan, "seg.dcm", findings, "best")
write_overlay("overlay.dcm", scan, 1, np.zeros((*scan.shape, 3), np.uint8), "run")
"""


def test_nothing_of_a_patient_is_printed_or_logged_even_of_broken_values(tmp_path, clip, patient):
    scan, _ = clip
    # Values that pydicom and highdicom warn of, and quote: dates, a sex and a name that are none.
    broken = scan.path.read_bytes().replace(b"19531224", b"Xmas1953").replace(b"Muster^", b"M=u=s=t")
    broken = broken.replace(b"PN\x0b\x00Koch^Robert", b"PN\x0b\x00Koch Robert").replace(
        b"CS\x02\x00F ", b"CS\x02\x00Qx"
    )
    scan.path.write_bytes(broken)
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", WRITE, scan.path], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("seg.dcm", "sr.dcm"):
        assert pydicom.dcmread(tmp_path / name).PatientBirthDate == "Xmas1953"
    assert done.stdout == ""
    for secret in ("Xmas", "M=u", "Koch", "'Qx'", "delheid", *patient.values()):
        assert secret not in done.stderr
