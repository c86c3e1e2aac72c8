"""Detect text, calipers and other marks that a scanner drew into an image.

Echoes are smooth: the pulse is several pixels wide, so a bright spot fades over several pixels. A scanner's marks have
no such blur: a stroke is nearly white, a few pixels wide, and falls to the tissue's grey within one pixel. The more an
image was shrunk after scanning, the less the two differ.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST_PX = 256  # longer side; at half of BUSI's size a third of the marks is already missed
DROP = 100  # grey levels from a stroke to the pixel beside it; few of BUSI's echoes fall so steeply
STROKE_PX = 13  # a wider structure is no stroke; letters are 2 to 4 px thick
WINDOW_PX = 41  # a few letters, or one caliper with its number
ENOUGH = 20  # stroke pixels in one window: in BUSI two letters have more, echoes without marks fewer than 19
MARGIN_PX = 3  # the border that some crops left is no mark
CORNER_PX = 45  # at the top left, where the maker's logo is, or the part of it that a crop left


def has_marks(image: NDArray[np.uint8]) -> bool | None:
    """Whether text, a caliper, a pictogram or another mark is drawn into an image.

    Faint marks, marks on a nearly white background, single dots and marks in the `CORNER_PX` at the top left are
    ignored. benchmarks/burned_in.py measures how many marks it finds, and how many wrongly.

    Args:
        image: Array `(height, width)`, uint8, at the resolution at which the scanner saved it.

    Returns:
        True or False; None if the image is smaller than `SMALLEST_PX`, where echoes are as sharp as letters.
    """
    if max(image.shape) < SMALLEST_PX:
        return None
    return count_stroke_pixels(image) >= ENOUGH


def count_stroke_pixels(image: NDArray[np.uint8]) -> int:
    """The number of pixels of thin, sharp, bright strokes in the square of `WINDOW_PX` that holds most of them.

    Args:
        image: Array `(height, width)`, uint8.
    """
    drop = cv2.subtract(image, cv2.erode(image, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))))
    # The top hat keeps narrow structures: the edge of a sector or bar is as sharp, but the tissue beside it is wide.
    narrow = cv2.morphologyEx(image, cv2.MORPH_TOPHAT, np.ones((STROKE_PX, STROKE_PX), np.uint8))
    strokes = cv2.min(drop, narrow) >= DROP
    strokes[:CORNER_PX, :CORNER_PX] = False
    inner = strokes[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX].astype(np.float32)
    if not inner.size:
        return 0
    window = (WINDOW_PX, WINDOW_PX)
    return round(cv2.boxFilter(inner, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT).max())
