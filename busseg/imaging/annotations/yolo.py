"""Label files of YOLO segmentation: one object a line, `class x y x y x y ...`, as fractions of width and height.

Reference:
    https://docs.ultralytics.com/datasets/segment/
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.polygons import check_polygon, fill_polygons


def read(path: Path) -> list[tuple[int, NDArray[np.float64]]]:
    """The objects of a label file: list of `(class, polygon)`, the polygon `(points, 2)` as fractions.

    Raises:
        ValueError: If a line is not an object with a polygon.
    """
    objects = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not (words := line.split()):
            continue
        if len(words) == 5:
            raise ValueError(f"Expected polygons, found a box in line {number}: {path}")
        try:
            objects.append((int(words[0]), check_polygon([float(word) for word in words[1:]])))
        except ValueError as error:
            raise ValueError(f"Expected a class and a polygon in line {number}, found {line[:40]!r}: {path}") from error
    return objects


def draw(path: Path, shape: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The union of a label file's polygons, array `shape`, uint8, 0 or 1."""
    if shape is None:
        raise ValueError(f"Expected the size of the image to draw fractions of it, found none: {path}")
    return fill_polygons([polygon * shape[::-1] for _, polygon in read(path)], shape)
