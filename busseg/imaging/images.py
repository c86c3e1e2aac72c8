"""Read and write images, fit them to the model's square, and put its maps back to native size."""

import ctypes
import logging
import math
import os
import stat
import warnings
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from busseg.imaging.masks import lesion_levels, mask_pixels
from busseg.storage.files import replacing
from busseg.storage.signature import sign

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 25_000_000  # A B-mode frame has about half a million; beyond this a file is a mistake or an attack.
MAX_SIDE_PX = 32_767  # OpenCV counts some pixels in 16 bits

MAX_SCANS = 100  # of a progressive JPEG, over all of its pixels each; encoders make about ten

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_BITS = (8, 10, 12, 14, 16)  # that scanners and cameras store in 16
_NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}

# What Pillow warns of and logs, broken content and many pixels, `read_image` refuses or can do without; and what its
# libtiff prints to the terminal, where it can be reached.
logging.getLogger("PIL").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", module="PIL")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
with suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
    ctypes.CDLL(Image.core.__file__).TIFFSetWarningHandler(None)


def is_image(path):
    """Whether the file's name is that of an image: a known suffix in any case, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path, colour=False):
    """Read an image file as grey values, or as colours.

    To grey values, colour is turned to luma, and transparent pixels are laid on black, where there is no echo; colours
    are laid on white, where there is no tissue. 16 bit is scaled to 8 by the range of the bits in use (`bits_in_use`),
    and the orientation a camera noted in the file is applied.

    Args:
        path: Path of a PNG, JPEG, BMP or TIFF file.
        colour: Whether to read colours.

    Returns:
        Array `(height, width)`, uint8; with `colour`, `(height, width, 3)`, RGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a readable, complete, single image of at most `MAX_PIXELS`, and `MAX_SIDE_PX` a
            side.
        OSError: If the system lets nobody read it.
    """
    return _read(path, to_colour if colour else to_grey)


def _read(path, convert):
    path = Path(path)
    check_file(path, "an image")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            refusal = refuse_picture(image) or refuse_frames(image)
            if not refusal:
                return convert(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:  # from twice Pillow's own limit on
        raise ValueError(f"Expected at most {MAX_PIXELS} pixels, found more ({error}): {path}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"Expected a PNG, JPEG, BMP or TIFF image, found something else: {path}") from error
    except Exception as error:  # broken content ends anywhere in Pillow
        if isinstance(error, OSError) and error.errno:  # of the system: no permission, too many open files
            raise
        found = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected a complete image, found a broken file ({found}): {path}") from error
    raise ValueError(f"Expected {refusal}: {path}")


def check_file(path, expected):
    """Refuse what is no file with content. To open a pipe or a device may never end.

    Args:
        path: A `Path`.
        expected: What is wanted, for the error, such as "an image".

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If there is something else, or an empty file.
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


def count_pixels(path):
    """The number of pixels that an image file has by its header; 0 of one that `read_image` refuses by it."""
    try:
        check_file(Path(path), "an image")
        with Image.open(path, formats=_FORMATS) as image:
            return math.prod(image.size)
    except Exception:  # as in `read_image`, which gives the reason
        return 0


def check_size(shape):
    """What is wrong with an image of `shape`, `(height, width)`, in words, or None."""
    height, width = shape
    if width * height > MAX_PIXELS:
        return f"at most {MAX_PIXELS} pixels, found {width} x {height}"
    if max(shape) > MAX_SIDE_PX:
        return f"at most {MAX_SIDE_PX} pixels a side, found {width} x {height}"
    return None


def refuse_frames(image):
    """Why an open Pillow image is no single one, in words, or None."""
    frames = count_frames(image)
    return f"a single image, found {frames} frames" if frames > 1 else None


def count_frames(image):
    """Number of frames of an open Pillow image. A phone's JPEG is one, whatever previews and gain maps it carries."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def refuse_picture(image):
    """What is wrong with a frame of an open Pillow image whose header alone has been read, in words, or None."""
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
    """How many times the pixels of a progressive JPEG are refined; 1 of other images."""
    start_of_scan = b"\xff\xda"
    return Path(image.filename).read_bytes().count(start_of_scan) if "progressive" in image.info else 1


def bits_in_use(values):
    """The bits that values stored in 16 use: the fewest of 8, 10, 12, 14 and 16 that hold the greatest.

    A scanner's 12 bits, 0 to 4095, would be nearly black in a range of 65535. Steps of two bits, not the image's own
    least and greatest value, let images of one scanner share a scale.
    """
    return next(bits for bits in _BITS if values.max() < 2**bits)


def to_grey(image, bits=None):
    """The grey values of an open Pillow image; see `read_image`.

    Args:
        image: Pillow image, of any mode but "I", "F" and "LAB".
        bits: Of 16-bit values, those in use; by default those of this image.

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


