"""Predict the parts of a dataset, score them, and write the folder of an evaluation."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2
import numpy as np

from busseg.data.fingerprints import knows, read_fingerprints
from busseg.data.sample import ATTRIBUTES, THRESHOLD
from busseg.evaluation.figures import draw_confusion, draw_review_sheet
from busseg.evaluation.scores import mask_scores
from busseg.evaluation.summary import sum_up, write_summary
from busseg.evaluation.table import fields, write_rows
from busseg.imaging.images import count_pixels, read_mask, write_image
from busseg.imaging.threads import map_in_turn
from busseg.inference.metadata import read_metadata
from busseg.storage.claims import claim_folder
from busseg.storage.files import replacing
from busseg.storage.run_folder import EVALUATION, FIGURES, MASKS, PER_IMAGE, REPORT, ROBUSTNESS, SUMMARY
from busseg.storage.signature import is_own_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from busseg.data.sample import Sample
    from busseg.inference.predictor import Predictor

_BATCH = 8


def evaluate(
    predictor: Predictor,
    parts: Mapping[str, Sequence[Sample]],
    out: str | Path,
    progress: Callable[[Iterable], Iterable] = iter,
    size: int | None = None,
    fold: int | None = None,
    model: str | None = None,
    data: str | None = None,
    fingerprints: NDArray | None = None,
) -> tuple[dict, list[dict]]:
    """Score a model on the parts of a dataset, at native size.

    The folder `out` then holds `per_image.csv` and `summary.json`; `masks/`, the predicted mask of each image at native
    size, 0/255, under the image's name with the suffix `.png`; and for each part `figures/PART_review.png` and
    `figures/PART_confusion.png`. Histology has no masks and no review sheet. A file that cannot be read, or for which
    the model gives no result, is left out of the scores; its row holds the error.

    Args:
        predictor: A `Predictor`.
        parts: Dict from the name of a part to its sequence of `Sample`.
        out: Path of the output folder; an earlier evaluation there is replaced.
        progress: Function that wraps the iteration over batches of images, for a progress bar.
        size: Side in pixels of the square to which true masks and probability maps are resized before they are
            compared, as tables published on BUSI do (256). Areas and distances are then in pixels of that square.
            None compares at native size. The masks kept are always native.
        fold: Number of the fold, for the table.
        model: Name of the model, for the summary.
        data: Name of the dataset, for the summary.
        fingerprints: Fingerprints of the images that the model was trained on, array `(n, 16)`; those stored in the
            model by default.

    Returns:
        `(summary, rows)`: a dict from part to its `summarise`, and the list of the table's rows.

    Raises:
        FileExistsError: If `out` holds other files than an earlier evaluation.
        BlockingIOError: If another process writes there.
    """
    with claim_folder(out, EVALUATION) as out:
        _refuse_other_files(out / MASKS)
        about: dict[str, object] = {"size": size, "model": model, "data": data}
        if predictor.operating_point:
            about["operating_point"] = asdict(predictor.operating_point)
        if fingerprints is None and predictor.path:
            fingerprints = read_fingerprints(read_metadata(predictor.path), predictor.path)
        samples = [(part, sample) for part, samples in parts.items() for sample in samples]
        rows = _predict_and_score(predictor, samples, out, progress, size, fold, fingerprints)
        # Figures of parts that this evaluation may not have, and results of the model before.
        for former in (*filter(is_own_picture, (out / FIGURES).glob("*.png")), out / ROBUSTNESS, out / REPORT):
            former.unlink(missing_ok=True)
        summary = sum_up(rows, **about)
        _draw_figures(predictor, [sample for _, sample in samples], rows, summary["parts"], out / FIGURES)
        write_summary(out, summary)
        return summary["parts"], rows


def _refuse_other_files(folder):
    """The folder of masks is replaced as a whole, so it may hold nothing else."""
    for path in folder.glob("**/*"):
        if not path.is_dir() and not is_own_picture(path):
            raise FileExistsError(f"Expected masks of busseg alone to replace, found another file: {path}")


def _predict_and_score(predictor, samples, out, progress, size, fold, fingerprints):
    """The rows of `(part, sample)` pairs; writes the masks and the table."""
    rows = []
    batches = [samples[start : start + _BATCH] for start in range(0, len(samples), _BATCH)]
    with replacing(out / MASKS) as masks:
        masks.mkdir()
        score = partial(_score_batch, predictor, masks=masks, fold=fold, size=size, fingerprints=fingerprints)
        for _, scored in zip(progress(batches), map_in_turn(score, batches, _count_pixels)):
            rows += scored
        _refuse_other_files(out / MASKS)  # files that arrived during the run
        # The table marks the folder, so it comes first; the summary says that all is there, so it comes last.
        (out / SUMMARY).unlink(missing_ok=True)
        write_rows(out / PER_IMAGE, rows)
    if not predictor.task.has_mask:
        (out / MASKS).rmdir()
    return rows


def _count_pixels(batch):
    return sum(count_pixels(sample.image) for _, sample in batch)


def _score_batch(predictor, batch, masks, fold, size, fingerprints):
    """The rows of some `(part, sample)` pairs; writes the predicted masks to the folder `masks`."""
    rows, readable = [], []
    for part, sample in batch:
        row = _describe(predictor, part, sample, fold, size)
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
        if prediction.mask is not None:
            row |= _score_mask(mask, prediction, size)
            name = PurePosixPath(row["file"]).with_suffix(".png")
            write_image(masks / name, prediction.mask * 255, masks.parent)
            row["mask"] = f"{MASKS}/{name}"
    return rows


def _describe(predictor, part, sample, fold, size):
    """The row of a sample before it is scored."""
    row = dict.fromkeys(fields(predictor.classes))
    row |= {"file": sample.name, "fold": fold, "part": part, "group": sample.group, "label": sample.label}
    row |= {"source": sample.source or None, **{name: sample.attributes.get(name) for name in ATTRIBUTES}}
    row["pixel_mm"] = None if size else sample.pixel_mm  # the square of a published size has no scale
    return row


def _score_mask(mask, prediction, size):
    predicted = prediction.mask
    if size:
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
        predicted = cv2.resize(prediction.probability_map, (size, size)) >= THRESHOLD  # linear
    return {"width_px": mask.shape[1], "height_px": mask.shape[0], **mask_scores(mask, predicted)}


def _draw_figures(predictor, samples, rows, summary, folder):
    for part, one in summary.items():
        readable = [(sample, row) for sample, row in zip(samples, rows) if row["part"] == part and not row["error"]]
        if readable and predictor.task.has_mask:
            draw_review_sheet(predictor, _spread(readable), folder / f"{part}_review.png")
        if one["confusion"]:
            draw_confusion(one["confusion"], predictor.classes, folder / f"{part}_confusion.png")


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
