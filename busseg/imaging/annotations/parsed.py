"""Annotation files, parsed once: each mask of a dataset is drawn from the same file."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

Parsed = TypeVar("Parsed")
MAX_SIDE_PX = 32_767  # as for images
_KEPT = 8  # files in memory


def parse_once(parse: Callable[[Path], Parsed], path: Path) -> Parsed:
    """`parse(path)`; the latest few results stay in memory, until the file changes."""
    status = path.stat()
    return _parse(parse, path, status.st_size, status.st_mtime_ns)


@lru_cache(_KEPT)
def _parse(parse, path, size, changed):
    return parse(path)


def read_any_json(path: Path) -> dict | list:
    """The content of a JSON file; an empty list for any other file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []


def check_shape(height: float | str, width: float | str) -> tuple[int, int]:
    """The size that a file states for an image, `(height, width)`.

    Raises:
        ValueError: If it is no size of an image that busseg reads.
    """
    height, width = int(height), int(width)
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX and height * width <= 25_000_000):
        raise ValueError(f"Expected the size of an image in pixels, found {width} x {height}")
    return height, width
