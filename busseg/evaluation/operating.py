"""Scores of a decision: malignant at or above a threshold, or a class only where the model is confident enough."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from busseg.evaluation.intervals import mean_intervals
from busseg.evaluation.scores import classes_of, labels_and_probabilities, numbers_of, scored

COVERAGES = tuple(tenth / 10 for tenth in range(1, 11))


def decision_values(rows: Sequence[dict], threshold: float) -> dict[str, NDArray]:
    """The contribution of each image to the scores of the decision "malignant".

    Args:
        rows: Sequence of dicts, one a readable image; see `busseg.evaluation.table.fields`.
        threshold: The decision is "malignant" if the probability of malignant reaches this.

    Returns:
        Dict from the name of a score to an array `(images,)`: 1 where the decision is right, 0 where it is wrong, NaN
        where the score is not defined for an image. `sensitivity` is defined for malignant images, `specificity` for
        the others, `ppv` for images called malignant, `npv` for images not called malignant. An image without a class
        defines no score.
    """
    malignant = np.array([np.nan if not row["label"] else row["label"] == "malignant" for row in rows], dtype=float)
    called = np.array([row["p_malignant"] >= threshold for row in rows], dtype=bool)
    positive, negative = malignant == 1, malignant == 0
    return {
        "sensitivity": np.where(positive, called, np.nan),
        "specificity": np.where(negative, ~called, np.nan),
        "ppv": np.where(called, malignant, np.nan),
        "npv": np.where(~called, 1 - malignant, np.nan),
    }


def decision_scores(rows: Sequence[dict], threshold: float) -> dict:
    """Score the decision that an image is malignant.

    Args:
        rows, threshold: As for `decision_values`. Rows with an error are left out.

    Returns:
        Dict of `threshold`; `malignant` and `others`, the numbers of images with a class; `called`, how many of them
        are called malignant; `prevalence`, the share of malignant images, for which `ppv` and `npv` hold, or None
        without images; `scores`, a dict of `sensitivity` `TP / (TP + FN)`, `specificity` `TN / (TN + FP)`, `ppv`
        `TP / (TP + FP)` and `npv` `TN / (TN + FN)`, each None where the divisor is 0; and `intervals`, see
        `bootstrap_intervals`.
    """
    rows = [row for row in scored(rows) if row["label"]]
    values = decision_values(rows, threshold)
    defined = {name: each[~np.isnan(each)] for name, each in values.items()}
    malignant = len(defined["sensitivity"])
    return {
        "threshold": threshold,
        "malignant": malignant,
        "others": len(rows) - malignant,
        "called": len(defined["ppv"]),
        "prevalence": malignant / len(rows) if rows else None,
        "scores": {name: float(each.mean()) if each.size else None for name, each in defined.items()},
        "intervals": mean_intervals(rows, values),
    }


def risk_coverage(correct: ArrayLike, confidence: ArrayLike) -> tuple[NDArray, NDArray]:
    """The risk-coverage curve: the error rate among the most confident images.

    Args:
        correct: Array `(images,)`, 1 where the class is right, else 0.
        confidence: Array `(images,)`, higher is more confident. Images of equal confidence count as in random order.

    Returns:
        `(coverage, risk)`: arrays `(images,)`. For the 1, 2, ... most confident images, their share of all images and
        the share of them that is wrong. The mean of `risk` is the area under the curve, AURC.

    Reference:
        Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017,
        https://arxiv.org/abs/1705.08500
    """
    _, place, count = np.unique(-np.asarray(confidence, dtype=float), return_inverse=True, return_counts=True)
    wrong = np.bincount(place, 1 - np.asarray(correct, dtype=float)) / count
    number = np.arange(1, len(place) + 1)
    return number / len(place), np.cumsum(np.repeat(wrong, count)) / number


def class_risk(rows: Sequence[dict]) -> tuple[NDArray, NDArray]:
    """The `risk_coverage` of the predicted classes. The confidence is the probability of the predicted class.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error or without a
            class are left out.
    """
    rows = scored(rows)
    labels, probabilities = labels_and_probabilities(rows)
    correct = probabilities.argmax(axis=1) == numbers_of(labels, classes_of(rows))
    return risk_coverage(correct, probabilities.max(axis=1))


def selective_scores(rows: Sequence[dict]) -> dict | None:
    """Sum up `class_risk`.

    Args:
        rows: As for `class_risk`.

    Returns:
        Dict of `aurc`, and `risk`, a list of dicts of `coverage`, each of `COVERAGES`, and `error_rate` among that
        share of the images, the most confident ones, to the next whole image. None if no image has a class.
    """
    _, risk = class_risk(rows)
    if not len(risk):
        return None
    last = [max(1, round(coverage * len(risk))) - 1 for coverage in COVERAGES]
    curve = [{"coverage": coverage, "error_rate": float(risk[i])} for coverage, i in zip(COVERAGES, last)]
    return {"aurc": float(risk.mean()), "risk": curve}
