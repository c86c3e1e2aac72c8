"""Whether an export answers as its source: the same class and mask, and the same numbers but for rounding."""

from pathlib import Path

import cv2
import numpy as np

from busseg.data.phantom import draw_phantom
from busseg.data.sample import TASKS
from busseg.data.tissue import draw_tissue
from busseg.inference.predictor import THRESHOLD, Predictor
from busseg.inference.runtimes import in_precision, load

# Of a probability, by how the weights are stored. Eight bits move the edge of a lesion, where pixels change much.
TOLERANCE = {"float32": 1e-4, "float16": 0.1, "int8": 0.5}
# Some networks lose more than that to rounding: a runtime may be so many times as far from the answer in float64 as
# Keras itself, which sums in another order, and no farther than this.
ROUNDING, MOST = 10, 0.01
_ANSWERS = ("probability_map", "probabilities", "uncertainty", "ood_score")  # what of a `Prediction` is compared


def check(export, source, out, weights="float32"):
    """Compare an export with its source, on a phantom a class.

    Args:
        export: Path of the export.
        source: What it was made of: a `keras.Model` of float32, or the path of an ONNX file.
        out: Path that errors name.
        weights: How the export stores its weights, a key of `TOLERANCE`.

    Returns:
        The largest difference between the answers of the two.

    Raises:
        ValueError: If the export does not run, or answers otherwise.
    """
    try:
        predictor = Predictor(export)
    except ValueError as error:  # a layer that the format does not know
        raise ValueError(f"Expected an export that runs, found one that does not ({error}): {out}") from error
    images = _phantoms(predictor)
    return _compare(source, images, _answers(predictor, images), weights, out)


def check_raw(export, source, out, weights="float32"):
    """As `check`, of an export that takes images as they are.

    Grey levels are multiples of 16, and sides twice or half of the square's: then the resized ones are whole numbers,
    where another runtime might round a half the other way.
    """
    predictor, (run, _, _) = Predictor(source), load(export)
    size, images, found = predictor.image_size, [], []
    for phantom in _phantoms(predictor):
        for width, height in ((size, 2 * size), (size // 2, size // 4)):
            image = cv2.resize(phantom, (width, height), interpolation=cv2.INTER_AREA) // 16 * 16
            told = run(image.reshape(height, width, -1))
            images.append(image)
            found.append({name: np.asarray(told[name]) for name in _ANSWERS if name in told})
    return _compare(source, images, found, weights, out)


def _phantoms(predictor):
    """A phantom a class."""
    if predictor.task == "ultrasound":
        return [draw_phantom(label, seed=0)[0] for label in predictor.classes]
    return [draw_tissue(label, 100, patient=0, number=0) for label in TASKS["histology"]]


def _answers(predictor, images):
    """A dict of arrays an image."""
    told = ({name: getattr(one, name) for name in _ANSWERS} for one in predictor.predict_batch(images))
    return [{name: np.asarray(answer) for name, answer in one.items() if answer is not None} for one in told]


def _compare(source, images, found, weights, out):
    expected = _answers(Predictor(source), images)
    difference = largest_difference(found, expected)
    if difference <= TOLERANCE[weights]:
        return difference
    exact, allowed = expected, TOLERANCE[weights]
    if not isinstance(source, Path):
        exact = _answers(Predictor(in_precision(source, "float64")), images)
        allowed = max(allowed, min(ROUNDING * largest_difference(expected, exact), MOST))
    if not largest_difference(found, exact, allowed) <= allowed:  # also if it is no number
        raise ValueError(f"Expected the export to answer as its source, found a difference of {difference:.1e}: {out}")
    return difference


def largest_difference(found, exact, at_threshold=0.0):
    """The largest difference of two lists of answers; of a ood_score above 1, which has no bound, as a share of it.

    Args:
        found: List of dicts of arrays, one an image.
        exact: List of dicts of the same keys.
        at_threshold: How near to the threshold a pixel may be in the mask or not. The uncertainty, a mean over the
            mask, may differ by as much as such pixels are of it.
    """
    differences = []
    for one, other in zip(found, exact, strict=True):
        for name, answer in other.items():
            difference = np.abs(one[name] - answer).max() / (max(1, answer.max()) if name == "ood_score" else 1)
            if name == "uncertainty" and at_threshold:
                lesion = other["probability_map"] - THRESHOLD
                difference = max(0, difference - (np.abs(lesion) <= at_threshold).sum() / max((lesion >= 0).sum(), 1))
            differences.append(difference)
    return float(np.max(differences))
