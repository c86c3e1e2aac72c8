"""Choose the images that tell most about a model, and draw what it saw in them."""

from pathlib import Path

import numpy as np

from busseg.data.sample import CLASSES
from busseg.evaluation.page import embed_image
from busseg.imaging.images import read_image, read_mask
from busseg.inference.overlay import TRUTH_RGB, draw_contour

CASES = 3  # pictures of a kind
FEW = 8  # as many lesions of a class are all shown
GAP_PX = 8  # between the two halves of a picture


def choose_cases(rows):
    """Order images by what they tell.

    Args:
        rows: Rows of `per_image.csv`, scored.

    Returns:
        List of `(title, count, candidates)`: how many of the candidates to show, the most telling first. Of each class
        the worst, median and best of the lesions found; lesions missed and false alarms, the largest first. A kind
        without a candidate is left out.
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


def draw_cases(folder, rows, samples):
    """Draw the most telling images of an evaluation: image | true contour and predicted contour.

    An image gives way to the next if it is not among the samples, or it or one of its masks cannot be read.

    Args:
        folder: Path of the evaluation or cross-validation, to which the column `mask` is relative.
        rows: Rows of `per_image.csv`, scored.
        samples: Sequence of `Sample`, found by name.

    Returns:
        List of `(title, pictures)`, where a picture is a dict of its `row` and `src`, a `data:` address.
    """
    rows = [row for row in rows if "mask" in row]  # of tissue there are none
    by_name = {sample.name: sample for sample in samples}
    drawn = []
    for title, count, candidates in choose_cases(rows):
        pictures = []
        for row in candidates:
            if len(pictures) < count and row["mask"] and row["file"] in by_name:
                picture = _draw(by_name[row["file"]], Path(folder) / row["mask"])
                pictures += [] if picture is None else [{"row": row, "src": embed_image(picture, width=560)}]
        if pictures:
            drawn.append((title, pictures))
    return drawn


def _draw(sample, mask_path):
    """Array `(height, 2 * width + GAP_PX, 3)`, or None if something cannot be read."""
    try:
        image = read_image(sample.image)
        truth = read_mask(sample.masks, image.shape)
        predicted = read_mask([mask_path], image.shape)
    except (OSError, ValueError):
        return None
    overlay = draw_contour(draw_contour(image, truth, TRUTH_RGB), predicted)
    gap = np.full((len(image), GAP_PX, 3), 255, np.uint8)
    return np.hstack([np.repeat(image[..., None], 3, axis=2), gap, overlay])
