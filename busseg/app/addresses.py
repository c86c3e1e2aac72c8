"""Images as `data:` addresses, which a browser shows or saves without a request."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.imaging.images import encode_image
from busseg.inference.overlay import LESION_RGB

_SIDE = 160  # longer side of a thumbnail in pixels; the page shows it at half of that, sharp on any screen


def address(kind: str, content: bytes) -> str:
    """Bytes of a MIME type as a `data:` address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png_address(pixels: NDArray) -> str:
    """An image as a `data:` address of a PNG, without loss.

    Args:
        pixels: Array `(height, width)` grey or `(height, width, 3)` RGB, uint8.
    """
    return address("image/png", encode_image(pixels))


def thumbnail(image: NDArray, mask: NDArray | None = None) -> str:
    """A small image with the outline of its lesion, as a `data:` address of a JPEG.

    Args:
        image: Array `(height, width)` uint8 grey.
        mask: Array `(height, width)` uint8, 1 where the lesion is, else 0; None for no outline.
    """
    scale = _SIDE / max(image.shape)
    size = [max(1, round(scale * side)) for side in image.shape[::-1]]
    drawn = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
    if mask is not None:
        small = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, LESION_RGB, 2, cv2.LINE_AA)
    return address("image/jpeg", encode_image(np.asarray(drawn, np.uint8), ".jpg"))
