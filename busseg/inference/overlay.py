"""Drawings of predictions over the image."""

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.inference.quality import OUT_OF_DISTRIBUTION

if TYPE_CHECKING:
    from busseg.inference.prediction import Prediction

LESION_RGB = (255, 190, 0)
TRUTH_RGB = (0, 220, 120)


def draw_contour(image: NDArray, mask: NDArray, color: tuple[int, int, int] = LESION_RGB) -> NDArray:
    """Draw the outline of a lesion.

    Args:
        image: Array `(height, width)` uint8 grey, or `(height, width, 3)` uint8 RGB.
        mask: Array `(height, width)` uint8, 0 or 1.
        color: RGB values of the line.

    Returns:
        Array `(height, width, 3)` uint8, RGB; `image` itself is unchanged.
    """
    drawn = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(2, round(max(mask.shape) / 300))  # an anti-aliased line of one pixel is invisible in speckle
    return cv2.drawContours(drawn, contours, -1, color, thickness, cv2.LINE_AA)


def draw_heat(image: NDArray, values: NDArray) -> NDArray:
    """Draw a heat map over an image, from blue, the smallest value, to yellow, the largest.

    Args:
        image: Array `(height, width)` uint8 grey, or `(height, width, 3)` uint8 RGB.
        values: Array `(height, width)`.

    Returns:
        Array `(height, width, 3)` uint8, RGB.
    """
    low, high = float(values.min()), float(values.max())
    level = np.rint(255 * (values - low) / ((high - low) or 1)).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    drawn = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    return cv2.addWeighted(drawn, 0.5, heat, 0.5, 0)


def draw_legend(values: NDArray, text: str, width: int) -> NDArray:
    """Draw the legend of a heat map: a caption that ends in its smallest and its largest value, and a bar that leads
    from the colour of the one to that of the other.

    Args:
        values: The array that `draw_heat` draws.
        text: Begin of the caption: what the values are.
        width: Width of the legend in pixels.

    Returns:
        Array `(legend, width, 3)` uint8, RGB.
    """
    caption = _draw_caption(f"{text} {values.min():.3f} to {values.max():.3f}", width)
    levels = np.tile(np.uint8(np.linspace(0, 255, width)), (8, 1))
    bar = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    return np.vstack([caption, bar, np.zeros((4, width, 3), np.uint8)])


def draw_overlay(image: NDArray, prediction: "Prediction") -> NDArray:
    """Draw a prediction: the lesion's outline on the image, and a caption above it with the class and its probability,
    or that the image is `OUT_OF_DISTRIBUTION`. Histology has no outline.

    Args:
        image: Array `(height, width)` uint8 grey; for histology `(height, width, 3)` uint8 RGB.
        prediction: A `Prediction` of that image.

    Returns:
        Array `(caption + height, width, 3)` uint8, RGB.
    """
    text = f"{prediction.label} {prediction.confidence:.2f}"
    if prediction.mask is not None:
        text += f"   lesion {prediction.lesion_fraction:.1%}"
        image = draw_contour(image, prediction.mask)
    caption = _draw_caption(text if prediction.in_distribution else OUT_OF_DISTRIBUTION, image.shape[1])
    return np.vstack([caption, image])


def caption_as_out_of_distribution(overlay: NDArray, height: int) -> NDArray:
    """The overlay of an image of `height` pixels with the caption `OUT_OF_DISTRIBUTION` instead."""
    return np.vstack([_draw_caption(OUT_OF_DISTRIBUTION, overlay.shape[1]), overlay[-height:]])


def _draw_caption(text, width):
    font = cv2.FONT_HERSHEY_SIMPLEX
    (text_width, _), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = min(0.6, 0.85 * width / text_width)  # a narrow image gets smaller letters
    caption = np.zeros((max(16, round(45 * scale)), width, 3), np.uint8)
    cv2.putText(
        caption, text, (round(0.03 * width), round(0.65 * len(caption))), font, scale, LESION_RGB, 1, cv2.LINE_AA
    )
    return caption
