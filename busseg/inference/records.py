"""What a `Prediction` becomes outside of Python: a CSV row, a JSON line, and facts for JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from busseg.data.sample import THRESHOLD
from busseg.data.task import Task
from busseg.imaging.dicom import Uids
from busseg.imaging.findings import NOT_REPORTED, describe
from busseg.inference.frames import Frame
from busseg.inference.quality import OUT_OF_DISTRIBUTION

if TYPE_CHECKING:
    from busseg.inference.prediction import Prediction

_DIGITS = {  # decimals
    "lesion_fraction": 6, "lesion_mm2": 2, "lesion_mm": 2, "lesion_across_mm": 2, "uncertainty": 6, "ood_score": 6,
}  # fmt: skip


def fields(task: Task, sensitivity: float | None = None, threshold: float = THRESHOLD) -> tuple[str, ...]:
    """Columns of `predictions.csv` for a task, with or without a sensitivity.

    A threshold other than `THRESHOLD` has a column, so that `resume` cannot mix masks of two thresholds.
    """
    decision = () if sensitivity is None else (decision_column(sensitivity),)
    probabilities = (f"p_{label}" for label in task.classes)
    return (
        "file",
        *(("frame", "regions") if task.has_mask else ()),
        "label",
        *decision,
        *probabilities,
        *(("lesion_px", *_DIGITS, *Uids._fields) if task.has_mask else ()),
        *(("threshold",) if threshold != THRESHOLD else ()),
        "warning",
        "error",
    )


def decision_column(sensitivity: float) -> str:
    """Name of the column that says whether an image counts as malignant, such as `malignant_at_0.95`.

    The name contains the sensitivity, so `resume` cannot mix two sensitivities in one table.
    """
    return f"malignant_at_{sensitivity:g}"


def facts(prediction: "Prediction", classes: Sequence[str]) -> dict:
    """A prediction as a dict for JSON, rounded.

    Args:
        prediction: A `Prediction`.
        classes: Names of the classes, in the order of its probabilities.

    Returns:
        Dict with `label` and `probabilities` (class to number); for ultrasound `regions`, `lesion_px`,
        `lesion_fraction`, `lesion_mm2`, `lesion_mm`, `lesion_across_mm`, `uncertainty`, `ood_score`, `box` (left, top,
        width, height in pixels), `contours` (polygons along pixel edges, lists of x, y; see `Prediction.contours`),
        `lesions` (see `_measures`) and `report` (see `describe`); `threshold`, unless it is `THRESHOLD`; the
        `decision_column`, if a sensitivity was asked for; and `warning`. A value that the `Prediction` lacks is None.
    """
    values: dict[str, object] = {
        "label": prediction.label,
        "probabilities": {name: round(float(p), 6) for name, p in zip(classes, prediction.probabilities)},
    }
    if (finding := prediction.finding) is not None:
        numbers = {name: getattr(prediction, name) for name in _DIGITS}
        values |= {
            "regions": prediction.regions,
            "lesion_px": prediction.lesion_px,
            **{name: None if x is None else round(float(x), _DIGITS[name]) for name, x in numbers.items()},
            "box": prediction.box,
            "contours": [outline.tolist() for outline in prediction.contours or ()],
            "lesions": [_measures(lesion) for lesion in finding.lesions],
            "report": describe(finding),
        }
    if prediction.threshold != THRESHOLD:
        values["threshold"] = prediction.threshold
    if prediction.sensitivity is not None and prediction.malignant is not None:
        values[decision_column(prediction.sensitivity)] = prediction.malignant
    return values | {"warning": prediction.warning}


def _measures(lesion):
    """The measurements of a `Lesion` as a dict for JSON, rounded; those in mm are None without a scale."""
    mm2, diameters_mm = lesion.area_mm2, lesion.diameters_mm
    return {
        "area_px": lesion.area_px,
        "area_mm2": None if mm2 is None else round(mm2, 2),
        "diameters_px": [round(length, 2) for length in lesion.diameters_px],
        "diameters_mm": None if diameters_mm is None else [round(length, 2) for length in diameters_mm],
        "box": lesion.box,
        "center": [round(place, 2) for place in lesion.center],
    }


def to_row(frame: Frame, prediction: "Prediction", task: Task) -> dict:
    """The CSV row of a prediction: a dict with `fields`, "" where there is no value."""
    row: dict[str, object] = dict.fromkeys(fields(task, prediction.sensitivity, prediction.threshold), "")
    row |= {"file": str(frame.path), "label": prediction.label, "warning": prediction.warning or ""}
    row |= {f"p_{label}": f"{p:.6f}" for label, p in zip(task.classes, prediction.probabilities)}
    if prediction.mask is not None:
        row |= {"frame": frame.number or "", "lesion_px": prediction.lesion_px, **prediction.uids._asdict()}
        row["regions"] = "" if prediction.regions is None else len(prediction.regions)
        numbers = {name: getattr(prediction, name) for name in _DIGITS}
        row |= {name: f"{x:.{_DIGITS[name]}f}" for name, x in numbers.items() if x is not None}
    if prediction.threshold != THRESHOLD:
        row["threshold"] = f"{prediction.threshold:g}"
    if prediction.sensitivity is not None and prediction.malignant is not None:
        row[decision_column(prediction.sensitivity)] = prediction.malignant
    return row


def format_prediction(row: Mapping) -> str:
    """A row in words: "benign 87% (normal 5%, malignant 8%), lesion 4.0% of the image", or `OUT_OF_DISTRIBUTION`.

    The number behind each class is its probability.

    Args:
        row: Dict of a frame without an error, as `to_row` makes it, or as it is read from `predictions.csv`.
    """
    if row["warning"].startswith(OUT_OF_DISTRIBUTION):
        return OUT_OF_DISTRIBUTION
    percent = {name.removeprefix("p_"): f"{float(p):.0%}" for name, p in row.items() if name.startswith("p_")}
    confidence = percent.pop(row["label"])
    others = ", ".join(f"{label} {p}" for label, p in percent.items())
    return f"{row['label']} {confidence} ({others}){_format_lesion(row)}"


def _format_lesion(row):
    if "lesion_fraction" not in row:
        return ""
    area = (
        f" ({float(row['lesion_mm2']):.0f} mm², {float(row['lesion_mm']):.0f} mm across)" if row["lesion_mm2"] else ""
    )
    return f", lesion {float(row['lesion_fraction']):.1%} of the image{area}"


def to_line(frame: Frame, prediction: "Prediction", task: Task) -> str:
    """The line of `predictions.jsonl` of a prediction."""
    return json.dumps(to_record(prediction, frame.path, frame.number, task.classes)) + "\n"


def to_record(prediction: "Prediction", path: Path | None, number: int | None, classes: Sequence[str]) -> dict:
    """A line of `predictions.jsonl` as a dict: `file`, for ultrasound `frame` and `Uids`, and the `facts`."""
    frame = {} if prediction.mask is None else {"frame": number, **prediction.uids._asdict()}
    return {"file": path and str(path), **frame, **facts(prediction, classes)}


def failure(frame: Frame, error: Exception | str, task: Task) -> tuple[dict, str]:
    """Row and line of a frame that has no prediction, or whose results cannot be written."""
    values = to_failure_record(frame.path, frame.number, str(error))
    values |= frame.uids._asdict() if frame.scan else {}
    return dict.fromkeys(fields(task), "") | values, json.dumps(values) + "\n"


def to_failure_record(path: Path | None, number: int | None, error: str) -> dict:
    """The content of a line of `predictions.jsonl` without a prediction: `file`, for a clip `frame`, and `error`."""
    return {"file": path and str(path), **({"frame": number} if number else {}), "error": error}


def is_out_of_distribution(rows: Sequence[Mapping]) -> bool:
    """Whether a file is `OUT_OF_DISTRIBUTION`: all its frames are, or their median `ood_score` is above 1.

    Args:
        rows: Rows of the file's frames. Those with an error do not count.
    """
    rows = [row for row in rows if not row["error"]]
    scores = [float(row["ood_score"]) for row in rows if row.get("ood_score")]
    all_warn = bool(rows) and all(row["warning"].startswith(OUT_OF_DISTRIBUTION) for row in rows)
    return all_warn or median(scores or [0]) > 1


def add_warning(row: Mapping, line: str | None) -> tuple[dict, str | None]:
    """Put `OUT_OF_DISTRIBUTION` before the warnings of a row and, if there is one, of its line; its report says so."""
    warning = "; ".join(filter(None, (OUT_OF_DISTRIBUTION, row["warning"])))
    changed = {"warning": warning, "report": NOT_REPORTED}
    return {**row, "warning": warning}, line and json.dumps(json.loads(line) | changed) + "\n"
