"""Where a model looks, found by covering places of the image: the check that needs no gradients."""

import cv2
import numpy as np

from busseg.imaging.images import fit_to_native, fit_to_square, placement

_BATCH = 16


def occlusion(predictor, image, label=None, patch=0.2, steps=10):
    """How much less likely a class becomes when a place of the image is covered.

    Patches are laid over the image in a grid, one at a time. Each blurs what it covers to the mean of a third of the
    image around, so that the place keeps its depth's brightness but shows nothing, and fades out as a Gaussian bell,
    for an edge would be something to see, too. The drop of the class's probability is spread over the patch that caused
    it, so the map is as fine as the patches are, and no finer.

    It works for every model that a `Predictor` runs, and passes at most `steps ** 2` covered images through it: 80 for
    an image of 4 to 3.

    Args:
        predictor: A `Predictor`.
        image: Path of an image file, or array uint8; see `Predictor.predict`.
        label: One of the predictor's classes; the predicted one unless told.
        patch: Width of a patch at half its strength, as a share of the image's longer side.
        steps: Number of patches along the longer side.

    Returns:
        Array `(height, width)` float32 of native size, in `[-1, 1]`; below 0 where covering makes the class likelier.

    Raises:
        ValueError: If the label is none of the classes, or a number is out of its range.

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
    """How strongly each patch covers each pixel of the square: array `(patches, size, size)` float32 in `(0, 1]`."""
    top, left, height, width = placement(shape, size)
    rows = _bells(top, height, size, patch, steps)
    columns = _bells(left, width, size, patch, steps)
    return (rows[:, None, :, None] * columns[None, :, None, :]).reshape(-1, size, size)


def _bells(start, length, size, patch, steps):
    """Gaussian bells evenly over `length` pixels from `start` on: array `(bells, size)`."""
    count = max(1, round(steps * length / size))
    centres = start + (np.arange(count) + 0.5) * length / count
    distances = (np.arange(size) + 0.5 - centres[:, None]) / (patch * size / 2)
    return np.float32(0.5 ** np.square(distances))


def _covered(square, place, patches):
    """The square with what each of the patches covers blurred: list of arrays like it."""
    top, left, height, width = place
    inside = slice(top, top + height), slice(left, left + width)
    side = 2 * (len(square) // 6) + 1
    blurred = square.copy()
    blurred[inside] = cv2.blur(square[inside], (side, side), borderType=cv2.BORDER_REFLECT)
    patches = patches.reshape(*patches.shape, *[1] * (square.ndim - 2))
    change = blurred.astype(np.float32) - square
    return [np.uint8(np.rint(square + patch * change)) for patch in patches]
