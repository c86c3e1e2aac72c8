"""Predict the parts of a dataset, score them, and write the folder of an evaluation."""

import json
from dataclasses import asdict
from pathlib import PurePosixPath

import cv2
import numpy as np

from busseg.data.fingerprints import knows, read_fingerprints
from busseg.data.sample import ATTRIBUTES, CLASSES, TASKS
from busseg.evaluation.figures import draw_confusion, draw_review_sheet
from busseg.evaluation.intervals import bootstrap_intervals
from busseg.evaluation.known import UNKNOWN, format_known, summarise_known
from busseg.evaluation.operating import decision_scores, selective_scores
from busseg.evaluation.patients import PATIENT_SCORES, patient_scores
from busseg.evaluation.recognition import format_recognition, recognition_rates
from busseg.evaluation.scores import (
    NSD_TOLERANCE_PX,
    classes_of,
    image_values,
    mask_scores,
    point_scores,
    scored,
    told_of_classes,
)
from busseg.evaluation.sources import format_sources, mean_of_sources, rows_by_source
from busseg.imaging.images import read_mask, write_image
from busseg.inference.metadata import read_metadata
from busseg.inference.predictor import THRESHOLD
from busseg.storage.claims import claim_folder
from busseg.storage.files import read_csv, replacing, write_csv, write_text
from busseg.storage.run_folder import EVALUATION, FIGURES, MASKS, PER_IMAGE, REPORT, ROBUSTNESS, SUMMARY
from busseg.storage.signature import is_own_picture

_COUNTS = ("true_px", "predicted_px", "width_px", "height_px")
_OVERLAPS = ("dice", "iou", "sensitivity", "precision", "hd95_px", "assd_px", "nsd")
_OF_SAMPLE = ("source", *ATTRIBUTES, "pixel_mm")
_LATE = (*_OF_SAMPLE, "known")  # older tables lack them
_BEFORE, _AFTER = ("file", "fold", "part", "group", *_OF_SAMPLE, "label", "predicted"), ("leaked", "known", "error")
_READ = {
    "fold": int,
    **dict.fromkeys(("clean", "leaked", "known"), {"True": True, "False": False}.__getitem__),
    **dict.fromkeys(_COUNTS, int),
    **dict.fromkeys((*_OVERLAPS, "pixel_mm"), float),
}
_BATCH = 16


def fields(classes):
    """The columns of `per_image.csv` of a model of some classes; only those of ultrasound tell of lesions."""
    of_lesions = (*_OVERLAPS, "clean", *_COUNTS, "mask") if classes == CLASSES else ()
    return (*_BEFORE, *(f"p_{label}" for label in classes), *of_lesions, *_AFTER)


# === Score ===
def evaluate(predictor, parts, out, progress=iter, size=None, fold=None, model=None, data=None, fingerprints=None):
    """Score a model on the parts of a dataset, at native size.

    The folder `out` then holds what `write_scores` writes; `masks/`, the predicted mask of each image at native size,
    0/255, under the image's name with the suffix `.png`; and for each part `figures/PART_review.png` and
    `figures/PART_confusion.png`. Of tissue there are no masks and no review. A file that cannot be read, or that the
    model has no answer to, is left out of the scores and gets a row with its error.

    Args:
        predictor: A `Predictor`.
        parts: Dict from the name of a part to its sequence of `Sample`.
        out: Path of the output folder; a former evaluation there is replaced.
        progress: Function that wraps the iteration over batches of images, for a progress bar.
        size: Side in pixels of the square that true masks and probability maps are resized to before they are
            compared, as tables published on BUSI do (256); areas and distances are in pixels of that square then.
            None compares at native size. The masks kept are always native.
        fold: Number of the fold, for the table.
        model: Name of the model, for the summary.
        data: Name of the dataset, for the summary.
        fingerprints: Those of the images that the model learnt from, array `(n, 16)`; the ones it carries by default.

    Returns:
        `(summary, rows)`: a dict from part to what `summarise` says of it; and the list of the table's rows.

    Raises:
        FileExistsError: If `out` holds other files than a former evaluation.
        BlockingIOError: If another process writes there.
    """
    with claim_folder(out, EVALUATION) as out:
        _refuse_foreign_masks(out / MASKS)
        about = {"size": size, "model": model, "data": data}
        if predictor.operating_point:
            about["operating_point"] = asdict(predictor.operating_point)
        if fingerprints is None and predictor.path:
            fingerprints = read_fingerprints(read_metadata(predictor.path), predictor.path)
        return _evaluate(predictor, parts, out, progress, size, fold, about, fingerprints)


