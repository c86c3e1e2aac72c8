"""Lesion-free crops of images with a lesion: normal images for scanners whose data have none."""

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.images import fit_to_square

_MARGIN = 0.03  # between crop and lesion, as a fraction of the square's side: a lesion's rim is blurred
_LEAST = 0.33  # least width of a crop, as a fraction of the image's width
_NARROWEST = 0.6  # least width over height of a crop


def crop_beside_lesion(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], random: np.random.Generator
) -> NDArray[np.uint8] | None:
    """Crop an image beside its lesion, and fit the crop to the square.

    The crop lies left or right of the lesion's bounding box and begins at the skin, as a scan without a lesion does.
    The area below a lesion lies in its shadow, so it is not used. If both sides are wide enough, one is drawn with a
    probability in proportion to its width.

    Args:
        image: Array `(size, size)`, uint8, as `fit_to_square` gives it.
        mask: Array `(size, size)`, uint8, 0 or 1, with a lesion.
        random: `numpy.random.Generator`.

    Returns:
        Array `(size, size)`, uint8; None if neither side is a third as wide as the image.
    """
    size = len(image)
    (top, bottom), (left, right) = (_range(image.any(axis)) for axis in (1, 0))
    begin, end = _range(mask.any(axis=0))
    margin = round(_MARGIN * size)
    sides = [(left, begin - margin), (end + margin, right)]
    sides = [(start, stop) for start, stop in sides if stop - start >= _LEAST * (right - left)]
    if not sides:
        return None
    widths = np.array([stop - start for start, stop in sides])
    start, stop = sides[random.choice(len(sides), p=widths / widths.sum())]
    height = min(bottom - top, round((stop - start) / _NARROWEST))
    return fit_to_square(image[top : top + height, start:stop], size)


def _range(present):
    """The first index at which a boolean vector is True, and the last one plus 1."""
    places = np.flatnonzero(present)
    return (places[0], places[-1] + 1) if len(places) else (0, len(present))
