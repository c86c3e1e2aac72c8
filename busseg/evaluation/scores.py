"""Scores of one mask, of the classes of a set of images, and of a set of images as a whole."""

from collections.abc import Sequence

import numpy as np
import surface_distance
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from busseg.data.sample import CLASSES

NSD_TOLERANCE_PX = 5  # about 1 % of the width of a BUSI image, whose median is 564 px
BINS = 15  # of the calibration, as in Guo et al.

OVERLAPS = ("dice", "iou", "sensitivity", "precision", "nsd")
DISTANCES = ("hd95_px", "assd_px", "hd95_mm", "assd_mm")


# === One mask ===
def mask_scores(y_true: NDArray, y_pred: NDArray) -> dict:
    """Compare the predicted lesion with the true one: `overlap_scores`, and the distances between the outlines.

    The distances are those of the package surface-distance. Marching squares draw the outline of a mask between its
    pixels, and along the image's border. Each element of an outline has a length, and a distance to the nearest element
    of the other outline.

    - HD95, the robust Hausdorff distance: the distance that 95 % of the length of an outline keeps within; the larger
      value of the two outlines.
    - ASSD, the average symmetric surface distance: the mean distance of all elements of both outlines, weighted by
      their length, so the longer outline has more weight.
    - NSD, normalised surface Dice: the share of the length of both outlines within `NSD_TOLERANCE_PX` of the other.

    Without a true lesion all three are None. For a missed lesion (no predicted pixel) NSD is 0 and the distances are
    None.

    Args:
        y_true: Array `(height, width)`, 0 or not 0.
        y_pred: Array of the same shape, 0 or not 0.

    Returns:
        Dict of `hd95_px` and `assd_px`, at least 0 or None; `nsd`, in `[0, 1]` or None; and those of `overlap_scores`.

    Reference:
        Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy", JMIR 2021,
        https://arxiv.org/abs/1809.04430, and https://github.com/google-deepmind/surface-distance
    """
    scores = overlap_scores(y_true, y_pred)
    if not scores["true_px"]:
        return {**scores, "hd95_px": None, "assd_px": None, "nsd": None}
    if not scores["predicted_px"]:
        return {**scores, "hd95_px": None, "assd_px": None, "nsd": 0.0}
    found = surface_distance.compute_surface_distances(y_true > 0, y_pred > 0, spacing_mm=(1, 1))
    distances = np.concatenate([found["distances_gt_to_pred"], found["distances_pred_to_gt"]])
    lengths = np.concatenate([found["surfel_areas_gt"], found["surfel_areas_pred"]])
    return {
        **scores,
        "hd95_px": float(surface_distance.compute_robust_hausdorff(found, 95)),
        "assd_px": float(np.average(distances, weights=lengths)),
        "nsd": float(surface_distance.compute_surface_dice_at_tolerance(found, NSD_TOLERANCE_PX)),
    }


def overlap_scores(y_true: NDArray, y_pred: NDArray) -> dict:
    """Compare the predicted lesion with the true one, pixel by pixel.

    Without a true lesion the four scores are None, and `clean` is whether the prediction is empty. For a missed lesion
    (no predicted pixel) all four are 0, also the precision, as in Metrics Reloaded, MedPy and seg-metrics.

    Args:
        y_true: Array `(height, width)`, 0 or not 0.
        y_pred: Array of the same shape, 0 or not 0.

    Returns:
        Dict of `dice` `2 TP / (2 TP + FP + FN)`, `iou` `TP / (TP + FP + FN)`, `sensitivity` `TP / (TP + FN)`,
        `precision` `TP / (TP + FP)`, each in `[0, 1]` or None; `clean`, bool or None; `true_px` and `predicted_px`.
    """
    overlap, true, predicted = (int(np.count_nonzero(a)) for a in ((y_true > 0) & (y_pred > 0), y_true, y_pred))
    areas = {"true_px": true, "predicted_px": predicted}
    if true == 0:
        return {"dice": None, "iou": None, "sensitivity": None, "precision": None, "clean": predicted == 0, **areas}
    return {
        "dice": 2 * overlap / (true + predicted),
        "iou": overlap / (true + predicted - overlap),
        "sensitivity": overlap / true,
        "precision": overlap / predicted if predicted else 0.0,
        "clean": None,
        **areas,
    }