def _refuse_foreign_masks(folder):
    """The folder is replaced as a whole, so it may hold nothing else."""
    for path in folder.glob("**/*"):
        if not path.is_dir() and not is_own_picture(path):
            raise FileExistsError(f"Expected masks of busseg alone to replace, found another file: {path}")


def _evaluate(predictor, parts, out, progress, size, fold, about, fingerprints):
    samples = [(part, sample) for part, samples in parts.items() for sample in samples]
    rows = []
    with replacing(out / MASKS) as masks:
        masks.mkdir()
        for start in progress(range(0, len(samples), _BATCH)):
            rows += _score_batch(predictor, samples[start : start + _BATCH], fold, size, masks, fingerprints)
        _refuse_foreign_masks(out / MASKS)  # that came meanwhile
        # The table marks the folder, so it comes first; the summary says that all is there, so it comes last.
        (out / SUMMARY).unlink(missing_ok=True)
        write_csv(out / PER_IMAGE, fields(classes_of(rows)), rows)
    if predictor.task != "ultrasound":
        (out / MASKS).rmdir()
    # A former evaluation's: figures of parts that this one may not have, and what was told of another model.
    for former in (*filter(is_own_picture, (out / FIGURES).glob("*.png")), out / ROBUSTNESS, out / REPORT):
        former.unlink(missing_ok=True)
    summed_up = sum_up(rows, **about)
    summary = summed_up["parts"]
    for part in summary:
        readable = [
            (sample, row) for (_, sample), row in zip(samples, rows) if row["part"] == part and not row["error"]
        ]
        if readable and predictor.task == "ultrasound":
            draw_review_sheet(predictor, _spread(readable), out / FIGURES / f"{part}_review.png")
        if summary[part]["confusion"]:
            draw_confusion(summary[part]["confusion"], predictor.classes, out / FIGURES / f"{part}_confusion.png")
    _write_summary(out, summed_up)
    return summary, rows


def _score_batch(predictor, batch, fold, size, masks, fingerprints):
    """The rows of some `(part, sample)`; their predicted masks go to the folder `masks`."""
    rows, readable = [], []
    for part, sample in batch:
        row = dict.fromkeys(fields(predictor.classes))
        row |= {"file": sample.name, "fold": fold, "part": part, "group": sample.group, "label": sample.label}
        row |= {"source": sample.source or None, **{name: sample.attributes.get(name) for name in ATTRIBUTES}}
        row["pixel_mm"] = None if size else sample.pixel_mm  # the square of a published size has no scale
        rows.append(row)
        try:
            image = predictor.read(sample.image)
            readable.append((row, image, read_mask(sample.masks, image.shape[:2])))
            row["known"] = None if fingerprints is None else knows(fingerprints, image)
        except (OSError, ValueError) as error:
            row["error"] = str(error)
    predictions = predictor.try_batch([image for _, image, _ in readable]) if readable else []
    for (row, _, mask), prediction in zip(readable, predictions):
        if isinstance(prediction, ValueError):
            row["error"] = f"{prediction}: {row['file']}"
            continue
        row |= {f"p_{label}": float(p) for label, p in zip(predictor.classes, prediction.probabilities)}
        row["predicted"] = prediction.label
        if prediction.mask is None:
            continue
        name = PurePosixPath(row["file"]).with_suffix(".png")
        write_image(masks / name, prediction.mask * 255)
        predicted = prediction.mask
        if size:
            mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
            predicted = cv2.resize(prediction.probability_map, (size, size)) >= THRESHOLD  # linear
        row |= {
            "mask": f"{MASKS}/{name}",
            "width_px": mask.shape[1],
            "height_px": mask.shape[0],
            **mask_scores(mask, predicted),
        }
    return rows


