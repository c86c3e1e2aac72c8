"""The lesions of a mask, measured: its connected parts, their area, diameters, place and outline."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.imaging.polygons import outline_mask


@dataclass(frozen=True)
class Lesion:
    """A connected part of a mask: pixels that touch by a side or a corner.

    Args:
        area_px: Number of its pixels.
        box: `(left, top, width, height)` in pixels.
        center: `(x, y)`, the mean of its pixels; the first pixel of the image lies at `(0, 0)`.
        diameters_px: `(largest, across)`; see `measure_diameters`.
        area_mm2: Area in square millimetres; None without a scale.
        diameters_mm: `diameters_px` in millimetres; None without a scale.
        outline: Array `(corners, 2)` float32 of x, y along the outer edges of its pixels, simplified to within one
            pixel. The first pixel of the image covers 0 to 1. Holes are left out.
    """

    area_px: int
    box: tuple[int, int, int, int]
    center: tuple[float, float]
    diameters_px: tuple[float, float]
    area_mm2: float | None
    diameters_mm: tuple[float, float] | None
    outline: NDArray[np.float32]


def find_lesions(mask: NDArray[np.uint8], spacing_mm: tuple[float, float] | None = None) -> tuple[Lesion, ...]:
    """Find and measure the lesions of a mask, the largest first.

    Args:
        mask: Array `(height, width)` uint8, 1 where a lesion is, else 0.
        spacing_mm: `(row, column)`, millimetres from one row to the next and from one column to the next; None without
            a scale.
    """
    count, numbers, boxes, centers = cv2.connectedComponentsWithStats(mask, connectivity=8)
    lesions = []
    for number in range(1, count):  # 0 is the background
        left, top, width, height, area_px = map(int, boxes[number])
        part = (numbers[top : top + height, left : left + width] == number).astype(np.uint8)
        points = np.argwhere(part)[:, ::-1].astype(np.int32)
        lesions.append(
            Lesion(
                area_px=area_px,
                box=(left, top, width, height),
                center=(float(centers[number][0]), float(centers[number][1])),
                diameters_px=measure_diameters(points),
                area_mm2=None if spacing_mm is None else area_px * spacing_mm[0] * spacing_mm[1],
                diameters_mm=None if spacing_mm is None else measure_diameters(points, spacing_mm),
                outline=simplify(outline_mask(part, holes=False)[0]) + np.array([left, top], np.float32),
            )
        )
    return tuple(sorted(lesions, key=lambda lesion: -lesion.area_px))


def measure_diameters(points: NDArray, spacing: tuple[float, float] = (1, 1)) -> tuple[float, float]:
    """Measure the largest diameter of a lesion and its extent across it, perpendicular to the largest diameter.

    Both are measured between centres of pixels: a lesion of one pixel has diameters of 0.

    Args:
        points: Array `(points, 2)` int32 of x, y: the pixels of the lesion, or those of its outline.
        spacing: `(row, column)`, distance from one row to the next and from one column to the next.

    Returns:
        `(largest, across)` in the unit of `spacing`.
    """
    hull = cv2.convexHull(points)[:, 0] * np.asarray(spacing[::-1], np.float64)
    steps = hull[:, None] - hull
    lengths = np.linalg.norm(steps, axis=2)
    largest = lengths.max()
    if not largest:
        return 0.0, 0.0
    x, y = steps[np.unravel_index(lengths.argmax(), lengths.shape)] / largest
    return float(largest), float(np.ptp(hull @ (-y, x)))


def simplify(outline: NDArray[np.int32], most: int = 8000) -> NDArray[np.float32]:
    """Straighten the steps of an outline, by at most a pixel; by more for an outline of more than `most` corners.

    DICOM holds at most 8191 corners, in the 65,534 bytes of an attribute.

    Args:
        outline: Array `(points, 2)` of x, y.
        most: Number of corners that the result may have.

    Returns:
        Array `(corners, 2)` float32 of x, y.
    """
    tolerance = 1.0  # a step of one pixel lies less off the straight line
    simple = cv2.approxPolyDP(outline, tolerance, closed=True)
    while len(simple) > most:
        tolerance *= 2
        simple = cv2.approxPolyDP(outline, tolerance, closed=True)
    # One pixel, or a row of pixels, would become a line without an area.
    return (outline if len(simple) < 3 else simple[:, 0]).astype(np.float32)
