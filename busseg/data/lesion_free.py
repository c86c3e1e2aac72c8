"""Lesion-free crops of images with a lesion: normal images for a scanner that has none."""

import numpy as np

from busseg.data.images import fit_to_square

_MARGIN = 0.03  # of the square's side, kept between crop and lesion: its rim is blurred
_LEAST = 0.4  # of the image's own height and width


def crop_beside_lesion(image, mask, random):
    """Crop an image beside its lesion, and fit the crop to the square.

    The crop is a rectangle left of, right of, above or below the lesion's bounding box, chosen with a chance in
    proportion to its area, and as large as it can be.

    Args:
        image: Array `(size, size)`, uint8, as `fit_to_square` gives it.
        mask: Array `(size, size)`, uint8, 0 or 1, with a lesion.
        random: `numpy.random.Generator`.

    Returns:
        Array `(size, size)`, uint8; or None where no side leaves a crop of 0.4 of the image's height and width.
    """
    size = len(image)
    (top, bottom), (left, right) = (_range(image.any(axis)) for axis in (1, 0))
    (first, last), (begin, end) = (_range(mask.any(axis)) for axis in (1, 0))
    margin = round(_MARGIN * size)
    candidates = [
        (top, first - margin, left, right),
        (last + margin, bottom, left, right),
        (top, bottom, left, begin - margin),
        (top, bottom, end + margin, right),
    ]
    height, width = _LEAST * (bottom - top), _LEAST * (right - left)
    candidates = [(a, b, c, d) for a, b, c, d in candidates if b - a >= height and d - c >= width]
    if not candidates:
        return None
    areas = np.array([(b - a) * (d - c) for a, b, c, d in candidates], float)
    a, b, c, d = candidates[random.choice(len(candidates), p=areas / areas.sum())]
    return fit_to_square(image[a:b, c:d], size)


def _range(present):
    """First and last place, exclusive, where a boolean vector is True."""
    places = np.flatnonzero(present)
    return (places[0], places[-1] + 1) if len(places) else (0, len(present))