def _spread(readable, count=12):
    """A few of many samples for the review sheet: of each class, evenly from the worst Dice to the best."""
    readable = sorted(readable, key=lambda one: (one[1]["dice"] or 0, -one[1]["predicted_px"]))
    labels = sorted({sample.label or "" for sample, _ in readable})
    chosen = []
    for label in labels:
        mine = [sample for sample, _ in readable if (sample.label or "") == label]
        places = np.linspace(0, len(mine) - 1, min(len(mine), count // len(labels)))
        chosen += [mine[round(place)] for place in places]
    return chosen


# === Sum up ===
def summarise(rows, operating_point=None):
    """Sum up the scores of a set of images.

    Args:
        rows: Sequence of dicts with `fields`, one an image. Those with an error are left out.
        operating_point: Dict with the `threshold` of malignant to score, too.

    Returns:
        Dict of the numbers of `images`, of their `groups`, of `lesions`, of `normals` (images without a lesion), of
        `missed` lesions, of which no pixel was found, and of `scaled` ones, found in an image whose scale is known;
        `scores`, see `point_scores`; `intervals`, see `bootstrap_intervals`; `confusion` and `classes`, see
        `class_scores`, and `reliability`, see `calibration`, all three None where no image has a label; `selective`,
        see `selective_scores`; of an operating point `decision`, see `decision_scores`; and of tissue `recognition`,
        see `recognition_rates`, of scans `patients`, see `patient_scores`. Of images of several sources,
        `sources`, the same of each source, and `mean_of_sources`. And `known` and `unseen`, see `summarise_known`.
    """
    rows = scored(rows)
    values, of_classes = image_values(rows), told_of_classes(rows)
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
        **({"patients": patient_scores(rows)} if classes_of(rows) == CLASSES else {}),
        "selective": selective_scores(rows),
        **({"decision": decision_scores(rows, operating_point["threshold"])} if operating_point else {}),
        **({} if classes_of(rows) == CLASSES else {"recognition": recognition_rates(rows)}),
        **_summarise_sources(rows, operating_point),
        **summarise_known(rows, lambda unseen: summarise(unseen, operating_point)),
    }


def _summarise_sources(rows, operating_point):
    rows_of = rows_by_source(rows)
    if len(rows_of) < 2:
        return {}
    sources = {source: summarise(mine, operating_point) for source, mine in rows_of.items()}
    return {"sources": sources, "mean_of_sources": mean_of_sources([one["scores"] for one in sources.values()])}


def write_scores(out, rows, **about):
    """Write `per_image.csv`, the rows as they are, and `summary.json`, what `sum_up` says of them, and return that."""
    summary = sum_up(rows, **about)
    write_csv(out / PER_IMAGE, fields(classes_of(rows)), rows)
    _write_summary(out, summary)
    return summary


def _write_summary(out, summary):
    write_text(out / SUMMARY, json.dumps(summary, indent=2) + "\n")


def sum_up(rows, **about):
    """Sum up each part of a table.

    Args:
        rows: Sequence of dicts with `fields`, one an image. `mask` is the path of the predicted mask, relative to the
            folder; `leaked`, in a cross-validation, whether the image has a copy in training. Empty cells are None.
        about: What else the summary shall say, such as the model; anything that JSON holds.

    Returns:
        Dict of what `summary.json` holds: `threshold`, `nsd_tolerance_px`, those of `about`, and `parts`, a dict from
        part to what `summarise` says of it.
    """
    parts = dict.fromkeys(row["part"] for row in rows)
    point = about.get("operating_point")
    scores = {part: summarise([row for row in rows if row["part"] == part], point) for part in parts}
    return {"threshold": THRESHOLD, "nsd_tolerance_px": NSD_TOLERANCE_PX, **about, "parts": scores}


def read_rows(path):
    """Read the table of an evaluation back: the same rows, to the last digit.

    Args:
        path: Path of a `per_image.csv`.

    Returns:
        List of dicts with `fields`, one an image: numbers as int and float, `clean` as bool, empty cells as None. So
        are the cells of the columns that describe the sample, where an older table lacks them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no table of an evaluation.
    """
    classes = classes_of(read_csv(path))
    names = fields(classes if classes in TASKS.values() else CLASSES)
    required = [name for name in names if name not in _LATE]
    return [_typed(row, names, path) for row in read_csv(path, required)]


def _typed(row, names, path):
    try:
        return {name: _typed_cell(name, row[name]) if row.get(name) else None for name in names}
    except (KeyError, ValueError) as error:
        raise ValueError(f"Expected a table of scores, found a cell that is none ({error}): {path}") from error


def _typed_cell(name, text):
    return (float if name.startswith("p_") else _READ.get(name, str))(text)


# === Tell ===
def format_summary(summary):
    """The scores of each part as lines of text, with their 95 % intervals.

    Args:
        summary: Dict from part to what `summarise` says of it.
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
            area = one["scores"]["false_alarm_fraction"]
            lines += [
                f"no lesion {one['normals']}: " + _told(one, ("left clean", "clean_normal_rate")),
                f"  {_told(one, ('false alarm px', 'false_alarm_px'), digits=0)}, {area:.2%} of the image on average",
            ]
        if patients := one.get("patients"):
            lines.append(f"by patient, {patients['patients']} patients of {patients['images']} images:")
            lines += [f"  {_told(patients, (title, name))}" for name, title in PATIENT_SCORES.items()]
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
        _told(one, ("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy")),
        _told(one, ("macro F1", "macro_f1"), ("macro AUC", "macro_auc")),
        _told(one, ("benign or malignant AUC", "malignant_auc")),
        _told(one, ("ECE", "ece"), ("Brier", "brier")),
        *_format_selective(one["selective"]),
        *(_format_decision(one["decision"]) if "decision" in one else []),
    ]


def _format_selective(selective):
    risk = {point["coverage"]: point["error_rate"] for point in selective["risk"]}
    told = ", ".join(f"of the surest {share:.0%} {risk[share]:.1%}" for share in (0.5, 0.8, 1.0))
    return [f"wrong {told}; AURC {selective['aurc']:.3f}"]


def _format_decision(decision):
    return [
        f"malignant from p_malignant {decision['threshold']:.3f} on: {decision['called']} of "
        f"{decision['malignant'] + decision['others']} images",
        "  " + _told(decision, ("sensitivity", "sensitivity"), ("specificity", "specificity")),
        f"  {_told(decision, ('PPV', 'ppv'), ('NPV', 'npv'))}   at a prevalence of {decision['prevalence']:.1%}",
    ]


def _format_lesions(one):
    return [
        f"lesions {one['lesions']}, missed {one['missed']}:",
        "  " + _told(one, ("Dice", "dice"), ("median", "dice_median")),
        "  " + _told(one, ("IoU", "iou"), ("median", "iou_median")),
        "  " + _told(one, ("sensitivity", "sensitivity"), ("precision", "precision")),
        f"  {_told(one, ('HD95 px', 'hd95_px'), ('ASSD px', 'assd_px'), digits=1)}, of found lesions",
        *_format_mm(one),
        "  " + _told(one, (f"NSD at {NSD_TOLERANCE_PX} px", "nsd")),
    ]


def _format_mm(one):
    if not one["scaled"]:
        return []
    told = _told(one, ("HD95 mm", "hd95_mm"), ("ASSD mm", "assd_mm"), digits=2)
    return [f"  {told}, of {one['scaled']} found lesions with a scale"]


def _told(one, *titles, digits=3):
    """Scores with their intervals, of `(title, name)`, in a line."""
    told = []
    for title, name in titles:
        value = one["scores"][name]
        if value is None:
            told.append(f"{title} n/a")
        else:
            low, high = one["intervals"][name]
            told.append(f"{title} {value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    return "   ".join(told)
