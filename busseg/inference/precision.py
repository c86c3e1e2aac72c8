"""Check a model in a faster precision against itself in float32."""

from typing import TYPE_CHECKING

import numpy as np

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
    if predictor.task.is_histology:
        images = [draw_tissue(label, 100, patient=0, number=0) for label in Task.HISTOLOGY.classes]
    else:
        images = [draw_phantom(label, seed=0)[0] for label in predictor.classes]
    for found, expected in zip(predictor.predict_batch(images), exact.predict_batch(images), strict=True):
        dice = _dice(found.mask, expected.mask) if predictor.task.has_mask else 1.0
        if found.label != expected.label or dice < LEAST_DICE:
            raise ValueError(
                f"Expected the answers of float32 on phantoms, found {found.label} instead of {expected.label} and a "
                f"Dice of {dice:.3f} between the masks in {predictor.precision}: {predictor.path}"
            )


def _dice(mask, other):
    """Dice of two masks; 1 if both are empty."""
    pixels = int(mask.sum()) + int(other.sum())
    return 2 * int(np.sum(mask & other)) / pixels if pixels else 1.0
