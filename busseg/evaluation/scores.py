"""Scores of masks, image by image, and of classes, over a set of images."""

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from busseg.data.sample import CLASSES


def mask_scores(y_true, y_pred):
    """Compare the lesion that was predicted with the true one, pixel by pixel.

    Without a true lesion there is no overlap to measure: the four scores are None, and `clean` says whether none was
    predicted. A lesion that was missed scores Dice 0, IoU 0, sensitivity 0; its precision, of no pixel, is None.

    Args:
        y_true: Array `(height, width)`, 0 or 1.
        y_pred: Array of the same shape, 0 or 1.

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
        "precision": overlap / predicted if predicted else None,
        "clean": None,
        **areas,
    }


def summarise_masks(rows):
    """Sum up `mask_scores` over images.

    Args:
        rows: Sequence of dicts as `mask_scores` returns them.

    Returns:
        Dict of `lesions` and `normals` (counts); of `dice`, `iou`, `sensitivity` and `precision`, each a dict of `mean`
        and `median` over the images with a lesion; of `missed`, lesions of which no pixel was found; and of
        `clean_normal_rate` and `false_alarm_px`, the mean area marked, over the images without one. None where there
        is no image to average.
    """
    lesions = [row for row in rows if row["true_px"] > 0]
    normals = [row for row in rows if row["true_px"] == 0]
    summary = {"lesions": len(lesions), "normals": len(normals)}
    for name in ("dice", "iou", "sensitivity", "precision"):
        values = [row[name] for row in lesions if row[name] is not None]
        summary[name] = {
            "mean": float(np.mean(values)) if values else None,
            "median": float(np.median(values)) if values else None,
        }
    summary["missed"] = sum(row["sensitivity"] == 0 for row in lesions)
    summary["clean_normal_rate"] = float(np.mean([row["clean"] for row in normals])) if normals else None
    summary["false_alarm_px"] = float(np.mean([row["predicted_px"] for row in normals])) if normals else None
    return summary


def class_scores(labels, probabilities):
    """Compare the classes that were predicted with the true ones.

    Args:
        labels: Sequence of true classes, each of `CLASSES`.
        probabilities: Array `(images, 3)`, in the order of `CLASSES`, rows summing to 1.

    Returns:
        Dict of `images`; `accuracy`; `balanced_accuracy`, the mean sensitivity of the classes present; `macro_f1`, of
        the classes present; `macro_auc`, one against the rest, or None where a class is absent; `confusion`, rows true
        and columns predicted; and `classes`, for each a dict of `precision`, `sensitivity` (recall), `specificity`,
        `f1` and `images`. A score with nothing to divide by is 0, as in scikit-learn's report.
    """
    true = np.array([CLASSES.index(label) for label in labels])
    probabilities = np.asarray(probabilities)
    predicted = probabilities.argmax(axis=1)
    numbers = range(len(CLASSES))
    confusion = confusion_matrix(true, predicted, labels=numbers)
    precision, sensitivity, f1, images = precision_recall_fscore_support(
        true, predicted, labels=numbers, zero_division=0
    )
    negatives = len(true) - confusion.sum(axis=1)
    false_positives = confusion.sum(axis=0) - confusion.diagonal()
    specificity = (negatives - false_positives) / np.maximum(negatives, 1)
    present = images > 0
    return {
        "images": len(true),
        "accuracy": float(np.mean(true == predicted)),
        "balanced_accuracy": float(sensitivity[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "macro_auc": _macro_auc(true, probabilities) if present.all() else None,
        "confusion": confusion.tolist(),
        "classes": {
            label: {
                "precision": float(precision[i]),
                "sensitivity": float(sensitivity[i]),
                "specificity": float(specificity[i]),
                "f1": float(f1[i]),
                "images": int(images[i]),
            }
            for i, label in enumerate(CLASSES)
        },
    }


def _macro_auc(true, probabilities):
    # Class by class, for scikit-learn's own average demands rows that sum to 1 more exactly than float32 does.
    return float(np.mean([roc_auc_score(true == i, probabilities[:, i]) for i in range(len(CLASSES))]))
