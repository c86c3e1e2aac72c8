"""Scores of a decision: malignant from a threshold on, or an answer only where the model is sure enough."""

import numpy as np

from busseg.evaluation.intervals import mean_intervals
from busseg.evaluation.scores import classes_of, labels_and_probabilities, numbers_of, scored

COVERAGES = tuple(tenth / 10 for tenth in range(1, 11))


def decision_values(rows, threshold):
    """What each image adds to the scores of the decision that it is malignant.

    Args:
        rows: Sequence of dicts, one a readable image; see `busseg.evaluation.table.fields`.
        threshold: Of the probability of malignant, which counts as malignant if it is reached.

    Returns:
        Dict from the name of a score to an array `(images,)`, NaN where the score is not defined for an image:
        `sensitivity`, of the malignant images whether they are called so; `specificity`, of the others whether they are
        not; `ppv`, of those called malignant whether they are; `npv`, of those not called so whether they are not.
        Images without a class define none.
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


def decision_scores(rows, threshold):
    """Score the decision that an image is malignant.

    Args:
        rows, threshold: As for `decision_values`. Rows with an error are left out.

    Returns:
        Dict of `threshold`; `malignant` and `others`, the numbers of images, all with a class; `called`, the number of
        them called malignant; `prevalence`, the share of the malignant ones, which `ppv` and `npv` hold for, or None
        without images; `scores`, a dict of `sensitivity` `TP / (TP + FN)`, `specificity` `TN / (TN + FP)`, `ppv`
        `TP / (TP + FP)` and `npv` `TN / (TN + FN)`, each None where it has nothing to divide by; and `intervals`, see
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


def risk_coverage(correct, confidence):
    """How often answers are wrong if only the surest are given.

    Args:
        correct: Array `(images,)`, 1 where the answer is right, else 0.
        confidence: Array `(images,)`, the larger the surer. Images of one confidence count as in random order.

    Returns:
        `(coverage, risk)`: arrays `(images,)`, of the surest 1, 2, ... images their share of all, and the share of them
        that are wrong. The mean of `risk` is the area under the curve, AURC.

    Reference:
        Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017,
        https://arxiv.org/abs/1705.08500
    """
    _, place, count = np.unique(-np.asarray(confidence, dtype=float), return_inverse=True, return_counts=True)
    wrong = np.bincount(place, 1 - np.asarray(correct, dtype=float)) / count
    number = np.arange(1, len(place) + 1)
    return number / len(place), np.cumsum(np.repeat(wrong, count)) / number


def class_risk(rows):
    """`risk_coverage` of the classes, by the probability of the class answered.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error or without a
            class are left out.
    """
    rows = scored(rows)
    labels, probabilities = labels_and_probabilities(rows)
    correct = probabilities.argmax(axis=1) == numbers_of(labels, classes_of(rows))
    return risk_coverage(correct, probabilities.max(axis=1))


def selective_scores(rows):
    """Sum up `class_risk`.

    Returns:
        Dict of `aurc`, and `risk`, a list of dicts of `coverage`, each of `COVERAGES`, and `error_rate` of so many of
        the surest images, to the next whole image; None where no image has a class.
    """
    _, risk = class_risk(rows)
    if not len(risk):
        return None
    last = [max(1, round(coverage * len(risk))) - 1 for coverage in COVERAGES]
    curve = [{"coverage": coverage, "error_rate": float(risk[i])} for coverage, i in zip(COVERAGES, last)]
    return {"aurc": float(risk.mean()), "risk": curve}
