"""Images given in Python instead of a path: NumPy arrays, Pillow images, and the content of an image file."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busseg.imaging.images import bits_in_use, check_size, convert_image, decode_image, to_colour, to_grey
from busseg.imaging.kinds import IMAGES, find_kind_of_bytes

InMemory = NDArray | Image.Image | bytes | bytearray | memoryview

_BRIGHT = 16  # a float image of 0 to 255 whose maximum is lower would be nearly one grey
_HINTS = {
    "b": "a mask of 0 and 1 is no image; convert it: image.astype(numpy.uint8) * 255",
    "i": "convert it: image.astype(numpy.uint8) for values of 0 to 255, numpy.uint16 for more",
    "u": "convert it: image.astype(numpy.uint16)",
}


def to_pixels(image: InMemory, *, colour: bool = False) -> NDArray[np.uint8]:
    """Convert an image that is given in Python to the pixels that `read_image` returns for the same image in a file.

    Args:
        image: An array, `(height, width)` or `(height, width, 1)` of grey values, `(height, width, 3)` RGB, or
            `(height, width, 4)` RGBA; OpenCV's BGR is `image[..., ::-1]`. Its type gives its range: uint8 0 to 255;
            uint16 by the bits in use (`bits_in_use`); floats 0 to 1, or 0 to 255 if their maximum is at least 16. Or a
            Pillow image, or the content of a PNG, JPEG, BMP or TIFF file as bytes.
        colour: Whether to return colours. Grey arrays are then refused.

    Returns:
        Array `(height, width)`, uint8; with `colour`, `(height, width, 3)`, RGB. See `read_image` on transparency.

    Raises:
        ValueError: If it is something else, its range is ambiguous, or `read_image` would refuse such a file.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, colour)
    if isinstance(image, Image.Image):
        return convert_image(image, colour=colour)
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_bytes(bytes(image), colour)
    hint = "; convert it: numpy.asarray(image)" if hasattr(image, "__array__") else ""
    expected = "a path, a NumPy array, a Pillow image or the bytes of an image file"
    raise ValueError(f"Expected {expected}, found {type(image).__name__}{hint}")


def count_pixels_in_memory(image: InMemory) -> int:
    """About the number of pixels of an image that is given in Python, without decoding it."""
    if isinstance(image, Image.Image):
        return image.size[0] * image.size[1]
    return image.size if isinstance(image, np.ndarray) else 0


def _from_bytes(content, colour):
    kind = find_kind_of_bytes(content)
    if kind in IMAGES:
        return decode_image(content, colour=colour)
    found = f"{kind or 'others'}; write them to a file and give its path" if content else "none"
    raise ValueError(f"Expected the bytes of a PNG, JPEG, BMP or TIFF image, found {found}: {len(content)} bytes")


def _from_array(array, colour):
    _check_shape(array)
    values = _to_8_bits(array)
    values = values[..., 0] if values.shape[2:] == (1,) else values
    if values.ndim == 2:
        if colour:
            raise ValueError(
                f"Expected colours (height, width, 3), found grey values {_described(array)}; repeat them if the model "
                "shall predict them: numpy.stack([image] * 3, axis=-1)"
            )
        return np.ascontiguousarray(values)
    if colour and values.shape[2] == 3:
        return np.ascontiguousarray(values)
    return (to_colour if colour else to_grey)(Image.fromarray(values))


def _check_shape(array):
    if array.ndim in (2, 3) and array.size and array.shape[2:] in ((), (1,), (3,), (4,)):
        if refusal := check_size(array.shape[:2]):
            raise ValueError(f"Expected {refusal}: array {_described(array)}")
        return
    hint = ""
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        hint = "; move its channels to the end: image.transpose(1, 2, 0)"
    elif array.size and (array.ndim in (3, 4) or array.dtype.kind in "OU"):
        hint = "; give several images as a list: list(images)"
    expected = "grey values (height, width), or colours (height, width, 3 or 4)"
    raise ValueError(f"Expected {expected}, found {_described(array)}{hint}")


def _to_8_bits(array):
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return np.round(array / ((2 ** bits_in_use(array) - 1) / 255)).astype(np.uint8)
    if array.dtype.kind == "f":
        return _from_floats(array)
    hint = f"; {_HINTS[array.dtype.kind]}" if array.dtype.kind in _HINTS else ""
    raise ValueError(f"Expected values of uint8, uint16 or float, found {_described(array)}{hint}")


def _from_floats(array):
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):  # also for NaN
        raise ValueError(
            f"Expected floats of 0 to 1 or 0 to 255, found {low:g} to {high:g}; scale them: "
            "(image - image.min()) / (image.max() - image.min())"
        )
    if 1 < high < _BRIGHT:
        raise ValueError(
            f"Expected floats of 0 to 1 or 0 to 255, found {low:g} to {high:g}, which may be either; convert them: "
            "image.clip(0, 1), or image.astype(numpy.uint8)"
        )
    return np.round(array * (255 if high <= 1 else 1)).astype(np.uint8)


def _described(array):
    return f"{array.shape} {array.dtype}"