# === Classes ===
def class_scores(labels: Sequence[str], probabilities: ArrayLike, classes: Sequence[str] = CLASSES) -> dict:
    """Compare the predicted classes, the most probable ones, with the true classes.

    Args:
        labels: Sequence of true classes, each of `classes`, at least one.
        probabilities: Array `(images, classes)`, in the order of `classes`, rows summing to 1.
        classes: Classes of the task; see `Task`.

    Returns:
        Dict of `accuracy`; `balanced_accuracy`, the mean sensitivity of the classes present; `macro_f1`, of the
        classes present; `macro_auc`, each class against the rest, or None if a class is absent; `malignant_auc`, of the
        benign and malignant images alone, ranked by `p_malignant / (p_benign + p_malignant)` (1/2 where both are 0), or
        None if either is absent or not a class of the task; `confusion`, rows true and columns predicted; and
        `classes`, for each a dict of `precision`, `sensitivity` (recall), `specificity`, `f1`, `auc` and `images`. A
        score whose divisor is 0 is 0, as in scikit-learn's report; an AUC is None then.
    """
    true, probabilities = numbers_of(labels, classes), np.asarray(probabilities, dtype=float)
    predicted = probabilities.argmax(axis=1)
    numbers = range(len(classes))
    confusion = confusion_matrix(true, predicted, labels=numbers)
    precision, sensitivity, f1, images = precision_recall_fscore_support(
        true, predicted, labels=numbers, zero_division=0
    )
    negatives = len(true) - confusion.sum(axis=1)
    false_positives = confusion.sum(axis=0) - confusion.diagonal()
    specificity = (negatives - false_positives) / np.maximum(negatives, 1)
    # Class by class: scikit-learn's own average demands rows that sum to 1 more exactly than float32 does.
    aucs = [_auc(true == i, probabilities[:, i]) for i in numbers]
    present = images > 0
    return {
        "accuracy": float(np.mean(true == predicted)),
        "balanced_accuracy": float(sensitivity[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "macro_auc": float(np.mean(aucs)) if present.all() else None,
        "malignant_auc": _auc(*malignancy(true, probabilities, classes)[1:]),
        "confusion": confusion.tolist(),
        "classes": {
            label: {
                "precision": float(precision[i]),
                "sensitivity": float(sensitivity[i]),
                "specificity": float(specificity[i]),
                "f1": float(f1[i]),
                "auc": aucs[i],
                "images": int(images[i]),
            }
            for i, label in enumerate(classes)
        },
    }


def numbers_of(labels: Sequence[str], classes: Sequence[str]) -> NDArray:
    """The index of each label among the classes, integer array `(images,)`."""
    return np.array([classes.index(label) for label in labels], dtype=int)


def _auc(positive, scores):
    return float(roc_auc_score(positive, scores)) if 0 < positive.sum() < len(positive) else None


def malignancy(true: NDArray, probabilities: NDArray, classes: Sequence[str]) -> tuple[NDArray, NDArray, NDArray]:
    """Malignant rather than benign: `p_malignant / (p_benign + p_malignant)`, 1/2 where both are 0.

    Args:
        true: Array `(images,)`, the indices of the true classes among `classes`.
        probabilities: Array `(images, classes)`, in their order.
        classes: Classes of the task.

    Returns:
        `(chosen, truth, score)`: which images are benign or malignant, bool `(images,)`; for each of these whether it
        is malignant; and its score in `[0, 1]`. If the task lacks one of the two classes, no image is chosen.
    """
    if not {"benign", "malignant"} <= set(classes):
        return np.zeros(len(true), bool), np.zeros(0, bool), np.zeros(0)
    benign, malignant = classes.index("benign"), classes.index("malignant")
    chosen = np.isin(true, (benign, malignant))
    either = probabilities[chosen, benign] + probabilities[chosen, malignant]
    score = np.divide(probabilities[chosen, malignant], either, out=np.full(len(either), 0.5), where=either > 0)
    return chosen, true[chosen] == malignant, score


def calibration(labels: Sequence[str], probabilities: ArrayLike, classes: Sequence[str] = CLASSES) -> dict:
    """Compare the confidence of the predicted classes with their accuracy.

    The confidence of an image is the probability of its predicted class. `BINS` bins of equal width divide `(0, 1]`;
    each contains its upper edge.

    Args:
        labels: Sequence of true classes, each of `classes`, at least one.
        probabilities: Array `(images, classes)`, in the order of `classes`, rows summing to 1.
        classes: Classes of the task; see `Task`.

    Returns:
        Dict of `ece`, the expected calibration error `sum(images in bin / images * |accuracy - confidence|)` over the
        bins, in `[0, 1]`; `brier`, the mean over images of `sum((p - y)^2)` over the classes, in `[0, 2]` (not
        halved); and `reliability`, a list of the bins that hold images, each a dict of its edges `low` and `high`,
        `images`, and their mean `confidence` and `accuracy`.

    Reference:
        Guo et al., "On calibration of modern neural networks", ICML 2017, https://arxiv.org/abs/1706.04599
    """
    true, probabilities = numbers_of(labels, classes), np.asarray(probabilities, dtype=float)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    bins = confidence_bins(probabilities)
    reliability = [
        {
            "low": float(i / BINS),
            "high": float((i + 1) / BINS),
            "images": int(np.sum(bins == i)),
            "confidence": float(confidence[bins == i].mean()),
            "accuracy": float(correct[bins == i].mean()),
        }
        for i in np.unique(bins)
    ]
    gaps = [row["images"] * abs(row["accuracy"] - row["confidence"]) for row in reliability]
    squares = (probabilities - np.eye(len(classes))[true]) ** 2
    return {
        "ece": float(np.sum(gaps) / len(true)),
        "brier": float(squares.sum(axis=1).mean()),
        "reliability": reliability,
    }


def confidence_bins(probabilities: NDArray) -> NDArray:
    """The bin of each image's confidence: array `(images,)` of 0 to `BINS - 1`; see `calibration`."""
    edges = np.arange(1, BINS) / BINS
    return np.digitize(probabilities.max(axis=1), edges, right=True)


# === A set of images ===
def scored(rows: Sequence[dict]) -> list[dict]:
    """The rows without an error."""
    return [row for row in rows if not row.get("error")]


def classes_of(rows: Sequence[dict]) -> tuple[str, ...]:
    """The classes whose probabilities the rows hold; those of ultrasound if there are no rows."""
    return tuple(name[2:] for name in (rows[0] if rows else ()) if name.startswith("p_")) or CLASSES


def labels_and_probabilities(rows: Sequence[dict]) -> tuple[list[str], NDArray]:
    """The true classes of the rows that have one, and their probabilities `(images, classes)`."""
    classes = classes_of(rows)
    labelled = [row for row in rows if row["label"]]
    probabilities = [[row[f"p_{label}"] for label in classes] for row in labelled]
    return [row["label"] for row in labelled], np.reshape(probabilities, (-1, len(classes))).astype(float)


def image_values(rows: Sequence[dict]) -> dict[str, NDArray]:
    """The contribution of each image to the scores that are means over images.

    A lesion is found if at least one of its pixels is predicted, else missed. Overlaps cover all lesions, and a missed
    lesion scores 0. Distances cover found lesions only, since a missed lesion has no distance: read them beside
    `missed_rate`. Distances in mm cover the images whose `pixel_mm` is known.

    Args:
        rows: Sequence of dicts, one a readable image; see `busseg.evaluation.table.fields`. A score whose columns are
            absent is not defined.

    Returns:
        Dict from the name of a score to an array `(images,)`, NaN where the score is not defined for an image.
    """
    values = {name: _column(rows, name) for name in OVERLAPS}
    found = values["dice"] > 0
    for name in ("hd95", "assd"):
        distance_px = np.where(found, _column(rows, f"{name}_px"), np.nan)
        values |= {f"{name}_px": distance_px, f"{name}_mm": distance_px * _column(rows, "pixel_mm")}
    lesion, predicted_px = _column(rows, "true_px") > 0, _column(rows, "predicted_px")
    values["precision"][lesion & (predicted_px == 0)] = 0  # older tables leave it empty
    false_alarm = np.where(lesion, np.nan, predicted_px)
    labelled = np.array([bool(row["label"]) for row in rows], dtype=bool)
    labels, probabilities = labels_and_probabilities(rows)
    true = numbers_of(labels, classes_of(rows))
    squares = (probabilities - np.eye(len(classes_of(rows)))[true]) ** 2
    values |= {
        "missed_rate": np.where(lesion, ~found, np.nan),
        "clean_normal_rate": _column(rows, "clean"),
        "false_alarm_px": false_alarm,
        "false_alarm_fraction": false_alarm / (_column(rows, "width_px") * _column(rows, "height_px")),
        "accuracy": np.full(len(rows), np.nan),
        "brier": np.full(len(rows), np.nan),
    }
    values["accuracy"][labelled] = probabilities.argmax(axis=1) == true
    values["brier"][labelled] = squares.sum(axis=1)
    return values


def _column(rows, name):
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=float)


def point_scores(rows: Sequence[dict]) -> dict[str, float | None]:
    """The scores of a set of images.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error are left out.

    Returns:
        Dict from name to float, or None if no image defines the score.

        - Over the lesions: the means `dice`, `iou`, `sensitivity`, `precision`, `nsd`, `hd95_px`, `assd_px`, `hd95_mm`
          and `assd_mm`, and their medians with the ending `_median`, see `image_values` for missed lesions; and
          `missed_rate`, the share of lesions of which no pixel was found.
        - Over the images without a lesion: `clean_normal_rate`, the share with an empty prediction; `false_alarm_px`
          and `false_alarm_fraction`, the mean predicted area, in pixels and as a share of the image.
        - `class_dice`: the mean over the classes present of the mean over their images of Dice, where an image without
          a lesion counts 1 if its prediction is empty, else 0.
        - Those of `class_scores` and `calibration`.
    """
    rows = scored(rows)
    values = image_values(rows)
    scores = {}
    for name in (*OVERLAPS, *DISTANCES):
        scores[name] = _over_defined(np.mean, values[name])
        scores[f"{name}_median"] = _over_defined(np.median, values[name])
    for name in ("missed_rate", "clean_normal_rate", "false_alarm_px", "false_alarm_fraction"):
        scores[name] = _over_defined(np.mean, values[name])
    of_classes = labelled_scores(rows)
    names = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "malignant_auc", "ece", "brier")
    return {**scores, "class_dice": _class_dice(rows), **{name: of_classes.get(name) for name in names}}


def labelled_scores(rows: Sequence[dict]) -> dict:
    """`class_scores` and `calibration` of the rows that have a label, in one dict; empty if no row has a label."""
    labels, probabilities = labels_and_probabilities(rows)
    if not labels:
        return {}
    classes = classes_of(rows)
    return class_scores(labels, probabilities, classes) | calibration(labels, probabilities, classes)


def _over_defined(average, values):
    defined = values[~np.isnan(values)]
    return float(average(defined)) if defined.size else None


def _class_dice(rows):
    by_class = {label: [] for label in classes_of(rows)}
    for row in rows:
        if row["label"] and (row.get("dice"), row.get("clean")) != (None, None):  # histology has neither
            by_class[row["label"]].append(float(row["clean"]) if row["dice"] is None else row["dice"])
    means = [np.mean(values) for values in by_class.values() if values]
    return float(np.mean(means)) if means else None
