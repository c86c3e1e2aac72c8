"""Masks that other programs' annotation files hold. A path inside the file names the mask of one image:

- `instances.json/17`: image 17 of a COCO file, or task 17 of a Label Studio export;
- `annotations.xml/3`: image 3 of a CVAT file;
- `predictions.jsonl/5`: line 5 of busseg's own predictions;
- `labels/scan7.txt`: a YOLO file, which is a real file, and holds one image.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.storage.files import blaming


def is_annotation(path: Path) -> bool:
    """Whether a path names the mask of one image in an annotation file."""
    return path.suffix == ".txt" or path.parent.suffix in (".json", ".jsonl", ".xml")


def read_annotation(path: Path, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Draw the mask of one image.

    Args:
        path: See above.
        shape: `(height, width)` of the image in pixels; needed where the file does not state it.

    Returns:
        Array `(height, width)`, uint8, 0 or 1, of the size that the file states, or else of `shape`.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If a package is needed that is not installed.
        ValueError: If the file is broken or lacks the image, or the size is unknown.
    """
    try:
        with blaming(path, "an annotation that can be drawn"):
            return _draw(path, shape)
    except ValueError as error:
        if str(path.parent) in str(error):
            raise
        raise ValueError(f"{error}: {path}") from error


def _draw(path, shape):
    from busseg.imaging.annotations import coco, cvat, label_studio, predictions, yolo

    if path.suffix == ".txt":
        return yolo.draw(path, shape)
    if path.parent.suffix == ".xml":
        return cvat.draw(path.parent, path.name)
    if path.parent.suffix == ".jsonl":
        return predictions.draw(path.parent, path.name, shape)
    drawn = label_studio if label_studio.recognises(path.parent) else coco
    return drawn.draw(path.parent, path.name)
