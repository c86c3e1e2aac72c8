"""Outline masks as polygons along pixel edges, and fill polygons.

Pixel (x, y) is the square from x to x + 1 and from y to y + 1, so its centre is (x + 0.5, y + 0.5). A pixel belongs to
a polygon if its centre lies inside by the even-odd rule. By this rule `fill_polygons(outline_mask(mask))` is `mask`.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

_RIGHT, _DOWN, _LEFT, _UP = range(4)
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outline_mask(mask: NDArray[np.uint8], *, holes: bool = True) -> list[NDArray[np.int32]]:
    """Outline each connected part of a mask by one polygon along pixel edges.

    Pixels that touch at a corner are connected. A hole joins the outline of its part by a slit: the polygon runs to the
    hole, around it, and back the same way. The slit has no area, so most programs draw the hole.

    Args:
        mask: Array `(height, width)`, uint8; lesion where it is not 0.
        holes: Whether to outline holes, too.

    Returns:
        List of arrays `(points, 2)` of x, y, int32: the corners, from 0 to width and height, the first one not
        repeated. The parts are sorted from top to bottom, then from left to right.
    """
    mask = np.ascontiguousarray(mask != 0, np.uint8)
    _, parts = cv2.connectedComponents(mask, connectivity=8)
    rings: dict[int, list[list[tuple[int, int]]]] = {}
    for ring, (x, y) in _trace(mask):
        rings.setdefault(int(parts[y, x]), []).append(ring)
    return [_join(found if holes else found[:1]) for found in rings.values()]


def _trace(mask):
    """The closed rings along pixel edges, lesion on their right, each with a pixel `(x, y)` of its lesion."""
    padded = np.pad(mask, 1).astype(np.int8)
    below, right = padded[1:, 1:-1] - padded[:-1, 1:-1], padded[1:-1, 1:] - padded[1:-1, :-1]
    edges = {}  # from the corner where an edge begins to the directions of those that begin there
    for found, direction, offset in (
        (below == 1, _RIGHT, (0, 0)),  # lesion below the edge
        (below == -1, _LEFT, (1, 0)),
        (right == 1, _UP, (0, 1)),  # lesion right of the edge
        (right == -1, _DOWN, (0, 0)),
    ):
        for y, x in np.argwhere(found).tolist():
            edges.setdefault((x + offset[0], y + offset[1]), []).append(direction)
    for start in sorted(edges, key=lambda corner: corner[::-1]):
        while edges[start]:
            direction = edges[start][0]
            yield _follow(edges, start, direction), _lesion_beside(start, direction)


def _follow(edges, start, direction):
    """Take the edges of one ring out of `edges`; return its corners."""
    ring, corner, former = [], start, None
    while direction in edges[corner]:
        edges[corner].remove(direction)
        if direction != former:
            ring.append(corner)
        corner = (corner[0] + _STEPS[direction][0], corner[1] + _STEPS[direction][1])
        former = direction
        # Where two pixels touch at a corner, the ring turns left, so that they stay connected.
        direction = next((d for d in ((former - 1) % 4, former, (former + 1) % 4) if d in edges[corner]), direction)
    return ring


def _lesion_beside(corner, direction):
    x, y = corner
    return {_RIGHT: (x, y), _DOWN: (x - 1, y), _LEFT: (x - 1, y - 1), _UP: (x, y - 1)}[direction]


def _join(rings):
    """One polygon from the rings of a part: the outer one, which comes first, and its holes."""
    outer, *holes = rings
    points = list(outer)
    for hole in holes:
        points += [outer[0], *hole, hole[0]]
    return np.array(points, np.int32)


def fill_polygons(polygons: Iterable[ArrayLike], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask of polygons: the pixels whose centre lies in at least one of them, by the even-odd rule.

    Args:
        polygons: Arrays `(points, 2)` of x, y in pixels, at any fraction and also outside the image; the last point is
            connected with the first.
        shape: `(height, width)` of the mask.

    Returns:
        Array `(height, width)`, uint8, 0 or 1.
    """
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        mask |= _fill(np.asarray(polygon, np.float64).reshape(-1, 2), shape)
    return mask


def _fill(points, shape):
    height, width = shape
    begin, end = points, np.roll(points, -1, axis=0)
    # Edge i crosses the centre lines of the rows first[i] to last[i] - 1.
    first, last = (np.clip(np.ceil(sort(begin[:, 1], end[:, 1]) - 0.5), 0, height) for sort in (np.minimum, np.maximum))
    counts = (last - first).astype(np.int64)
    edge = np.repeat(np.arange(len(points)), counts)
    if not len(edge):
        return np.zeros(shape, np.uint8)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge].astype(np.int64)
    (x0, y0), (x1, y1) = begin[edge].T, end[edge].T
    crossings = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    flips = np.zeros((height, width + 1), np.uint8)
    np.bitwise_xor.at(flips, (rows, columns), 1)
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width]


def check_polygon(numbers: Sequence[float]) -> NDArray[np.float64]:
    """The points of a polygon that a file gives as a flat list `x, y, x, y, ...`.

    Returns:
        Array `(points, 2)` of x, y.

    Raises:
        ValueError: If there are fewer than three points, or one is not finite. One line, without the path.
    """
    points = np.asarray(numbers, np.float64)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError(f"Expected a polygon of three or more points x, y, found {points.size} numbers")
    return points.reshape(-1, 2)
