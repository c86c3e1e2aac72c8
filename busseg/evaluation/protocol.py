"""Predict the parts of a dataset, score them, and write the folder of an evaluation."""

import json

import numpy as np

from busseg.data.files import claim_folder, write_csv, write_text
from busseg.data.images import read_image, read_mask
from busseg.data.sample import CLASSES
from busseg.evaluation.figures import draw_confusion, draw_review_sheet
from busseg.evaluation.scores import class_scores, mask_scores, summarise_masks
from busseg.inference.predictor import THRESHOLD

TABLE = "per_image.csv"
FIELDS = (
    "file", "part", "label", "predicted", *(f"p_{label}" for label in CLASSES),
    "dice", "iou", "sensitivity", "precision", "clean", "true_px", "predicted_px", "error",
)  # fmt: skip


def evaluate(predictor, parts, out, progress=iter):
    """Score a model on the parts of a dataset at native size.

    The folder `out` then holds `per_image.csv`, `summary.json`, and for each part `figures/PART_review.png` and
    `figures/PART_confusion.png`. A file that cannot be read is left out of the scores and gets a row with its error.

    Args:
        predictor: A `Predictor`.
        parts: Dict from the name of a part to its sequence of `Sample`.
        out: Path of the output folder; a former evaluation there is replaced.
        progress: Function that wraps the iteration over the images, for a progress bar.

    Returns:
        `(summary, rows)`: a dict from part to a dict of `masks` (see `summarise_masks`) and `label` (see
        `class_scores`; None where no sample has a label); and the list of the table's rows.

    Raises:
        FileExistsError: If `out` holds other files than a former evaluation.
    """
    out = claim_folder(out, TABLE)
    samples = [(part, sample) for part, samples in parts.items() for sample in samples]
    rows = [
        _score(predictor, sample) | {"file": sample.name, "part": part, "label": sample.label}
        for part, sample in progress(samples)
    ]
    write_csv(out / TABLE, FIELDS, [{name: _cell(row.get(name)) for name in FIELDS} for row in rows])
    summary = {part: _summarise([row for row in rows if row["part"] == part]) for part in parts}
    write_text(out / "summary.json", json.dumps({"threshold": THRESHOLD, "parts": summary}, indent=2) + "\n")
    for figure in (out / "figures").glob("*.png"):
        figure.unlink()  # a former evaluation's, of parts that this one may not have
    for part in parts:
        scored = [(sample, row) for (_, sample), row in zip(samples, rows) if row["part"] == part and "dice" in row]
        if scored:
            draw_review_sheet(predictor, _spread(scored), out / "figures" / f"{part}_review.png")
        if summary[part]["label"]:
            draw_confusion(summary[part]["label"]["confusion"], out / "figures" / f"{part}_confusion.png")
    return summary, rows


def _score(predictor, sample):
    try:
        image = read_image(sample.image)
        mask = read_mask(sample.masks, image.shape)
    except (OSError, ValueError) as error:
        return {"error": str(error)}
    prediction = predictor.predict(image)
    probabilities = {f"p_{label}": float(p) for label, p in zip(CLASSES, prediction.probabilities)}
    return {"predicted": prediction.label, **probabilities, **mask_scores(mask, prediction.mask)}


def _summarise(rows):
    rows = [row for row in rows if not row.get("error")]
    labelled = [row for row in rows if row["label"]]
    probabilities = np.array([[row[f"p_{label}"] for label in CLASSES] for row in labelled])
    return {
        "masks": summarise_masks(rows),
        "label": class_scores([row["label"] for row in labelled], probabilities) if labelled else None,
    }


def _cell(value):
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else value


def _spread(scored, count=12):
    """A few of many samples for the review sheet: of each class, evenly from the worst Dice to the best."""
    scored = sorted(scored, key=lambda one: (one[1]["dice"] or 0, -one[1]["predicted_px"]))
    labels = sorted({sample.label or "" for sample, _ in scored})
    chosen = []
    for label in labels:
        mine = [sample for sample, _ in scored if (sample.label or "") == label]
        places = np.linspace(0, len(mine) - 1, min(len(mine), count // len(labels)))
        chosen += [mine[round(place)] for place in places]
    return chosen


def format_summary(summary):
    """The classification report and the mask scores of each part as lines of text."""
    lines = []
    for part, scores in summary.items():
        lines += ["", f"=== {part} ==="]
        if scores["label"]:
            lines += _format_classes(scores["label"])
        lines += _format_masks(scores["masks"])
    return "\n".join(lines[1:])


def _format_classes(scores):
    names = ("precision", "sensitivity", "specificity", "f1")
    lines = [f"{'':12}" + "".join(f"{name:>13}" for name in names) + f"{'images':>10}"]
    for label, row in scores["classes"].items():
        lines.append(f"{label:12}" + "".join(f"{row[name]:13.3f}" for name in names) + f"{row['images']:10}")
    auc = "n/a" if scores["macro_auc"] is None else f"{scores['macro_auc']:.3f}"
    return [
        *lines,
        f"accuracy {scores['accuracy']:.3f}   balanced accuracy {scores['balanced_accuracy']:.3f}   "
        f"macro F1 {scores['macro_f1']:.3f}   macro AUC {auc}",
    ]


def _format_masks(scores):
    def mean(name):
        return "n/a" if scores[name]["mean"] is None else f"{scores[name]['mean']:.3f}"

    lines = [
        f"lesions {scores['lesions']}: Dice {mean('dice')}   IoU {mean('iou')}   sensitivity {mean('sensitivity')}   "
        f"precision {mean('precision')}   missed {scores['missed']}"
    ]
    if scores["normals"]:
        lines.append(
            f"no lesion {scores['normals']}: left clean {scores['clean_normal_rate']:.3f}   "
            f"false alarm {scores['false_alarm_px']:.0f} px on average"
        )
    return lines
