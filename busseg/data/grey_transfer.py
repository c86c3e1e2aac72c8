"""Transfer the grey values of one scanner to an image of another."""

import numpy as np
from numpy.typing import NDArray


def match_histogram(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give an image the histogram of another one.

    Pixels of value 0, such as the fill around an image in its square, stay 0 and do not count. If the reference has
    only such pixels, the image stays unchanged.

    Args:
        image: Array `(height, width)`, uint8.
        reference: Array of any shape, uint8.

    Returns:
        Array `(height, width)`, uint8.

    Reference:
        Gonzalez and Woods, "Digital Image Processing", section "Histogram matching"
    """
    shares, wanted = (_cumulative(pixels) for pixels in (image, reference))
    present = np.flatnonzero(np.diff(wanted, prepend=0))  # for equal shares, `interp` would take the last level
    if not len(present):
        return image
    levels = np.interp(shares, wanted[present], present).round().astype(np.uint8)
    levels[0] = 0
    return levels[image]


def _cumulative(pixels):
    counts = np.bincount(pixels.reshape(-1), minlength=256).astype(float)
    counts[0] = 0
    return np.cumsum(counts) / max(counts.sum(), 1)
