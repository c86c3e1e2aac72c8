"""Operating points: thresholds of the probability of malignant, by sensitivity.

A model stores a table of them as JSON: `thresholds`, where at least `1 - i / STEPS` of the malignant images reach
number i of `STEPS`, and `images`, the number of malignant images behind it. The network must not have been trained on
these images: out of fold, or a clinic's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = 200
# Number of a clinic's images that weigh as much as the model's table: for the mean of malignant images, and for their
# spread, which needs more images. See `benchmarks/calibrate.py`.
PLACE, SPREAD = 40, 100


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold of the probability of malignant, at or above which an image counts as malignant.

    Args:
        sensitivity: Share of the malignant images that reach the threshold, in `(0, 1)`.
        threshold: Probability in `[0, 1]`.
        low, high: 95 % interval of the sensitivity at this threshold, for other images of the same kind.
    """

    sensitivity: float
    threshold: float
    low: float
    high: float


def tabulate_thresholds(probabilities: Sequence[float] | NDArray) -> dict:
    """Make the table of a model.

    Args:
        probabilities: Sequence of the probabilities of malignant of malignant images, at least one image.

    Returns:
        Dict of `images` and `thresholds`, rising floats in `[0, 1]`.
    """
    return {"images": len(probabilities), "thresholds": _quantiles(probabilities, np.ones(len(probabilities)))}


def adapt_thresholds(table: Mapping, temperature: float, probabilities: Sequence[float] | NDArray) -> dict:
    """Adapt a model's table to the malignant images of a clinic.

    On the scale of log-odds, the table is divided by the temperature and shifted by `n / (n + PLACE)` of the mean
    distance of the `n` images from its mean. The new table is that of images and shifted table together, where the
    table counts as `SPREAD` images.

    Args:
        table: See `tabulate_thresholds`.
        temperature: Float > 0, the new temperature of the model's logits.
        probabilities: Sequence of the probabilities of malignant of the malignant images, at that temperature.

    Returns:
        Dict; see `tabulate_thresholds`.
    """
    place, spread = (min(one, table["images"]) for one in (PLACE, SPREAD))
    known, images = _log_odds(table["thresholds"]) / temperature, _log_odds(probabilities)
    known += np.sum(images - known.mean()) / (len(images) + place)
    weights = np.concatenate([np.full(len(known), spread / len(known)), np.ones(len(images))])
    quantiles = _quantiles(np.concatenate([known, images]), weights)
    return {"images": len(images) + place, "thresholds": [float(1 / (1 + np.exp(-x))) for x in quantiles]}


def find_operating_point(table: Mapping, sensitivity: float) -> OperatingPoint:
    """Look up the threshold for a sensitivity.

    The interval is that of order statistics: if `k - 1` of `n` malignant images lie below the threshold, the share of
    all such images that reach it has the distribution Beta(`n - k + 1`, `k`). It counts several images of one patient
    as independent, so it is then too narrow.

    Args:
        table: See `tabulate_thresholds`.
        sensitivity: Float in `(0, 1)`.

    Returns:
        An `OperatingPoint`.

    Raises:
        ValueError: If the sensitivity is out of its range.
    """
    from scipy.special import betaincinv

    if not 0 < sensitivity < 1:
        raise ValueError(f"Expected a sensitivity above 0 and below 1, found {sensitivity}")
    images = table["images"]
    below = _missed(images, sensitivity)
    low, high = betaincinv(images - below, below + 1, (0.025, 0.975))
    threshold = table["thresholds"][_missed(STEPS, sensitivity)]
    return OperatingPoint(sensitivity, threshold, float(low), float(high))


def _missed(images, sensitivity):
    """Number of images that may be missed; rounded, so that 1 - 0.9 is a tenth."""
    return int(round(images * (1 - sensitivity), 6))


def _quantiles(values, weights):
    """`STEPS` values, of which number i is the largest with at most `i / STEPS` of the weight below it."""
    order = np.argsort(values)
    values, weights = np.asarray(values, dtype=float)[order], weights[order]
    below = (np.cumsum(weights) - weights) / weights.sum()
    places = np.searchsorted(below, np.arange(STEPS) / STEPS + 1e-9, side="right") - 1
    return values[places].tolist()


def _log_odds(probabilities):
    p = np.clip(np.asarray(probabilities, dtype=float), 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))
