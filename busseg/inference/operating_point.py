"""Thresholds of the probability of malignant, by the share of the malignant images that reach them.

A model carries a table of them as JSON: `thresholds`, where number i of `STEPS` is reached by at least `1 - i / STEPS`
of the malignant images, and `images`, how many images that is known by. The images must be new to the network that gave
their probabilities: out of fold, or a clinic's own.
"""

from dataclasses import dataclass

import numpy as np

STEPS = 200
# How many scans of a clinic it takes to believe them as much as the table of the model, found elsewhere: of where
# malignant images lie, and of how they spread, of which a few scans say less. See `benchmarks/calibrate.py`.
PLACE, SPREAD = 40, 100


@dataclass(frozen=True)
class OperatingPoint:
    """An image counts as malignant from a threshold on.

    Args:
        sensitivity: Share of the malignant images that reach the threshold, in `(0, 1)`.
        threshold: Of the probability of malignant, in `[0, 1]`.
        low, high: 95 % interval of the sensitivity at this threshold, for other images of the same kind.
    """

    sensitivity: float
    threshold: float
    low: float
    high: float


def tabulate_thresholds(probabilities):
    """Make the table of a model.

    Args:
        probabilities: Sequence of the probabilities of malignant of malignant images, at least one.

    Returns:
        Dict of `images` and `thresholds`, rising floats in `[0, 1]`.
    """
    return {"images": len(probabilities), "thresholds": _quantiles(probabilities, np.ones(len(probabilities)))}


def adapt_thresholds(table, temperature, probabilities):
    """Move a model's table to where the malignant scans of a clinic lie.

    On the scale of log-odds, the table is divided by the temperature, and moved by the mean distance of the scans from
    its mean, shrunk to `n / (n + PLACE)` of it for `n` scans. Scans and table together then make the new one, where the
    table counts as `SPREAD` scans.

    Args:
        table: See `tabulate_thresholds`.
        temperature: Float > 0, by which the logits of the model are divided from now on.
        probabilities: Sequence of the probabilities of malignant of the malignant scans, at that temperature.

    Returns:
        Dict; see `tabulate_thresholds`.
    """
    place, spread = (min(one, table["images"]) for one in (PLACE, SPREAD))
    known, scans = _log_odds(table["thresholds"]) / temperature, _log_odds(probabilities)
    known += np.sum(scans - known.mean()) / (len(scans) + place)
    weights = np.concatenate([np.full(len(known), spread / len(known)), np.ones(len(scans))])
    quantiles = _quantiles(np.concatenate([known, scans]), weights)
    return {"images": len(scans) + place, "thresholds": [float(1 / (1 + np.exp(-x))) for x in quantiles]}


def find_operating_point(table, sensitivity):
    """Look up the threshold for a sensitivity.

    The interval is that of order statistics: of `n` malignant images, let `k - 1` lie below the threshold; then the
    share of all such images that reach it is spread as Beta(`n - k + 1`, `k`). Images of one patient, which are alike,
    say less than they are counted for.

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
    """How many of some images may be missed; the rounding lets 1 - 0.9 be a tenth."""
    return int(round(images * (1 - sensitivity), 6))


def _quantiles(values, weights):
    """Of `STEPS` values, number i is the largest of which at most `i / STEPS` of the weight lies below."""
    order = np.argsort(values)
    values, weights = np.asarray(values, dtype=float)[order], weights[order]
    below = (np.cumsum(weights) - weights) / weights.sum()
    places = np.searchsorted(below, np.arange(STEPS) / STEPS + 1e-9, side="right") - 1
    return values[places].tolist()


def _log_odds(probabilities):
    p = np.clip(np.asarray(probabilities, dtype=float), 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))
