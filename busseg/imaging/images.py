"""Read and write images, fit them to the model's square, and resize its maps back to native size."""

import ctypes
import logging
import math
import os
import stat
import warnings
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from busseg.imaging.annotations import is_annotation, read_annotation
from busseg.imaging.arrays import is_in_array, read_from_array
from busseg.imaging.masks import lesion_levels, mask_pixels
from busseg.imaging.png import encode_png
from busseg.storage.files import replacing
from busseg.storage.signature import sign

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 25_000_000  # a B-mode frame has about half a million; a larger file is a mistake or an attack
MAX_SIDE_PX = 32_767  # OpenCV counts some pixels in 16 bits

MAX_SCANS = 100  # passes of a progressive JPEG over all its pixels; encoders write about ten

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_BITS = (8, 10, 12, 14, 16)  # bit depths that scanners and cameras store in 16 bits
_NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}

# Silence Pillow and, where it can be reached, its libtiff: `read_image` refuses broken content and too many pixels with
# errors of its own.
logging.getLogger("PIL").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", module="PIL")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
with suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
    ctypes.CDLL(Image.core.__file__).TIFFSetWarningHandler(None)


def is_image(path: Path) -> bool:
    """Whether a file has the suffix of an image, in any case, and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path, *, colour: bool = False) -> NDArray[np.uint8]:
    """Read an image file as grey values or as colours.

    For grey values, colours become luma, and transparent pixels become black, which means no echo. For colours,
    transparent pixels become white, which means no tissue. 16 bits are scaled to 8 by the bits in use (`bits_in_use`).
    The orientation that a camera noted in the file is applied.

    Args:
        path: Path of a PNG, JPEG, BMP or TIFF file, or of an image in a NumPy archive; see `arrays.py`.
        colour: Whether to read colours.

    Returns:
        Array `(height, width)`, uint8; with `colour`, `(height, width, 3)`, RGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a readable, complete, single image of at most `MAX_PIXELS` pixels and
            `MAX_SIDE_PX` pixels a side.
        OSError: If the system denies reading it.
    """
    return _read(path, to_colour if colour else to_grey)


def decode_image(content: bytes, *, colour: bool = False) -> NDArray[np.uint8]:
    """Read the content of an image file; arguments, result and errors are those of `read_image`."""
    opening = partial(Image.open, BytesIO(content), formats=_FORMATS)
    return _decode(opening, to_colour if colour else to_grey, f"{len(content)} bytes")


def convert_image(image: Image.Image, *, colour: bool = False) -> NDArray[np.uint8]:
    """Read a Pillow image, which stays open; arguments, result and errors are those of `read_image`."""
    where = f"Pillow image of mode {image.mode}, {_size(image.size[::-1])}"
    return _decode(partial(nullcontext, image), to_colour if colour else to_grey, where)


def _read(path, convert):
    path = Path(path)
    if is_in_array(path):
        return convert(Image.fromarray(read_from_array(path)))
    check_file(path, "an image")
    return _decode(partial(Image.open, path, formats=_FORMATS), convert, path)


def _decode(opening, convert, where):
    """Open a Pillow image and convert it; `where` ends each error."""
    try:
        with opening() as image:
            refusal = refuse_image(image) or refuse_frames(image)
            if not refusal:
                return convert(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:  # raised above twice Pillow's own limit
        raise ValueError(f"Expected at most {MAX_PIXELS} pixels, found more ({error}): {where}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"Expected a PNG, JPEG, BMP or TIFF image, found something else: {where}") from error
    except Exception as error:  # Pillow raises any error for broken content
        if isinstance(error, OSError) and error.errno:  # a system error: no permission, too many open files
            raise
        found = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected a complete image, found a broken file ({found}): {where}") from error
    raise ValueError(f"Expected {refusal}: {where}")


def check_file(path: Path, expected: str) -> None:
    """Check that a path is a regular file with content. Opening a pipe or a device may block forever.

    Args:
        path: A `Path`.
        expected: What the caller needs, for the error, such as "an image".

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If it is not a regular file, or an empty one.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Expected {expected} file, found nothing: {path}") from error
    if not stat.S_ISREG(status.st_mode):
        found = _NO_FILES.get(stat.S_IFMT(status.st_mode), "a device")
        closed = "" if os.access(path, os.R_OK) else " that may not be read"
        raise ValueError(f"Expected {expected} file, found {found}{closed}: {path}")
    if not status.st_size:
        raise ValueError(f"Expected {expected}, found an empty file (0 bytes): {path}")


