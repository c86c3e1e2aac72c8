"""The example images of a report: best and worst lesions, missed ones and false alarms; right and wrong slides."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.data.sample import CLASSES, Sample
from busseg.evaluation.page import embed_image
from busseg.evaluation.scores import classes_of
from busseg.imaging.images import read_image, read_mask
from busseg.inference.overlay import TRUTH_RGB, draw_contour

CASES = 3  # images of a kind
FEW = 8  # up to so many lesions of a class are all shown
GAP_PX = 8  # between the image and its overlay


def choose_cases(rows: Sequence[dict]) -> list[tuple[str, int, list[dict]]]:
    """Choose the images to show: worst, median and best lesions of each class, missed lesions and false alarms.

    Args:
        rows: Rows of `per_image.csv`, without those that hold an error.

    Returns:
        List of `(title, count, candidates)`, where `candidates` are rows in order of preference, of which the first
        `count` that can be drawn are shown. Missed lesions and false alarms are ordered by area, the largest first. A
        kind without a candidate is left out.
    """
    kinds = []
    for label in (*CLASSES, None):
        found = sorted((row for row in rows if row["label"] == label and row["dice"]), key=lambda row: row["dice"])
        name = (label or "lesions").capitalize()
        if len(found) <= FEW:
            kinds.append((f"{name}: all that were found, from the worst to the best", FEW, found))
            continue
        middle = sorted(range(len(found)), key=lambda place: abs(place - (len(found) - 1) / 2))
        kinds += [
            (f"{name}: worst of those found", CASES, found),
            (f"{name}: median", CASES, [found[place] for place in middle]),
            (f"{name}: best", CASES, found[::-1]),
        ]
    missed = sorted((row for row in rows if row["dice"] == 0), key=lambda row: -row["true_px"])
    alarms = sorted((row for row in rows if row["clean"] is False), key=lambda row: -row["predicted_px"])
    kinds += [("Missed lesions, the largest first", CASES, missed), ("False alarms, the largest first", CASES, alarms)]
    return [kind for kind in kinds if kind[2]]


def choose_slides(rows: Sequence[dict]) -> list[tuple[str, int, list[dict]]]:
    """Choose the histology images to show: of each class those classified wrongly, then correctly, the surest first.

    Args:
        rows: As for `choose_cases`.

    Returns:
        As of `choose_cases`.
    """
    kinds = []
    for label in classes_of(rows):
        mine = [row for row in rows if row["label"] == label]
        mine.sort(key=lambda row: -row[f"p_{row['predicted']}"])
        for title, right in (("classified wrongly", False), ("classified correctly", True)):
            found = [row for row in mine if (row["predicted"] == label) == right]
            kinds.append((f"{label.replace('_', ' ').capitalize()}: {title}, the most confident first", CASES, found))
    return [kind for kind in kinds if kind[2]]


def draw_cases(folder: str | Path, rows: Sequence[dict], samples: Iterable[Sample]) -> list[tuple[str, list[dict]]]:
    """Draw the cases of an evaluation: image | true contour and predicted contour; of histology the image alone.

    An image that is not among the samples, or that cannot be read, or whose mask cannot be read, is replaced by the
    next candidate.

    Args:
        folder: Path of the evaluation or cross-validation, to which the column `mask` is relative.
        rows: Rows of `per_image.csv`, without those that hold an error; see `choose_cases` and `choose_slides`.
        samples: Sequence of `Sample`, found by name.

    Returns:
        List of `(title, cases)`, where a case is a dict of its `row` and `src`, a `data:` address.
    """
    masks = bool(rows) and "mask" in rows[0]  # histology has none
    by_name = {sample.name: sample for sample in samples}
    drawn = []
    for title, count, candidates in choose_cases(rows) if masks else choose_slides(rows):
        cases: list[dict] = []
        for row in candidates:
            if len(cases) < count and row["file"] in by_name and (row["mask"] if masks else True):
                pixels = _draw(by_name[row["file"]], Path(folder) / row["mask"] if masks else None)
                cases += [] if pixels is None else [{"row": row, "src": embed_image(pixels, width=560)}]
        if cases:
            drawn.append((title, cases))
    return drawn


def _draw(sample: Sample, mask_path: Path | None) -> NDArray | None:
    """Array `(height, 2 * width + GAP_PX, 3)`, or of histology `(height, width, 3)`, uint8.

    None if the image or a mask cannot be read.
    """
    try:
        if mask_path is None:
            return read_image(sample.image, colour=True)
        image = read_image(sample.image)
        truth = read_mask(sample.masks, image.shape)
        predicted = read_mask([mask_path], image.shape)
    except (OSError, ValueError):
        return None
    overlay = draw_contour(draw_contour(image, truth, TRUTH_RGB), predicted)
    gap = np.full((len(image), GAP_PX, 3), 255, np.uint8)
    return np.hstack([np.repeat(image[..., None], 3, axis=2), gap, overlay])
