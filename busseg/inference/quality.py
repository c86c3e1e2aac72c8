"""Reasons not to trust a prediction: an image unlike those of the training, and faint grey levels."""

import cv2
import numpy as np
from numpy.typing import NDArray

OUT_OF_DISTRIBUTION = "not like breast ultrasound"
_DARK, _FLAT = 64, 16  # grey levels of 255; images of three datasets have 103 or more, and a range of 127 or more


def find_faint(image: NDArray) -> str | None:
    """Describe what is wrong with the grey levels of an image.

    Args:
        image: Array `(height, width)` uint8.

    Returns:
        "nearly one grey" where all but half a percent at either end lie within 16 of 255 levels; "very dark" where all
        but half a percent are below a quarter of white; else None.
    """
    counts = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().cumsum(dtype=np.float64)
    low, high = np.searchsorted(counts, [0.005 * image.size, 0.995 * image.size])
    if high - low < _FLAT:
        return "nearly one grey"
    return "very dark" if high < _DARK else None
