"""Scores by patient: the images of one patient are pooled to one prediction."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from busseg.evaluation.intervals import bootstrap_intervals, match_images, paired_differences
from busseg.evaluation.scores import classes_of, point_scores, scored

PATIENT_SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "malignant_auc": "benign or malignant AUC",
}


def pool_patients(rows: Sequence[dict]) -> list[dict]:
    """Pool the images of each patient: the mean of their probabilities, and the most severe of their labels.

    A patient is malignant if one of her images is, else benign if one is. Images without a patient or a label are left
    out. Patients of different sources are different, even under one name. Each repeat of a cross-validation is
    pooled by itself.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error are left out.

    Returns:
        List of dicts, one a patient: `file`, the source and the patient; `repeat`, `source`, `group` and `label`;
        `images`, their number; and the probabilities `p_CLASS`. `point_scores` and `paired_differences` take them like
        rows of images.
    """
    rows = scored(rows)
    classes, views = classes_of(rows), defaultdict(list)
    for row in rows:
        if row.get("patient") and row["label"]:
            views[row.get("repeat"), row.get("source"), row["patient"]].append(row)
    return [
        {
            "file": f"{source}/{patient}",
            "repeat": repeat,
            "source": source,
            "group": mine[0]["group"],
            "label": max((row["label"] for row in mine), key=classes.index),
            "images": len(mine),
            **{f"p_{label}": float(np.mean([row[f"p_{label}"] for row in mine])) for label in classes},
        }
        for (repeat, source, patient), mine in views.items()
    ]


def patient_scores(rows: Sequence[dict]) -> dict | None:
    """The scores of the patients of a set of images.

    Args:
        rows: As for `pool_patients`.

    Returns:
        Dict of the numbers of `patients` and of their `images`; `scores`, those of `PATIENT_SCORES`, None where not
        defined; and their `intervals`, see `bootstrap_intervals`; the group is the patient. None if no image has a
        patient.
    """
    pooled = pool_patients(rows)
    if not pooled:
        return None
    scores, intervals = point_scores(pooled), bootstrap_intervals(pooled)
    return {
        "patients": len({row["file"] for row in pooled}),
        "images": sum(row["images"] for row in pooled),
        "scores": {name: scores[name] for name in PATIENT_SCORES},
        "intervals": {name: intervals[name] for name in PATIENT_SCORES if name in intervals},
    }


def paired_patients(rows_a: Sequence[dict], rows_b: Sequence[dict]) -> dict:
    """Compare two models patient by patient, on the images that both have scored.

    Args:
        rows_a: As for `pool_patients`.
        rows_b: The same of the other model.

    Returns:
        Dict of the number of `patients`, and `differences`, see `paired_differences`, of `PATIENT_SCORES`.
    """
    rows_a, rows_b, _, _ = match_images(scored(rows_a), scored(rows_b))
    pooled = pool_patients(rows_a)
    paired = paired_differences(pooled, pool_patients(rows_b))
    differences = {name: one for name, one in paired["differences"].items() if name in PATIENT_SCORES}
    return {"patients": len({row["file"] for row in pooled}), "differences": differences}
