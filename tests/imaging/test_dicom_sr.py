import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from busseg import __version__
from busseg.imaging.dicom import read_dicom
from busseg.imaging.dicom_results import NOTICE
from busseg.imaging.dicom_seg import write_segmentation
from busseg.imaging.dicom_sr import write_report
from busseg.imaging.findings import Finding, describe
from busseg.imaging.lesions import find_lesions

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
highdicom = pytest.importorskip("highdicom", reason="needs busseg[dicom]")

SHAPE = (60, 80)
REGION, SPACING_CM = (2, 2, 70, 50), (0.02, 0.01)  # a pixel is 0.2 mm wide and 0.1 mm high
PROBABILITIES = {"normal": 0.05, "benign": 0.2, "malignant": 0.75}
SHA256 = "ab" * 32
NORMAL, BENIGN, MALIGNANT = ("17621005", "SCT"), ("30807003", "SCT"), ("21594007", "SCT")
ABSENT = ("272519000", "SCT")
ONE = [(10, 20, 5, 4)]  # left, top, width, height
TWO = [*ONE, (40, 30, 2, 3)]


def mask_of(*rectangles):
    mask = np.zeros(SHAPE, np.uint8)
    for left, top, width, height in rectangles:
        mask[top : top + height, left : left + width] = 1
    return mask


@pytest.fixture
def report(tmp_path, write_scan):
    """Function that writes and reads a report of frames `(label, rectangles, in_distribution)`: `(report, scan)`."""

    def write(*frames, spacing_cm=SPACING_CM, region=REGION, **attributes):
        masks = [mask_of(*rectangles) for _, rectangles, _ in frames]
        clip = len(frames) > 1
        pixels = np.zeros((len(frames), *SHAPE), np.uint8) if clip else np.zeros(SHAPE, np.uint8)
        scan = read_dicom(write_scan(tmp_path / "a.dcm", pixels, region, spacing_cm, **attributes))
        write_segmentation(tmp_path / "a_seg.dcm", scan, masks, [label for label, _, _ in frames], "best")
        findings = (
            Finding(
                label, PROBABILITIES, () if label == "normal" else find_lesions(mask, scan.spacing_mm), known,
                number if clip else None,
            )
            for number, (mask, (label, _, known)) in enumerate(zip(masks, frames), start=1)
        )  # fmt: skip
        write_report(tmp_path / "a_sr.dcm", scan, tmp_path / "a_seg.dcm", findings, "best", SHA256)
        assert complaints(tmp_path / "a_sr.dcm") == []
        return highdicom.sr.srread(tmp_path / "a_sr.dcm"), scan

    return write


def complaints(path):
    """What the validator of dicom3tools calls an error; [] where it is not installed."""
    if not shutil.which("dciodvfy"):
        return []
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith(("Error", "Abort"))]


def code(item):
    return item.value, item.scheme_designator


def measured(group):
    """Dict from the meaning of each measurement to `(value, unit)`."""
    return {item.name.meaning: (item.value, item.unit.value) for item in group.get_measurements()}


def evaluated(group):
    """Dict from the meaning of each qualitative evaluation to its code."""
    return {item.name.meaning: code(item.value) for item in group.get_qualitative_evaluations()}


def comments(document):
    texts = [item for item in document.content[0].ContentSequence if item.ValueType == "TEXT"]
    return [item.value for item in texts if code(item.name) == ("121106", "DCM")]


# === Lesions ===
def test_lesion_has_its_sizes_in_mm_its_class_and_its_outline(report):
    document, _ = report(("malignant", ONE, True))
    (group,) = document.content.get_planar_roi_measurement_groups()
    # 5 by 4 pixels of 0.2 mm by 0.1 mm: 4 mm2 / 10. Between the centres of pixels 0.8 mm by 0.3 mm: the diagonal is
    # 0.8544 mm, and across it 2 * 0.8 * 0.3 / 0.8544 = 0.5618 mm.
    assert measured(group) == {
        "Area": (0.4, "mm2"), "Long axis": (0.85, "mm"), "Short axis": (0.56, "mm"),
        "Certainty of Impression": (75, "%"), "Probability of cancer": (75, "%"),
    }  # fmt: skip
    assert evaluated(group)["Impression"] == MALIGNANT
    assert code(group.finding_type) == ("52988006", "SCT")  # lesion
    assert code(group.finding_category) == ("49755003", "SCT")  # morphologically abnormal structure
    assert [code(site.value) for site in group.finding_sites] == [("76752008", "SCT")]  # breast
    outline = group.roi.value
    assert sorted(map(tuple, outline[:-1])) == [(10, 20), (10, 24), (15, 20), (15, 24)]
    np.testing.assert_array_equal(outline[0], outline[-1])  # closed


