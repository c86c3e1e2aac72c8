"""How sure a network may be, by images it was not trained with."""

import numpy as np
from scipy.optimize import minimize_scalar


def fit_temperature(probabilities, labels, spread=None):
    """Find the temperature by which a network's logits are to be divided, so that its probabilities come true.

    Args:
        probabilities: Array `(n, classes)` of images that the network was not trained with.
        labels: Integer array `(n,)`, the true classes.
        spread: Standard deviation about 0 that the logarithm of the temperature has before any image is seen, which
            keeps a few images from moving it far; None believes the images alone.

    Returns:
        The temperature with the least cross-entropy (with `spread`, the most probable one), in `[0.1, 10]`; above 1 for
        a network that is too sure.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599
    """

    def cost(log_temperature):
        scaled = apply_temperature(probabilities, np.exp(log_temperature))
        surprise = -np.log(np.maximum(scaled[np.arange(len(labels)), labels], 1e-12)).sum()
        return surprise if spread is None else surprise + (log_temperature / spread) ** 2 / 2

    return float(np.exp(minimize_scalar(cost, bounds=np.log([0.1, 10]), method="bounded").x))


def apply_temperature(probabilities, temperature):
    """What probabilities `(n, classes)` become when the logits behind them are divided by a temperature."""
    logits = np.log(np.maximum(probabilities, 1e-7)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
