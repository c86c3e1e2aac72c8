"""The contours in busseg's own `predictions.jsonl`."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.annotations.parsed import parse_once
from busseg.imaging.polygons import fill_polygons


def read(path: Path) -> list[dict]:
    """The lines of a file, dicts."""
    return parse_once(_parse, path)


def _parse(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw(path: Path, key: str, shape: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The lesion of line `key`, counted from 1: array `shape`, uint8, 0 or 1."""
    if shape is None:
        raise ValueError(f"Expected the size of the image to draw its contours, found none: {path}")
    return fill_polygons(read(path)[int(key) - 1]["contours"], shape)
