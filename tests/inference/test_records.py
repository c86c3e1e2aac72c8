import json
from pathlib import Path

import numpy as np
import pytest

from busseg.data.sample import CLASSES
from busseg.inference.frames import Frame
from busseg.inference.predictor import OUT_OF_DISTRIBUTION, Prediction
from busseg.inference.records import add_warning, facts, failure, fields, is_out_of_distribution, to_line, to_row

FRAME = Frame(Path("scan.dcm"), Path("scan_frame002"), 2)


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
        "lesion_mm2": 0.25, "lesion_mm": 0.25,  # 2 * 0.5 * 0.25; from one pixel to the next
        "uncertainty": 0.25, "ood_score": 1.5, "box": (2, 1, 2, 1), "contours": [[[2, 1], [4, 1], [4, 2], [2, 2]]],
        "malignant_at_0.95": True, "warning": OUT_OF_DISTRIBUTION,
    }  # fmt: skip
    assert facts(prediction, CLASSES) == expected
    line = {"file": "scan.dcm", "frame": 2} | json.loads(json.dumps(expected))
    assert json.loads(to_line(FRAME, prediction, "ultrasound")) == line
    row = to_row(FRAME, prediction, "ultrasound")
    assert tuple(row) == fields("ultrasound", sensitivity=0.95)
    assert row == {
        "file": "scan.dcm", "frame": 2, "regions": 1, "label": "benign", "malignant_at_0.95": True,
        "p_normal": "0.100000", "p_benign": "0.700000", "p_malignant": "0.200000",
        "lesion_px": 2, "lesion_fraction": "0.250000", "lesion_mm2": "0.25", "lesion_mm": "0.25",
        "uncertainty": "0.250000", "ood_score": "1.500000", "warning": OUT_OF_DISTRIBUTION, "error": "",
    }  # fmt: skip


def test_histology_has_no_lesion_in_row_and_line():
    prediction = Prediction("benign", np.float32([0.75, 0.25]))
    row = to_row(Frame(Path("slide.png"), Path("slide")), prediction, "histology")
    assert row == {
        "file": "slide.png", "label": "benign", "p_benign": "0.750000", "p_malignant": "0.250000", "warning": "",
        "error": "",
    }  # fmt: skip
    assert json.loads(to_line(Frame(Path("slide.png"), Path("slide")), prediction, "histology")) == {
        "file": "slide.png", "label": "benign", "probabilities": {"benign": 0.75, "malignant": 0.25}, "warning": None,
    }  # fmt: skip


def test_failure_has_its_error_in_row_and_line():
    row, line = failure(FRAME, ValueError("no pixels"), "ultrasound")
    assert tuple(row) == fields("ultrasound")
    assert {name: value for name, value in row.items() if value} == json.loads(line)
    assert json.loads(line) == {"file": "scan.dcm", "frame": 2, "error": "no pixels"}


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
    assert row == {"file": "a.png", "warning": expected}
    assert changed == (line and json.dumps({"warning": expected}) + "\n")