def count_pixels(path: str | Path) -> int:
    """The number of pixels in an image file's header; 0 for a file whose header cannot be read."""
    try:
        check_file(Path(path), "an image")
        with Image.open(path, formats=_FORMATS) as image:
            return math.prod(image.size)
    except Exception:  # as in `read_image`, which gives the reason
        return 0


def check_size(shape: tuple[int, int]) -> str | None:
    """Why an image of `shape`, `(height, width)` in pixels, is refused, as part of an error; None if it is accepted."""
    height, width = shape
    if width * height > MAX_PIXELS:
        return f"at most {MAX_PIXELS} pixels, found {width} x {height}"
    if max(shape) > MAX_SIDE_PX:
        return f"at most {MAX_SIDE_PX} pixels a side, found {width} x {height}"
    return None


def refuse_frames(image: Image.Image) -> str | None:
    """Why an open Pillow image with several frames is refused, as part of an error; None if it has a single one."""
    frames = count_frames(image)
    return f"a single image, found {frames} frames" if frames > 1 else None


def count_frames(image: Image.Image) -> int:
    """Number of frames of an open Pillow image. A phone's JPEG counts as one, even with previews and gain maps."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def refuse_image(image: Image.Image) -> str | None:
    """Why the current frame of an open Pillow image is refused by its header, as part of an error; None if it is not.

    Pixels are not decoded.
    """
    if refusal := check_size(image.size[::-1]):
        return refusal
    if (scans := _count_scans(image)) > MAX_SCANS:
        return f"a JPEG of at most {MAX_SCANS} scans, found {scans}"
    if image.mode in ("I", "F"):
        return "8 or 16 bits a channel, found 32"
    if image.mode == "LAB":
        return "grey or RGB, found CIE Lab"
    return None


def _count_scans(image):
    """Number of passes of a progressive JPEG over its pixels; 1 for other images."""
    file = getattr(image, "fp", None)
    if "progressive" not in image.info or file is None:  # an image without a file is decoded
        return 1
    place = file.tell()
    file.seek(0)
    count = file.read().count(b"\xff\xda")  # the marker "start of scan"
    file.seek(place)
    return count


def bits_in_use(values: NDArray[np.uint16]) -> int:
    """The bits that 16-bit values use: the fewest of 8, 10, 12, 14 and 16 that hold the greatest value.

    A scanner's 12 bits, 0 to 4095, would be nearly black in a range of 65535. Steps of two bits, instead of the image's
    own lowest and highest value, give images of one scanner the same scale.
    """
    return next(bits for bits in _BITS if values.max() < 2**bits)


def to_grey(image: Image.Image, bits: int | None = None) -> NDArray[np.uint8]:
    """The grey values of an open Pillow image; see `read_image`.

    Args:
        image: Pillow image, of any mode but "I", "F" and "LAB".
        bits: Bits in use of 16-bit values; by default those of this image.

    Returns:
        Array `(height, width)`, uint8.
    """
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        white = 2 ** (bits or bits_in_use(values)) - 1
        return np.round(values / (white / 255)).astype(np.uint8)
    if image.has_transparency_data:
        grey, opacity = np.asarray(image.convert("RGBA").convert("LA")).transpose(2, 0, 1)
        # Rounded, in 16 bits: 255 * 255 + 127 = 65152.
        return ((grey.astype(np.uint16) * opacity + np.uint16(127)) // np.uint16(255)).astype(np.uint8)
    return np.asarray(image.convert("L"))


def to_colour(image: Image.Image) -> NDArray[np.uint8]:
    """The colours of an open Pillow image; see `read_image`. Array `(height, width, 3)`, uint8."""
    if image.mode.startswith("I;16"):
        return np.repeat(to_grey(image)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def read_mask_file(path: str | Path, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read one mask file as grey values, where values above 127 are lesion; see `masks.lesion_levels`.

    Args:
        path: Path of the file, or of a mask in a NumPy archive or in an annotation file; see `annotations`.
        shape: `(height, width)` of the image in pixels. Annotations that do not state it need it.

    Returns:
        Array `(height, width)`, uint8.

    Raises:
        ValueError: If the lesion cannot be distinguished from the background, an annotation cannot be drawn, or
            `read_image` refuses such a file.
        FileNotFoundError, OSError: As `read_image` does.
    """
    if is_annotation(Path(path)):
        return read_annotation(Path(path), shape) * np.uint8(255)
    pixels = _read(path, mask_pixels)
    try:
        return lesion_levels(pixels)
    except ValueError as error:
        raise ValueError(f"{error}: {path}") from error


