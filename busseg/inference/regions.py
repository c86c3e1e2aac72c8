"""Join what a model says of the regions of a DICOM frame into one answer of the frame."""

from dataclasses import replace

from busseg.data.sample import CLASSES
from busseg.inference.predictor import OUT_OF_DISTRIBUTION


def join_regions(scan, predictions):
    """The answer of a frame from those of its regions, each of which was predicted by itself.

    The class, its probabilities, uncertainty and ood_score are those of the most suspicious region: of those called
    malignant the one most probably malignant; else of those called benign, or else of all, the one least probably
    normal. A frame is malignant at a sensitivity if one of its regions is. The masks of all regions make one. A region
    that is not like a breast ultrasound, such as an elastogram, is left out and named, unless all are.

    Args:
        scan: The `busseg.imaging.dicom.Scan` that the frame is of.
        predictions: List of `Prediction`, one for each of `scan.crops`.

    Returns:
        A `Prediction`: mask and map at the size of the frame, 0 outside the regions, with the frame's scale.
    """
    some_readable = any(prediction.in_distribution for prediction in predictions)
    left_out = [some_readable and not prediction.in_distribution for prediction in predictions]
    counted = [prediction for prediction, out in zip(predictions, left_out) if not out]
    worst = max(counted, key=_suspicion)
    notes = scan.regions.notes
    if any(left_out):
        notes = (*notes, f"left out: {sum(left_out)} of {len(predictions)} regions, {OUT_OF_DISTRIBUTION}")
    return replace(
        worst,
        mask=scan.place([one.mask * (not out) for one, out in zip(predictions, left_out)]),
        probability_map=scan.place([one.probability_map * (not out) for one, out in zip(predictions, left_out)]),
        malignant=None if worst.malignant is None else any(prediction.malignant for prediction in counted),
        spacing_mm=scan.spacing_mm,
        regions=scan.regions.boxes,
        notes=notes,
    )


def _suspicion(prediction):
    normal, _, malignant = prediction.probabilities
    return CLASSES.index(prediction.label), malignant if prediction.label == "malignant" else 1 - normal
