"""Check a model in a faster precision against itself in float32."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from busseg.data.phantom import draw_phantom
from busseg.data.task import Task
from busseg.data.tissue import draw_tissue

if TYPE_CHECKING:
    from busseg.inference.predictor import Predictor

LEAST_DICE = 0.98  # of the mask in float32 and that of the faster precision


def check_precision(predictor: "Predictor", exact: "Predictor") -> None:
    """Compare the classes and masks of two predictors of a model, on one phantom per class.

    Args:
        predictor: `Predictor` of the model in the faster precision.
        exact: `Predictor` of the same model in float32.

    Raises:
        ValueError: If a class differs, or a mask by more than `LEAST_DICE` allows.
    """
    images = made_up_images(predictor.task)
    where = f"{predictor.precision} on phantoms: {predictor.path}"
    for found, expected in zip(predictor.predict_batch(images), exact.predict_batch(images), strict=True):
        if found.label != expected.label:
            raise ValueError(f"Expected the class of float32, {expected.label}, found {found.label} in {where}")
        if predictor.task.has_mask and (dice := _dice(found.mask, expected.mask)) < LEAST_DICE:
            raise ValueError(f"Expected the masks of float32, found a Dice of {dice:.3f} with them in {where}")


def made_up_images(task: Task) -> list[NDArray]:
    """Made-up images: a phantom per class, `(height, width)` uint8; or benign and malignant tissue, with 3 channels."""
    if task.is_histology:  # tissue is not drawn by subtype
        return [draw_tissue(label, 100, patient=0, number=0) for label in Task.HISTOLOGY.classes]
    return [draw_phantom(label, seed=0)[0] for label in task.classes]


def _dice(mask, other):
    """Dice of two masks; 1 if both are empty."""
    pixels = int(mask.sum()) + int(other.sum())
    return 2 * int(np.sum(mask & other)) / pixels if pixels else 1.0