def read_mask(paths: Iterable[str | Path], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Read the lesion of one image: the union of its mask files.

    Args:
        paths: Paths of the mask files; `masks.lesion_levels` says which of their pixels are lesion.
        shape: `(height, width)` of the image in pixels. Every mask must have it.

    Returns:
        Array `(height, width)`, uint8, 0 or 1.

    Raises:
        ValueError: If a mask cannot be read, its size differs from the image's, or its lesion cannot be distinguished
            from its background.
    """
    lesion = np.zeros(shape, np.uint8)
    for path in paths:
        mask = read_mask_file(path, shape)
        if mask.shape != tuple(shape):
            raise ValueError(f"Expected a mask of {_size(shape)} like its image, found {_size(mask.shape)}: {path}")
        lesion |= (mask > 127).astype(np.uint8)
    return lesion


def _size(shape):
    height, width = shape
    return f"{width} x {height} px"


def write_image(path: str | Path, pixels: NDArray[np.uint8], place: Path | None = None) -> None:
    """Write an image file, whole or not at all.

    Args:
        path: Path with an image suffix, one of `SUFFIXES`, which chooses the format.
        pixels: Array `(height, width)` grey or `(height, width, 3)` RGB, uint8.
        place: See `replacing`.

    Raises:
        ValueError: If the suffix is not in `SUFFIXES`, or the format cannot hold the pixels.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Expected a file name that ends in one of {', '.join(SUFFIXES)}, found: {path}")
    content = encode_image(pixels, path.suffix, path)
    with replacing(path, place) as temporary:
        temporary.write_bytes(content)


def encode_image(pixels: NDArray[np.uint8], suffix: str = ".png", where: str | Path = "in memory") -> bytes:
    """The content of an image file that `write_image` writes; `where` names the file in the error."""
    try:
        if suffix.lower() == ".png":
            return sign(encode_png(pixels))
        done, encoded = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels)
    except (ValueError, cv2.error):
        done = False
    if not done:
        raise ValueError(f"Expected pixels that {suffix} can hold, found {_size(pixels.shape[:2])}: {where}")
    return np.asarray(encoded).tobytes()


def fit_to_square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Fit an image or mask into the model's square: same aspect ratio, centred, the rest filled with 0.

    Args:
        pixels: Array `(height, width)` or `(height, width, 3)`, uint8. A mask of 0 and 1 keeps these values.
        size: Side of the square in pixels.

    Returns:
        Array `(size, size)` or `(size, size, 3)`, uint8.
    """
    shape, channels = pixels.shape[:2], pixels.shape[2:]
    top, left, height, width = placement(shape, size)
    # Area averaging keeps speckle from aliasing when the image shrinks; linear interpolation enlarges it.
    method = cv2.INTER_AREA if size < max(shape) else cv2.INTER_LINEAR
    square = np.zeros((size, size, *channels), np.uint8)
    square[top : top + height, left : left + width] = cv2.resize(pixels, (width, height), interpolation=method)
    return square


def fit_to_native(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Undo `fit_to_square`: crop the image's part from a square map and resize it to native size.

    Args:
        values: Array `(size, size)`, float32, for example lesion probabilities.
        shape: `(height, width)` of the native image.

    Returns:
        Array `(height, width)`, float32.
    """
    top, left, height, width = placement(shape, values.shape[0])
    part = np.ascontiguousarray(values[top : top + height, left : left + width], dtype=np.float32)
    return np.asarray(cv2.resize(part, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def placement(shape: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """Where `fit_to_square` places an image in the square: `(top, left, height, width)` in pixels of the square."""
    scale = size / max(shape)
    height, width = (max(1, round(side * scale)) for side in shape)
    return (size - height) // 2, (size - width) // 2, height, width
