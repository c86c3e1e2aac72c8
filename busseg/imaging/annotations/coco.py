"""COCO files: `images`, `annotations` and `categories`. Segmentations are polygons or run lengths.

Reference:
    https://cocodataset.org/#format-data
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.annotations.parsed import check_shape, parse_once, read_any_json
from busseg.imaging.annotations.runs import from_coco
from busseg.imaging.polygons import check_polygon, fill_polygons


class Coco(NamedTuple):
    """A COCO file: `images`, dict from the id as text; `categories`, dict from id to name; and `annotations`, dict from
    the id of an image as text to a list. Images and annotations are dicts as in the file.
    """

    images: dict[str, dict]
    categories: dict[int, str]
    annotations: dict[str, list[dict]]


def recognises(path: Path) -> bool:
    """Whether a JSON file is one of COCO."""
    content = parse_once(read_any_json, path)
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def read(path: Path) -> Coco:
    """Read a COCO file.

    Raises:
        KeyError, TypeError, ValueError: If it is not one.
    """
    return parse_once(_parse, path)


def _parse(path):
    content = read_any_json(path)
    annotations = {}
    for annotation in content["annotations"]:
        annotations.setdefault(str(annotation["image_id"]), []).append(annotation)
    return Coco(
        {str(image["id"]): image for image in content["images"]},
        {category["id"]: str(category["name"]) for category in content["categories"]},
        annotations,
    )


def draw(path: Path, key: str) -> NDArray[np.uint8]:
    """The union of an image's segmentations, array `(height, width)`, uint8, 0 or 1."""
    coco = read(path)
    shape = check_shape(coco.images[key]["height"], coco.images[key]["width"])
    mask = np.zeros(shape, np.uint8)
    for annotation in coco.annotations.get(key, []):
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            mask |= from_coco(segmentation, shape)
        elif segmentation:
            mask |= fill_polygons(map(check_polygon, segmentation), shape)
        else:
            raise ValueError(f"Expected a segmentation, found only a box, in annotation {annotation.get('id')}: {path}")
    return mask
