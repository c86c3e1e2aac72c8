"""Text, calipers and other marks that a scanner drew into an image.

Echo is smooth: the pulse is several pixels wide, so a bright spot fades over some pixels. What a scanner writes on top
has no such blur: a stroke is near white, a few pixels wide, and falls to the tissue's grey within one pixel. The more
an image was shrunk after scanning, the less the two differ.
"""

import cv2
import numpy as np

SMALLEST_PX = 256  # longer side; at half of BUSI's size a third of the marks is missed already
DROP = 100  # grey levels, from a stroke to the pixel beside it; of BUSI's echoes few fall so steeply
STROKE_PX = 13  # what is wider is no stroke; letters are 2 to 4 px thick
WINDOW_PX = 41  # a few letters, or one caliper with its number
ENOUGH = 20  # pixels of strokes in one window: in BUSI two letters have more, echoes without marks fewer than 19
MARGIN_PX = 3  # the frame that some croppings left is no mark
CORNER_PX = 45  # at the top left, where the maker's logo stands, or the rest of it that a cropping left


def has_marks(image):
    """Whether text, a caliper, a pictogram or another mark is drawn into an image.

    Faint marks, marks on a nearly white ground, single dots and what stands in the `CORNER_PX` at the top left are
    passed over. How many it finds, and how many wrongly, benchmarks/burned_in.py measures.

    Args:
        image: Array `(height, width)`, uint8, at the resolution at which the scanner saved it.

    Returns:
        True or False; None if the image is smaller than `SMALLEST_PX`, for then its echoes are as sharp as letters.
    """
    if max(image.shape) < SMALLEST_PX:
        return None
    return count_stroke_pixels(image) >= ENOUGH


def count_stroke_pixels(image):
    """The most pixels of thin, sharp, bright strokes that any square of `WINDOW_PX` holds.

    Args:
        image: Array `(height, width)`, uint8.
    """
    drop = cv2.subtract(image, cv2.erode(image, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))))
    # The top hat leaves what is narrow: the edge of a sector or of a bar is as sharp, but the tissue beside it is wide.
    narrow = cv2.morphologyEx(image, cv2.MORPH_TOPHAT, np.ones((STROKE_PX, STROKE_PX), np.uint8))
    strokes = cv2.min(drop, narrow) >= DROP
    strokes[:CORNER_PX, :CORNER_PX] = False
    inner = np.float32(strokes[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX])
    if not inner.size:
        return 0
    window = (WINDOW_PX, WINDOW_PX)
    return round(cv2.boxFilter(inner, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT).max())
