"""Draw what was predicted onto the image."""

import cv2
import numpy as np

from busseg.inference.predictor import OUT_OF_DISTRIBUTION

LESION_RGB = (255, 190, 0)
TRUTH_RGB = (0, 220, 120)


def draw_contour(image, mask, color=LESION_RGB):
    """Draw the outline of a lesion.

    Args:
        image: Array `(height, width)` uint8 grey, or `(height, width, 3)` uint8 RGB.
        mask: Array `(height, width)` uint8, 0 or 1.
        color: RGB values of the line.

    Returns:
        Array `(height, width, 3)` uint8, RGB; `image` itself is left as it is.
    """
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(2, round(max(mask.shape) / 300))  # one pixel, anti-aliased, drowns in speckle
    return cv2.drawContours(picture, contours, -1, color, thickness, cv2.LINE_AA)


def draw_heat(image, values):
    """Draw values over an image, from blue, the least of them, to yellow, the greatest.

    Args:
        image: Array `(height, width)` uint8 grey, or `(height, width, 3)` uint8 RGB.
        values: Array `(height, width)`.

    Returns:
        Array `(height, width, 3)` uint8, RGB.
    """
    low, high = float(values.min()), float(values.max())
    level = np.uint8(np.rint(255 * (values - low) / ((high - low) or 1)))
    heat = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    return cv2.addWeighted(picture, 0.5, heat, 0.5, 0)


def draw_overlay(image, prediction):
    """Draw a prediction: the lesion's outline on the image, and a strip above it with the class and its probability,
    or that the image is none the model could read.

    Args:
        image: Array `(height, width)` uint8 grey.
        prediction: A `Prediction` of that image.

    Returns:
        Array `(strip + height, width, 3)` uint8, RGB.
    """
    text = f"{prediction.label} {prediction.probabilities.max():.2f}   lesion {prediction.lesion_fraction:.1%}"
    strip = _draw_strip(text if prediction.in_distribution else OUT_OF_DISTRIBUTION, image.shape[1])
    return np.vstack([strip, draw_contour(image, prediction.mask)])


def caption_as_out_of_distribution(overlay, height):
    """The overlay of an image of `height`, with another strip: that it is none the model could read."""
    return np.vstack([_draw_strip(OUT_OF_DISTRIBUTION, overlay.shape[1]), overlay[-height:]])


def _draw_strip(text, width):
    font = cv2.FONT_HERSHEY_SIMPLEX
    (text_width, _), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = min(0.6, 0.85 * width / text_width)  # a narrow image gets smaller letters
    strip = np.zeros((max(16, round(45 * scale)), width, 3), np.uint8)
    cv2.putText(strip, text, (round(0.03 * width), round(0.65 * len(strip))), font, scale, LESION_RGB, 1, cv2.LINE_AA)
    return strip
