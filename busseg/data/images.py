"""Read and write images, fit them to the model's square, and put its maps back to native size."""

import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from busseg.data.files import replacing
from busseg.data.signature import sign

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000  # A B-mode frame has about half a million; beyond this a file is a mistake or an attack.

# `read_image` refuses at a lower limit than the one at which Pillow warns.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def is_image(path):
    """Whether the file's name is that of an image: a known suffix in any case, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path, colour=False):
    """Read an image file as grey values, or as colours.

    To grey values, colour is turned to luma, and transparent pixels are laid on black, where there is no echo; colours
    are laid on white, where there is no tissue. 16 bit is scaled to 8 by the type's full range, and the orientation a
    camera noted in the file is applied.

    Args:
        path: Path of a PNG, JPEG, BMP or TIFF file.
        colour: Whether to read colours.

    Returns:
        Array `(height, width)`, uint8; with `colour`, `(height, width, 3)`, RGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a readable, complete, single image of at most `MAX_PIXELS`.
    """
    return _read(path, _to_colour if colour else _to_grey)


def _read(path, convert):
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an image file, found nothing: {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"Expected an image, found an empty file (0 bytes): {path}")
    try:
        with Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF")) as image:
            refusal = _refusal(image)
            if not refusal:
                return convert(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:  # from twice Pillow's own limit on
        raise ValueError(f"Expected at most {MAX_PIXELS} pixels, found more ({error}): {path}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"Expected a PNG, JPEG, BMP or TIFF image, found something else: {path}") from error
    except (OSError, SyntaxError, EOFError, TypeError, ValueError) as error:  # Pillow's words for broken content
        raise ValueError(f"Expected a complete image, found a broken file ({error}): {path}") from error
    raise ValueError(f"Expected {refusal}: {path}")


def _refusal(image):
    """What is wrong with an image whose header alone has been read, or None."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        return f"at most {MAX_PIXELS} pixels, found {width} x {height}"
    if getattr(image, "n_frames", 1) > 1:
        return f"a single image, found {image.n_frames} frames"
    if image.mode in ("I", "F"):
        return "8 or 16 bits a channel, found 32"
    if image.mode == "LAB":
        return "grey or RGB, found CIE Lab"
    return None


def _to_grey(image):
    if image.mode.startswith("I;16"):
        return np.round(np.asarray(image) / 257.0).astype(np.uint8)
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA").convert("LA"), dtype=np.float32)
        return np.round(pixels[..., 0] * pixels[..., 1] / 255.0).astype(np.uint8)
    return np.asarray(image.convert("L"))


def _to_colour(image):
    if image.mode.startswith("I;16"):
        return np.repeat(_to_grey(image)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def read_mask_file(path):
    """Read one mask file as grey values, of which colours give their brightest channel: pure red is 255, not its luma.

    Arguments, result and errors are those of `read_image`.
    """
    return _read(path, _to_brightest)


def _to_brightest(image):
    if image.mode not in ("P", "RGB", "RGBA"):
        return _to_grey(image)
    pixels = np.asarray(image.convert("RGBA"), dtype=np.uint16)
    return np.round(pixels[..., :3].max(axis=-1) * pixels[..., 3] / 255.0).astype(np.uint8)


def read_mask(paths, shape):
    """Read the lesion of one image: the union of its mask files.

    Args:
        paths: Paths of the mask files. Values above 127 are lesion, see `read_mask_file`; in a file of only 0 and 1,
            the ones are.
        shape: `(height, width)` of the image, which every mask must share.

    Returns:
        Array `(height, width)`, uint8, 0 or 1.

    Raises:
        ValueError: If a mask's size differs from the image's, or it cannot be read.
    """
    lesion = np.zeros(shape, np.uint8)
    for path in paths:
        mask = read_mask_file(path)
        if mask.shape != tuple(shape):
            raise ValueError(f"Expected a mask of {_size(shape)} like its image, found {_size(mask.shape)}: {path}")
        lesion |= (mask > (127 if mask.max() > 1 else 0)).astype(np.uint8)
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
        ValueError: If the suffix is none of an image.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Expected a file name that ends in one of {', '.join(SUFFIXES)}, found: {path}")
    # A third of the time that Pillow takes for a PNG, which would otherwise be most of what `busseg predict` does.
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels)
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
