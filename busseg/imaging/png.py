"""Encode PNG files fast: Intel's ISA-L compresses an overlay in a third of the time that zlib takes, and smaller."""

import struct

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

_NONE, _SUB = 0, 1  # filters of a row: as it is; the difference of each pixel from the one on its left
_COLOUR_TYPES = {(): 0, (3,): 2}  # grey and RGB, by the shape of a pixel
_MAX_SIDE = 1_000_000  # more is refused by libpng, so by most readers


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The content of a PNG file.

    Args:
        pixels: Array `(height, width)` grey or `(height, width, 3)` RGB, uint8.

    Raises:
        ValueError: If PNG cannot hold them: other shapes or types, no pixels, or more than a million on a side.
    """
    kind = _COLOUR_TYPES.get(pixels.shape[2:]) if pixels.ndim >= 2 else None
    if pixels.dtype != np.uint8 or kind is None or not pixels.size or max(pixels.shape) > _MAX_SIDE:
        raise ValueError(f"Expected pixels that PNG can hold, found {pixels.dtype} of shape {pixels.shape}")
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    content = isal_zlib.compress(_filter(pixels.reshape(height, -1), pixels[0, 0].size), 1)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _filter(rows, channels):
    """Rows with the number of their filter before them. Flat ones, as in masks, become smaller unfiltered."""
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _SUB
    filtered[:, 1 : 1 + channels] = rows[:, :channels]
    np.subtract(rows[:, channels:], rows[:, :-channels], out=filtered[:, 1 + channels :])
    if np.count_nonzero(filtered) < filtered.size / 8:
        filtered[:, 0] = _NONE
        filtered[:, 1:] = rows
    return filtered


def _chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", isal_zlib.crc32(name + content))