def test_sizes_without_a_scale_are_in_pixels(report):
    document, _ = report(("benign", ONE, True), spacing_cm=None)
    (group,) = document.content.get_planar_roi_measurement_groups()
    sizes = measured(group)
    assert (sizes["Area"], sizes["Long axis"]) == ((20, "{pixels}"), (5, "{pixels}"))  # sqrt(4^2 + 3^2)
    assert sizes["Short axis"] == (4.8, "{pixels}")  # 2 * 4 * 3 / 5
    assert (sizes["Certainty of Impression"], sizes["Probability of cancer"]) == ((20, "%"), (75, "%"))
    assert evaluated(group)["Impression"] == BENIGN


def test_two_lesions_have_two_groups_the_larger_first(report):
    document, _ = report(("malignant", TWO, True))
    groups = document.content.get_planar_roi_measurement_groups()
    assert [measured(group)["Area"][0] for group in groups] == [0.4, 0.12]  # 20 and 6 pixels of 0.02 mm2
    assert [group.tracking_identifier for group in groups] == ["Image, lesion 1", "Image, lesion 2"]
    assert len({group.tracking_uid for group in groups}) == 2
    assert [tuple(group.roi.value.min(axis=0)) for group in groups] == [(10, 20), (40, 30)]


def test_groups_reference_their_frame_and_its_frame_of_the_segmentation(report, tmp_path):
    document, scan = report(("normal", [], True), ("malignant", ONE, True), ("normal", [], True), ("benign", TWO, True))
    source = pydicom.dcmread(scan.path)
    segmentation = pydicom.dcmread(tmp_path / "a_seg.dcm")
    groups = document.content.get_planar_roi_measurement_groups()
    found = []
    for group in groups:
        (image,) = group.roi.ContentSequence
        (marked,) = [item for item in group[0].ContentSequence if item.ValueType == "IMAGE"]
        assert image.value == (source.SOPClassUID, source.SOPInstanceUID)
        assert marked.value == (segmentation.SOPClassUID, segmentation.SOPInstanceUID)
        assert code(marked.name) == ("121112", "DCM")  # source of measurement
        found.append((image.referenced_frame_numbers, marked.referenced_frame_numbers))
    assert found == [([2], [1]), ([4], [2]), ([4], [2])]
    assert {entry[2] for entry in document.get_evidence()} == {source.SOPInstanceUID, segmentation.SOPInstanceUID}


# === Frames without lesions ===
def test_no_lesion_is_said(report):
    document, scan = report(("normal", ONE, True))  # the mask of a normal frame does not count, as in the SEG
    assert document.content.get_planar_roi_measurement_groups() == []
    (group,) = document.content.get_image_measurement_groups()
    assert evaluated(group) == {"Lesion": ABSENT, "Impression": NORMAL}
    assert measured(group) == {"Certainty of Impression": (5, "%"), "Probability of cancer": (75, "%")}
    (image,) = group.source_images
    assert image.value[1] == pydicom.dcmread(scan.path).SOPInstanceUID
    assert image.referenced_frame_numbers is None
    assert comments(document)[1].startswith("Image: No lesion found. ")


def test_class_without_a_marked_pixel_is_reported_without_a_lesion(report):
    document, _ = report(("malignant", [], True))
    (group,) = document.content.get_image_measurement_groups()
    assert evaluated(group) == {"Impression": MALIGNANT}  # neither present nor absent


def test_frame_that_is_not_like_breast_ultrasound_has_no_finding(report):
    document, _ = report(("benign", ONE, True), ("malignant", ONE, False))
    (lesion,) = document.content.get_planar_roi_measurement_groups()
    assert lesion.tracking_identifier == "Frame 1, lesion 1"
    (group,) = document.content.get_image_measurement_groups()
    assert evaluated(group) == {"Image Quality": ("not-breast-ultrasound", "99BUSSEG")}
    assert group.get_measurements() == []
    assert group.source_images[0].referenced_frame_numbers == [2]
    assert comments(document)[2] == "Frame 2: Not like breast ultrasound: no finding is reported."


