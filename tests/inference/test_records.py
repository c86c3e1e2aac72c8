import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from busseg.data.sample import CLASSES
from busseg.data.task import Task
from busseg.imaging.dicom import Scan, Uids
from busseg.imaging.dicom_regions import Regions
from busseg.imaging.findings import NOT_REPORTED
from busseg.inference.frames import Frame
from busseg.inference.prediction import Prediction
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.inference.records import add_warning, facts, failure, fields, is_out_of_distribution, to_line, to_row

FRAME = Frame(Path("scan.dcm"), Path("scan_frame002"), 2)
UIDS = {"study_instance_uid": "1.2", "series_instance_uid": "1.2.3", "sop_instance_uid": "1.2.3.4"}
SCAN = Scan(Path("scan.dcm"), 3, (2, 4), Regions(((0, 0, 4, 2),), (0.5, 0.25)), uids=Uids(*UIDS.values()))


@pytest.fixture
def prediction():
    """Two of eight pixels are lesion, each 0.5 mm high and 0.25 mm wide."""
    mask = np.uint8([[0, 0, 0, 0], [0, 0, 1, 1]])
    return Prediction(
        "benign", np.float32([0.1, 0.7, 0.2]), mask, np.float32(mask), uncertainty=0.25, ood_score=1.5,
        spacing_mm=(0.5, 0.25), malignant=True, sensitivity=0.95, regions=((0, 0, 4, 2),),
    )  # fmt: skip


def test_row_line_and_facts_have_the_same_values(prediction):
    expected = {
        "label": "benign", "probabilities": {"normal": 0.1, "benign": 0.7, "malignant": 0.2},
        "regions": ((0, 0, 4, 2),), "lesion_px": 2, "lesion_fraction": 0.25,  # 2 / 8
        "lesion_mm2": 0.25, "lesion_mm": 0.25, "lesion_across_mm": 0,  # 2 * 0.5 * 0.25; from one pixel to the next
        "uncertainty": 0.25, "ood_score": 1.5, "box": (2, 1, 2, 1), "contours": [[[2, 1], [4, 1], [4, 2], [2, 2]]],
        "lesions": [{"area_px": 2, "area_mm2": 0.25, "diameters_px": [1, 0], "diameters_mm": [0.25, 0],
                     "box": (2, 1, 2, 1), "center": [2.5, 1]}],
        "report": NOT_REPORTED, "malignant_at_0.95": True, "warning": OUT_OF_DISTRIBUTION,
    }  # fmt: skip
    assert facts(prediction, CLASSES) == expected
    prediction = replace(prediction, uids=SCAN.uids)
    line = {"file": "scan.dcm", "frame": 2} | UIDS | json.loads(json.dumps(expected))
    assert json.loads(to_line(FRAME, prediction, Task.ULTRASOUND)) == line
    row = to_row(FRAME, prediction, Task.ULTRASOUND)
    assert tuple(row) == fields(Task.ULTRASOUND, sensitivity=0.95)
    assert row == {
        "file": "scan.dcm", "frame": 2, "regions": 1, "label": "benign", "malignant_at_0.95": True,
        "p_normal": "0.100000", "p_benign": "0.700000", "p_malignant": "0.200000",
        "lesion_px": 2, "lesion_fraction": "0.250000", "lesion_mm2": "0.25", "lesion_mm": "0.25",
        "lesion_across_mm": "0.00", **UIDS,
        "uncertainty": "0.250000", "ood_score": "1.500000", "warning": OUT_OF_DISTRIBUTION, "error": "",
    }  # fmt: skip


def test_histology_has_no_lesion_in_row_and_line():
    prediction = Prediction("benign", np.float32([0.75, 0.25]))
    row = to_row(Frame(Path("slide.png"), Path("slide")), prediction, Task.HISTOLOGY)
    assert row == {
        "file": "slide.png", "label": "benign", "p_benign": "0.750000", "p_malignant": "0.250000", "warning": "",
        "error": "",
    }  # fmt: skip
    assert json.loads(to_line(Frame(Path("slide.png"), Path("slide")), prediction, Task.HISTOLOGY)) == {
        "file": "slide.png", "label": "benign", "probabilities": {"benign": 0.75, "malignant": 0.25}, "warning": None,
    }  # fmt: skip


def test_failure_has_its_error_in_row_and_line():
    row, line = failure(FRAME, ValueError("no pixels"), Task.ULTRASOUND)
    assert tuple(row) == fields(Task.ULTRASOUND)
    assert {name: value for name, value in row.items() if value} == json.loads(line)
    assert json.loads(line) == {"file": "scan.dcm", "frame": 2, "error": "no pixels"}


def test_failure_of_a_scan_has_its_identifiers():
    row, line = failure(replace(FRAME, scan=SCAN), "no pixels", Task.ULTRASOUND)
    assert UIDS.items() <= row.items()
    assert UIDS.items() <= json.loads(line).items()


def test_image_that_is_no_dicom_has_empty_identifiers(prediction):
    row = to_row(Frame(Path("a.png"), Path("a")), prediction, Task.ULTRASOUND)
    assert {name: row[name] for name in UIDS} == dict.fromkeys(UIDS, "")


def rows(*scores, warning="", error=""):
    return [{"ood_score": score, "warning": warning, "error": error} for score in scores]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (rows("0.5", "1.5", "1.6"), True),  # the median is 1.5
        (rows("0.5", "0.9", "1.6"), False),  # 0.9
        (rows("0.5") + rows("9.0", "9.0", error="no pixels"), False),  # those with an error do not count
        (rows("", "", warning=OUT_OF_DISTRIBUTION), True),  # each warns by itself
        (rows("", ""), False),
        ([], False),
    ],
)
def test_file_is_out_of_distribution_by_its_median_or_all_its_frames(frames, expected):
    assert is_out_of_distribution(frames) is expected


@pytest.mark.parametrize("line", ['{"warning": "very dark"}\n', None])
def test_warning_is_added_to_row_and_line(line):
    row, changed = add_warning({"file": "a.png", "warning": "very dark"}, line)
    expected = f"{OUT_OF_DISTRIBUTION}; very dark"
    report = {"report": NOT_REPORTED}
    assert row == {"file": "a.png", "warning": expected}
    assert changed == (line and json.dumps({"warning": expected, **report}) + "\n")
