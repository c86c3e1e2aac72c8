"""The summary of an evaluation, `summary.json`: the scores of each part, also as lines of text."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from busseg.data.sample import CLASSES, THRESHOLD
from busseg.evaluation.intervals import bootstrap_intervals
from busseg.evaluation.known import UNKNOWN, format_known, summarise_known
from busseg.evaluation.operating import decision_scores, selective_scores
from busseg.evaluation.patients import PATIENT_SCORES, patient_scores
from busseg.evaluation.recognition import format_recognition, recognition_rates
from busseg.evaluation.scores import (
    NSD_TOLERANCE_PX,
    classes_of,
    image_values,
    labelled_scores,
    point_scores,
    scored,
)
from busseg.evaluation.sources import format_sources, mean_of_sources, rows_by_source
from busseg.evaluation.table import write_rows
from busseg.storage.files import write_text
from busseg.storage.run_folder import PER_IMAGE, SUMMARY


# === Sum up ===
def summarise(rows: Sequence[dict], operating_point: dict | None = None) -> dict:
    """Sum up the scores of a set of images.

    Args:
        rows: Sequence of dicts with `busseg.evaluation.table.fields`, one an image. Those with an error are left out.
        operating_point: Dict with the `threshold` of malignant, which is then scored, too.

    Returns:
        Dict of

        - the counts `images`, `groups`, `lesions`, `normals` (images without a lesion), `missed` (lesions of which no
          pixel was found) and `scaled` (lesions found in an image whose scale is known);
        - `scores`, see `point_scores`, and `intervals`, see `bootstrap_intervals`;
        - `confusion` and `classes`, see `class_scores`, and `reliability`, see `calibration`: all three None if no
          image has a label;
        - `selective`, see `selective_scores`;
        - with an operating point, `decision`, see `decision_scores`;
        - `patients`, see `patient_scores`; of histology also `recognition`, see `recognition_rates`;
        - of images of several sources `sources`, a summary of each source, and `mean_of_sources`;
        - `known` and `unseen`, see `summarise_known`.
    """
    rows = scored(rows)
    values, of_classes, ultrasound = image_values(rows), labelled_scores(rows), classes_of(rows) == CLASSES
    areas = [row["true_px"] for row in rows if "true_px" in row]
    lesions = sum(area > 0 for area in areas)
    return {
        "images": len(rows),
        "groups": len({row["group"] for row in rows}),
        "lesions": lesions,
        "normals": len(areas) - lesions,
        "missed": int(np.nansum(values["missed_rate"])),
        "scaled": int(np.sum(~np.isnan(values["hd95_mm"]))),
        "scores": point_scores(rows),
        "intervals": bootstrap_intervals(rows),
        **{name: of_classes.get(name) for name in ("confusion", "classes", "reliability")},
        "patients": patient_scores(rows),
        "selective": selective_scores(rows),
        **({"decision": decision_scores(rows, operating_point["threshold"])} if operating_point else {}),
        **({} if ultrasound else {"recognition": recognition_rates(rows)}),
        **_summarise_sources(rows, operating_point),
        **summarise_known(rows, lambda unseen: summarise(unseen, operating_point)),
    }


def _summarise_sources(rows, operating_point):
    rows_of = rows_by_source(rows)
    if len(rows_of) < 2:
        return {}
    sources = {source: summarise(mine, operating_point) for source, mine in rows_of.items()}
    return {"sources": sources, "mean_of_sources": mean_of_sources([one["scores"] for one in sources.values()])}


def sum_up(rows: Sequence[dict], **about) -> dict:
    """Sum up each part of a table.

    Args:
        rows: Sequence of dicts with `busseg.evaluation.table.fields`, one an image. `mask` is the path of the predicted
            mask, relative to the folder; `leaked`, in a cross-validation, is whether the image has a copy in training,
            or another image of its patient. Empty cells are None.
        about: Further entries of the summary, such as the model; anything that JSON holds.

    Returns:
        Dict of what `summary.json` holds: `threshold`, `nsd_tolerance_px`, those of `about`, and `parts`, a dict from
        part to its `summarise`.
    """
    parts = dict.fromkeys(row["part"] for row in rows)
    point = about.get("operating_point")
    scores = {part: summarise([row for row in rows if row["part"] == part], point) for part in parts}
    return {"threshold": THRESHOLD, "nsd_tolerance_px": NSD_TOLERANCE_PX, **about, "parts": scores}


# === Write ===
def write_scores(out: Path, rows: Sequence[dict], **about) -> dict:
    """Write `per_image.csv` and `summary.json` into the folder `out`; return the summary, see `sum_up`."""
    summary = sum_up(rows, **about)
    write_rows(out / PER_IMAGE, rows)
    write_summary(out, summary)
    return summary


def write_summary(out: Path, summary: dict) -> None:
    """Write `summary.json` into the folder `out`.

    Args:
        out: Path of the folder.
        summary: Dict, as `sum_up` returns it.
    """
    write_text(out / SUMMARY, json.dumps(summary, indent=2) + "\n")


# === Format ===
def format_summary(summary: dict) -> str:
    """The scores of each part as lines of text, with their 95 % intervals.

    Args:
        summary: Dict from part to its `summarise`.
    """
    lines = []
    for part, one in summary.items():
        lines += ["", f"=== {part} ===", *format_known(one)]
        lines.append(f"{one['images']} images of {one['groups']} groups, scores [95 % interval]")
        if one["classes"]:
            lines += _format_classes(one)
        if "recognition" in one:
            lines += ["", format_recognition(one["recognition"])]
        if one["lesions"] or not one["images"]:
            lines += _format_lesions(one)
        if one["normals"]:
            lines += _format_normals(one)
        if patients := one.get("patients"):
            lines.append(f"by patient, {patients['patients']} patients of {patients['images']} images:")
            lines += [f"  {_scores_line(patients, (title, name))}" for name, title in PATIENT_SCORES.items()]
        if "sources" in one:
            lines += ["", *format_sources(one)]
        if "unseen" in one:
            lines += ["", format_summary({f"{part}, new to the model": one["unseen"]})]
    if any(one["images"] and one.get("known") is None for one in summary.values()):
        lines += ["", UNKNOWN]
    return "\n".join(lines[1:])


def _format_classes(one):
    names = ("precision", "sensitivity", "specificity", "f1", "auc")
    width = max(12, *map(len, one["classes"]))
    lines = [" " * width + "".join(f"{name:>13}" for name in names) + f"{'images':>10}"]
    for label, row in one["classes"].items():
        cells = "".join(f"{'n/a':>13}" if row[name] is None else f"{row[name]:13.3f}" for name in names)
        lines.append(f"{label:{width}}{cells}{row['images']:10}")
    return [
        *lines,
        _scores_line(one, ("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy")),
        _scores_line(one, ("macro F1", "macro_f1"), ("macro AUC", "macro_auc")),
        _scores_line(one, ("benign or malignant AUC", "malignant_auc")),
        _scores_line(one, ("ECE", "ece"), ("Brier", "brier")),
        *_format_selective(one["selective"]),
        *(_format_decision(one["decision"]) if "decision" in one else []),
    ]


def _format_selective(selective):
    risk = {point["coverage"]: point["error_rate"] for point in selective["risk"]}
    shares = ", ".join(f"{share:.0%}: {risk[share]:.1%}" for share in (0.5, 0.8, 1.0))
    return [f"error rate among the most confident {shares}; AURC {selective['aurc']:.3f}"]


def _format_decision(decision):
    return [
        f"malignant at p_malignant >= {decision['threshold']:.3f}: {decision['called']} of "
        f"{decision['malignant'] + decision['others']} images",
        "  " + _scores_line(decision, ("sensitivity", "sensitivity"), ("specificity", "specificity")),
        f"  {_scores_line(decision, ('PPV', 'ppv'), ('NPV', 'npv'))}   at a prevalence of {decision['prevalence']:.1%}",
    ]


def _format_lesions(one):
    return [
        f"lesions {one['lesions']}, missed {one['missed']}:",
        "  " + _scores_line(one, ("Dice", "dice"), ("median", "dice_median")),
        "  " + _scores_line(one, ("IoU", "iou"), ("median", "iou_median")),
        "  " + _scores_line(one, ("sensitivity", "sensitivity"), ("precision", "precision")),
        f"  {_scores_line(one, ('HD95 px', 'hd95_px'), ('ASSD px', 'assd_px'), digits=1)}, of found lesions",
        *_format_mm(one),
        "  " + _scores_line(one, (f"NSD at {NSD_TOLERANCE_PX} px", "nsd")),
    ]


def _format_mm(one):
    if not one["scaled"]:
        return []
    distances = _scores_line(one, ("HD95 mm", "hd95_mm"), ("ASSD mm", "assd_mm"), digits=2)
    return [f"  {distances}, of {one['scaled']} found lesions with a scale"]


def _format_normals(one):
    area = one["scores"]["false_alarm_fraction"]
    alarm = _scores_line(one, ("false alarm px", "false_alarm_px"), digits=0)
    return [
        f"no lesion {one['normals']}: " + _scores_line(one, ("left clean", "clean_normal_rate")),
        f"  {alarm}, {area:.2%} of the image on average",
    ]


def _scores_line(one, *titles, digits=3):
    """The scores of `(title, name)` with their intervals, in a line."""
    cells = []
    for title, name in titles:
        value = one["scores"][name]
        if value is None:
            cells.append(f"{title} n/a")
        else:
            low, high = one["intervals"][name]
            cells.append(f"{title} {value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    return "   ".join(cells)