# === The document ===
def test_report_is_unverified_names_the_model_and_has_the_text_of_its_findings(report):
    document, scan = report(("malignant", ONE, True))
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert (document.PreliminaryFlag, document.CompletionFlagDescription) == ("PRELIMINARY", NOTICE)
    assert (document.SOPClassUID.name, document.Manufacturer) == ("Comprehensive SR Storage", "busseg")
    lesions = find_lesions(mask_of(*ONE), scan.spacing_mm)
    text = describe(Finding("malignant", PROBABILITIES, lesions)).replace("²", "2")
    assert comments(document) == [f"{NOTICE}.", f"Image: {text}"]
    texts = [item.value for item in document.iterall() if item.keyword == "TextValue"]
    assert {"busseg", __version__, "model=best", f"sha256={SHA256}"} <= set(texts)


def test_patient_and_study_are_those_of_the_source(report, patient):
    document, scan = report(("malignant", ONE, True))
    source = pydicom.dcmread(scan.path)
    assert {keyword: str(document.get(keyword)) for keyword in patient} == patient
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "PatientSex"):
        assert document.get(keyword) == source.get(keyword)
    assert document.SeriesInstanceUID != source.SeriesInstanceUID


def test_scan_without_a_patient_is_reported(report):
    attributes = dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"))
    document, _ = report(("benign", ONE, True), SpecificCharacterSet=None, **attributes)
    assert len(document.content.get_planar_roi_measurement_groups()) == 1


@pytest.mark.parametrize("kind", ["1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3"])
def test_retired_ultrasound_is_referenced_by_its_own_class(report, kind):
    document, _ = report(("benign", ONE, True), SOPClassUID=kind)
    found = {item.value for item in document.iterall() if item.keyword == "ReferencedSOPClassUID"}
    assert found == {kind, pydicom.uid.SegmentationStorage}


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "examples_jpeg2k.dcm", "examples_palette.dcm"])
def test_scans_in_pydicoms_own_package_are_reported(tmp_path, name):
    scan = read_dicom(Path(pydicom.__file__).parent / "data/test_files" / name)
    mask = np.zeros(scan.shape, np.uint8)
    mask[50:90, 60:120] = 1
    labels = (["malignant", "normal"] * 15)[: scan.frame_count]
    write_segmentation(tmp_path / "seg.dcm", scan, [mask] * len(labels), labels, "best")
    findings = [
        Finding(
            label, PROBABILITIES, () if label == "normal" else find_lesions(mask, scan.spacing_mm),
            number=number if len(labels) > 1 else None,
        )
        for number, label in enumerate(labels, start=1)
    ]  # fmt: skip
    write_report(tmp_path / "sr.dcm", scan, tmp_path / "seg.dcm", findings, "größe")
    document = highdicom.sr.srread(tmp_path / "sr.dcm")
    assert len(document.content.get_planar_roi_measurement_groups()) == labels.count("malignant")
    assert complaints(tmp_path / "sr.dcm") == []


def test_missing_highdicom_names_the_extra(tmp_path, write_scan, monkeypatch):
    scan = read_dicom(write_scan(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8)))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r'^Expected highdicom .* pip install "busseg\[dicom\]": .*a\.dcm$'):
        write_report(tmp_path / "sr.dcm", scan, tmp_path / "seg.dcm", [], "best")


@pytest.mark.slow
def test_dcmqi_reads_the_measurements(report, tmp_path):
    if not shutil.which("tid1500reader"):
        pytest.skip("needs dcmqi, whose tid1500reader is found in no folder of PATH")
    report(("malignant", TWO, True), ("normal", [], True))
    command = ["tid1500reader", "--inputDICOM", tmp_path / "a_sr.dcm", "--outputMetadata", tmp_path / "sr.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert [group["TrackingIdentifier"] for group in groups] == [
        "Frame 1, lesion 1", "Frame 1, lesion 2", "Frame 2",
    ]  # fmt: skip
    items = [(item["quantity"]["CodeMeaning"], item["value"]) for item in groups[0]["measurementItems"]]
    assert items[:3] == [("Area", "0.4"), ("Long axis", "0.85"), ("Short axis", "0.56")]
