"""Occlusion sensitivity: heat maps by covering places of the image, without gradients."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.imaging.images import fit_to_native, fit_to_square, placement
from busseg.inference.predictor import Predictor

_BATCH = 16


def occlusion(
    predictor: Predictor,
    image: str | Path | NDArray,
    label: str | None = None,
    patch: float = 0.2,
    steps: int = 10,
) -> NDArray:
    """The drop of a class's probability when a place of the image is covered.

    One patch at a time covers the image, in a grid. A patch replaces pixels by the mean of a third of the image around
    them, so the place keeps the brightness of its depth, and fades out as a Gaussian bell, so it has no visible edge.
    Each drop is spread over its patch, so the map is as coarse as the patches.

    It works for every model of a `Predictor`, which predicts at most `steps ** 2` covered images: 80 for an image of
    4 to 3.

    Args:
        predictor: A `Predictor`.
        image: Path of an image file, or array uint8; see `Predictor.predict`.
        label: One of the predictor's classes; the predicted one by default.
        patch: Width of a patch at half its strength, as a share of the image's longer side.
        steps: Number of patches along the longer side.

    Returns:
        Array `(height, width)` float32 of native size, in `[-1, 1]`; below 0 where covering makes the class likelier.

    Raises:
        ValueError: If the label is not one of the classes, or a number is out of its range.

    Reference:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014,
        https://arxiv.org/abs/1311.2901
    """
    if label is not None and label not in predictor.classes:
        raise ValueError(f"Expected a label of {', '.join(predictor.classes)}, found {label!r}")
    if not 0 < patch <= 1 or patch * steps < 1:
        raise ValueError(f"Expected a patch in (0, 1] that spans a step or more, found {patch} and {steps} steps")
    if not isinstance(image, np.ndarray):
        image = predictor.read(image)
    size = predictor.image_size
    square = fit_to_square(image, size)
    whole = predictor.predict(square)
    number = predictor.classes.index(label or whole.label)
    patches = _patches(image.shape[:2], size, patch, steps)
    covered = _covered(square, placement(image.shape[:2], size), patches)
    predictions = [p for i in range(0, len(covered), _BATCH) for p in predictor.predict_batch(covered[i : i + _BATCH])]
    drops = whole.probabilities[number] - np.stack([p.probabilities[number] for p in predictions])
    heat = np.tensordot(drops, patches, 1) / patches.sum(axis=0)
    return fit_to_native(heat, image.shape[:2])


def _patches(shape, size, patch, steps):
    """Opacity of each patch at each pixel of the square: array `(patches, size, size)` float32 in `(0, 1]`."""
    top, left, height, width = placement(shape, size)
    rows = _bells(top, height, size, patch, steps)
    columns = _bells(left, width, size, patch, steps)
    return (rows[:, None, :, None] * columns[None, :, None, :]).reshape(-1, size, size)


def _bells(start, length, size, patch, steps):
    """Gaussian bells, evenly spaced over `length` pixels from `start`: array `(bells, size)`."""
    count = max(1, round(steps * length / size))
    centres = start + (np.arange(count) + 0.5) * length / count
    distances = (np.arange(size) + 0.5 - centres[:, None]) / (patch * size / 2)
    return np.float32(0.5 ** np.square(distances))


def _covered(square, place, patches):
    """The square blurred under each patch: list of arrays of its shape."""
    top, left, height, width = place
    inside = slice(top, top + height), slice(left, left + width)
    side = 2 * (len(square) // 6) + 1
    blurred = square.copy()
    blurred[inside] = cv2.blur(square[inside], (side, side), borderType=cv2.BORDER_REFLECT)
    patches = patches.reshape(*patches.shape, *[1] * (square.ndim - 2))
    change = blurred.astype(np.float32) - square
    return [np.uint8(np.rint(square + patch * change)) for patch in patches]
