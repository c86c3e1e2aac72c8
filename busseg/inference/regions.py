"""Join the predictions of the regions of a DICOM frame."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from busseg.data.sample import CLASSES
from busseg.imaging.dicom import Scan
from busseg.inference.quality import OUT_OF_DISTRIBUTION

if TYPE_CHECKING:
    from busseg.inference.prediction import Prediction


def join_regions(scan: Scan, predictions: "Sequence[Prediction]") -> "Prediction":
    """Join the predictions of the regions of a frame, which are predicted separately.

    Class, probabilities, uncertainty and ood_score are those of the most suspicious region: the one with the highest
    probability of malignant among those called malignant; without any, the one with the lowest probability of normal
    among those called benign; without any, among all. A frame is malignant at a sensitivity if one of its regions is.
    The mask is the union of the masks. Regions that are out of distribution, such as an elastogram, are left out and
    counted in the notes, unless all are.

    Args:
        scan: The `busseg.imaging.dicom.Scan` of the frame.
        predictions: List of `Prediction`, one for each of `scan.crops`.

    Returns:
        A `Prediction`: mask and map at the size of the frame, 0 outside the regions, with the frame's scale.
    """
    some_known = any(prediction.in_distribution for prediction in predictions)
    left_out = [some_known and not prediction.in_distribution for prediction in predictions]
    counted = [prediction for prediction, out in zip(predictions, left_out) if not out]
    worst = max(counted, key=_suspicion)
    notes = scan.regions.notes
    if any(left_out):
        notes = (*notes, f"left out: {sum(left_out)} of {len(predictions)} regions, {OUT_OF_DISTRIBUTION}")
    return replace(
        worst,
        mask=scan.place([_blank(one.mask, out) for one, out in zip(predictions, left_out)]),
        probability_map=scan.place([_blank(one.probability_map, out) for one, out in zip(predictions, left_out)]),
        malignant=None if worst.malignant is None else any(prediction.malignant for prediction in counted),
        spacing_mm=scan.spacing_mm,
        regions=scan.regions.boxes,
        notes=notes,
    )


def _blank(values: NDArray | None, left_out: bool) -> NDArray:
    assert values is not None  # of ultrasound
    return values * (not left_out)


def _suspicion(prediction):
    normal, _, malignant = prediction.probabilities
    return CLASSES.index(prediction.label), malignant if prediction.label == "malignant" else 1 - normal