def to_colour(image):
    """The colours of an open Pillow image; see `read_image`. Array `(height, width, 3)`, uint8."""
    if image.mode.startswith("I;16"):
        return np.repeat(to_grey(image)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def read_mask_file(path):
    """Read one mask file as grey values, of which those above 127 are lesion; see `masks.lesion_levels`.

    Returns:
        Array `(height, width)`, uint8.

    Raises:
        ValueError: If the lesion cannot be told from the background, or for what `read_image` refuses.
        FileNotFoundError, OSError: As `read_image` does.
    """
    pixels = _read(path, mask_pixels)
    try:
        return lesion_levels(pixels)
    except ValueError as error:
        raise ValueError(f"{error}: {path}") from error


def read_mask(paths, shape):
    """Read the lesion of one image: the union of its mask files.

    Args:
        paths: Paths of the mask files; see `masks.lesion_levels` for what is lesion in them.
        shape: `(height, width)` of the image, which every mask must share.

    Returns:
        Array `(height, width)`, uint8, 0 or 1.

    Raises:
        ValueError: If a mask's size differs from the image's, it cannot be read, or its lesion not be told from its
            background.
    """
    lesion = np.zeros(shape, np.uint8)
    for path in paths:
        mask = read_mask_file(path)
        if mask.shape != tuple(shape):
            raise ValueError(f"Expected a mask of {_size(shape)} like its image, found {_size(mask.shape)}: {path}")
        lesion |= (mask > 127).astype(np.uint8)
    return lesion


def _size(shape):
    height, width = shape
    return f"{width} x {height} px"


def write_image(path, pixels, place=None):
    """Write an image file, whole or not at all.

    Args:
        path: Path with an image suffix, one of `SUFFIXES`, which chooses the format.
        pixels: Array `(height, width)` grey or `(height, width, 3)` RGB, uint8.
        place: See `replacing`.

    Raises:
        ValueError: If the suffix is none of an image, or no such file can hold the pixels.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Expected a file name that ends in one of {', '.join(SUFFIXES)}, found: {path}")
    # A third of the time that Pillow takes for a PNG, which would otherwise be most of what `busseg predict` does.
    try:
        done, encoded = cv2.imencode(
            path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
        )
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"Expected pixels that {path.suffix} can hold, found {_size(pixels.shape[:2])}: {path}")
    with replacing(path, place) as temporary:
        temporary.write_bytes(sign(encoded.tobytes()) if path.suffix.lower() == ".png" else encoded)


def fit_to_square(pixels, size):
    """Fit an image or mask into the model's square: aspect kept, centred, the rest filled with 0.

    Args:
        pixels: Array `(height, width)` or `(height, width, 3)`, uint8. A mask, 0 or 1, stays so.
        size: Side of the square in pixels.

    Returns:
        Array `(size, size)` or `(size, size, 3)`, uint8.
    """
    shape, channels = pixels.shape[:2], pixels.shape[2:]
    top, left, height, width = placement(shape, size)
    # Area averaging keeps speckle from aliasing when the image shrinks; for growing, linear.
    method = cv2.INTER_AREA if size < max(shape) else cv2.INTER_LINEAR
    square = np.zeros((size, size, *channels), np.uint8)
    square[top : top + height, left : left + width] = cv2.resize(pixels, (width, height), interpolation=method)
    return square


def fit_to_native(values, shape):
    """Undo `fit_to_square`: cut the image's part out of a square map and resize it to native size.

    Args:
        values: Array `(size, size)`, float32, for example lesion probabilities.
        shape: `(height, width)` of the native image.

    Returns:
        Array `(height, width)`, float32.
    """
    top, left, height, width = placement(shape, values.shape[0])
    part = np.ascontiguousarray(values[top : top + height, left : left + width], dtype=np.float32)
    return cv2.resize(part, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def placement(shape, size):
    """Where `fit_to_square` lays an image in the square: `(top, left, height, width)` in pixels of the square."""
    scale = size / max(shape)
    height, width = (max(1, round(side * scale)) for side in shape)
    return (size - height) // 2, (size - width) // 2, height, width
