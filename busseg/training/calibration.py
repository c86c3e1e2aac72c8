"""Post-hoc calibration of class probabilities: temperature scaling."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar


def fit_temperature(probabilities: NDArray, labels: NDArray, spread: float | None = None) -> float:
    """Find the temperature that calibrates a network when its logits are divided by it.

    Args:
        probabilities: Array `(n, classes)` of images that the network was not trained with.
        labels: Integer array `(n,)`, the true classes.
        spread: Standard deviation of a normal prior of the temperature's logarithm, with mean 0, so that a few images
            cannot move it far. None for no prior.

    Returns:
        The temperature with the least cross-entropy (with `spread`, the most probable one), in `[0.1, 10]`; above 1 for
        an overconfident network.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599
    """

    def cost(log_temperature):
        scaled = apply_temperature(probabilities, np.exp(log_temperature))
        surprise = -np.log(np.maximum(scaled[np.arange(len(labels)), labels], 1e-12)).sum()
        return surprise if spread is None else surprise + (log_temperature / spread) ** 2 / 2

    return float(np.exp(minimize_scalar(cost, bounds=np.log([0.1, 10]), method="bounded").x))


def apply_temperature(probabilities: NDArray, temperature: float) -> NDArray:
    """Probabilities `(n, classes)` after their logits are divided by a temperature."""
    logits = np.log(np.maximum(probabilities, 1e-7)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
