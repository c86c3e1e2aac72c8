"""Find the lesion in a mask file's pixels, in the encodings that annotation tools use."""

import re

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MASK_STEM = re.compile(
    r"(?P<image>.+)_mask(_\d+)?", re.DOTALL
)  # of a mask beside its image; any character may be in it
MOST_CLASS = 20  # class numbers are small; a soft edge has more values
_BRIGHT = 192  # a soft mask of 0..255 reaches at least this inside its lesions
_PLACES = (65536, 256, 1)  # of red, green and blue, for one number a colour
_VOID = (224, 224, 192)  # the colour of 255 in VOC's palette: pixels to ignore, along outlines


def mask_pixels(image: Image.Image) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The pixels of a mask as its file stores them.

    Args:
        image: A `PIL.Image`.

    Returns:
        Array `(height, width)`, uint8 or uint16, for a grey image; `(height, width, 4)`, uint8, RGBA, for an image with
        colours or transparency.
    """
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image.convert("L"))
    if not image.has_transparency_data:
        image = image.convert("RGB")
    return np.asarray(image.convert("RGBA"))


def lesion_levels(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Turn the pixels of a mask into grey values, where values above 127 are lesion.

    - Two values: the background is 0, black or transparent if the mask has it, else the value along the border. The
      other value is lesion, however dark it is.
    - Class numbers (0 and up to `MOST_CLASS`), and up to `MOST_CLASS` grey levels or colours that fill areas: all but
      the background are lesion.
    - Soft edges: values stay as they are. A colour's value is its distance from the background's colour, in its
      brightest channel.

    Args:
        pixels: Array, see `mask_pixels`.

    Returns:
        Array `(height, width)`, uint8.

    Raises:
        ValueError: If the lesion cannot be distinguished from the background. One line, without the path.
    """
    values = _distance_from_background(pixels) if pixels.ndim == 3 else pixels
    found = np.flatnonzero(np.bincount(values.ravel()))
    if len(found) == 1:
        if found[0] not in (0, 1, 255, 65535):
            raise _unclear(f"the value {found[0]} everywhere")
        return np.full(values.shape, 255 if found[0] else 0, np.uint8)
    if len(found) == 2:
        return _white_where(values != (_along_border(values) if found[0] else 0))
    if found[-1] <= MOST_CLASS:
        if found[0]:
            raise _unclear(f"class numbers from {found[0]} to {found[-1]} without 0")
        return _white_where(values > 0)
    if values.dtype == np.uint16 and found[-1] > 255:
        values = np.round(values / 257.0)
    values = values.astype(np.uint8)
    darkest, brightest = int(values.min()), int(values.max())
    if darkest > 127:
        raise _unclear(f"{len(found)} values, none below {darkest}")
    filling = _values_of_areas(values)
    dark = filling[(filling > darkest) & (filling <= 127)]
    if len(found) <= MOST_CLASS and len(dark):
        if dark[0] <= MOST_CLASS:  # such as 0, 1 and 255, where 255 may mean to ignore
            raise _unclear(f"the class number {dark[0]} beside the value {brightest}")
        return _white_where(values >= dark[0])
    if np.isin(values, dark[dark > MOST_CLASS]).sum() > 0.01 * np.count_nonzero(values):
        raise _unclear(f"{len(found)} values, of which {dark[dark > MOST_CLASS][0]} fills an area")
    if brightest < _BRIGHT:
        raise _unclear(f"{len(found)} values, none above {brightest}")
    return values


def _distance_from_background(rgba):
    """Grey values of a coloured mask, 0 where it is background."""
    opacity = rgba[..., 3].astype(np.float64) * (255 / max(1, rgba[..., 3].max()))
    clear = opacity == 0
    if clear.all():
        return np.zeros(clear.shape, np.uint8)
    if clear.any() and not np.ptp(rgba[~clear][:, :3], axis=0).any():  # one colour, perhaps black, on transparency
        levels = np.round(opacity).astype(np.uint8)
        return 255 - levels if _border(clear).mean() < 0.5 else levels
    colours = np.round(rgba[..., :3] * (opacity[..., None] / 255)).astype(np.int16)
    if (colours == colours[..., :1]).all():
        return colours[..., 0].astype(np.uint8)
    numbers = colours.astype(np.int64) @ _PLACES
    if (numbers == np.dot(_VOID, _PLACES)).any() and len(np.unique(numbers)) > 2:
        raise _unclear(f"the colour {_VOID} beside others, by which VOC means to ignore")
    if numbers.min() == numbers.max():
        raise _unclear("one colour everywhere")
    if numbers.min() > 0:  # no black
        background = _along_border(numbers)
        colours -= np.array((background >> 16, background >> 8 & 255, background & 255), np.int16)
    return np.abs(colours).max(axis=-1).astype(np.uint8)


def _border(values):
    return np.concatenate((values[0], values[-1], values[1:-1, 0], values[1:-1, -1]))


def _along_border(values):
    """The value that most pixels of the border have; the lowest of equally frequent ones."""
    found, counts = np.unique(_border(values), return_counts=True)
    return int(found[counts.argmax()])


def _values_of_areas(values):
    """The values that fill at least one square of 3 x 3 pixels. Values of a soft edge do not."""
    square = np.ones((3, 3), np.uint8)
    return np.unique(values[cv2.erode(values, square) == cv2.dilate(values, square)])


def _white_where(lesion):
    return np.where(lesion, np.uint8(255), np.uint8(0))


def _unclear(found):
    return ValueError(f"Expected a mask of background and lesion, found {found}")
