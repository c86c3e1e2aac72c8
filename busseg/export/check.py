"""Check that an export computes the same as its source, up to rounding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.data.sample import THRESHOLD
from busseg.inference.precision import made_up_images
from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import in_precision, load

if TYPE_CHECKING:
    import keras

# Of a probability, by how the weights are stored. Eight bits move the edge of a lesion, where pixels change a lot.
TOLERANCE = {"float32": 1e-4, "float16": 0.1, "int8": 0.5}
# Some networks lose more than that to rounding. A runtime may differ from the outputs in float64 by `ROUNDING` times
# the difference of Keras itself, which sums in another order, and by `MOST` at most.
ROUNDING, MOST = 10, 0.01
_FIELDS = ("probability_map", "probabilities", "uncertainty", "ood_score")  # of a `Prediction` that are compared


def check(export: Path, source: "keras.Model | Path", out: Path, weights: str = "float32") -> float:
    """Compare an export with its source, on one phantom per class.

    Args:
        export: Path of the export.
        source: Its source: a `keras.Model` of float32, or the path of an ONNX file.
        out: Path that errors name.
        weights: How the export stores its weights, a key of `TOLERANCE`.

    Returns:
        The largest difference between the outputs of the two.

    Raises:
        ValueError: If the export does not run, or its outputs differ by more than the tolerance.
    """
    try:
        predictor = Predictor(export)
    except ValueError as error:  # a layer that the format does not support
        raise ValueError(f"Expected an export that runs, found one that does not ({error}): {out}") from error
    images = made_up_images(predictor.task)
    return _compare(source, images, _outputs(predictor, images), weights, out)


def check_raw(export: Path, source: "keras.Model | Path", out: Path, weights: str = "float32") -> float:
    """As `check`, for an export with `raw=True`, which takes images of any size.

    Grey levels are multiples of 16, and sides are twice or half of the square's, so resized levels are whole numbers:
    runtimes round halves differently.
    """
    predictor, (run, _, _) = Predictor(source), load(export)
    size, images, found = predictor.image_size, [], []
    for phantom in made_up_images(predictor.task):
        for width, height in ((size, 2 * size), (size // 2, size // 4)):
            image = cv2.resize(phantom, (width, height), interpolation=cv2.INTER_AREA) // 16 * 16
            outputs = run(image.reshape(height, width, -1))
            images.append(image)
            found.append({name: np.asarray(outputs[name]) for name in _FIELDS if name in outputs})
    return _compare(source, images, found, weights, out)


def _outputs(predictor, images):
    """One dict of arrays per image."""
    predictions = ({name: getattr(one, name) for name in _FIELDS} for one in predictor.predict_batch(images))
    return [{name: np.asarray(x) for name, x in one.items() if x is not None} for one in predictions]


def _compare(source, images, found, weights, out):
    expected = _outputs(Predictor(source), images)
    difference = largest_difference(found, expected)
    if difference <= TOLERANCE[weights]:
        return difference
    exact, allowed = expected, TOLERANCE[weights]
    if not isinstance(source, Path):
        exact = _outputs(Predictor(in_precision(source, "float64")), images)
        allowed = max(allowed, min(ROUNDING * largest_difference(expected, exact), MOST))
    if not largest_difference(found, exact, allowed) <= allowed:  # also for nan
        raise ValueError(f"Expected the export to answer as its source, found a difference of {difference:.1e}: {out}")
    return difference


def largest_difference(
    found: Sequence[Mapping[str, NDArray]], exact: Sequence[Mapping[str, NDArray]], at_threshold: float = 0.0
) -> float:
    """The largest difference of two lists of outputs; relative for an ood_score above 1, which has no bound.

    Args:
        found: List of dicts of arrays, one per image.
        exact: List of dicts of the same keys.
        at_threshold: Distance of a pixel's probability from the threshold below which it may be in the mask or not.
            The uncertainty, a mean over the mask, may differ by the share of such pixels.
    """
    differences = []
    for one, other in zip(found, exact, strict=True):
        for name, value in other.items():
            difference = np.abs(one[name] - value).max() / (max(1, value.max()) if name == "ood_score" else 1)
            if name == "uncertainty" and at_threshold:
                lesion = other["probability_map"] - THRESHOLD
                difference = max(0, difference - (np.abs(lesion) <= at_threshold).sum() / max((lesion >= 0).sum(), 1))
            differences.append(difference)
    return float(np.max(differences))
