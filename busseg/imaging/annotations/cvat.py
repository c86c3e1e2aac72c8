"""Annotation files of CVAT, "CVAT for images 1.1": polygons, masks, and tags of whole images.

Reference:
    https://docs.cvat.ai/docs/dataset_management/formats/xml_format/
"""

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.annotations.parsed import check_shape, parse_once
from busseg.imaging.annotations.runs import from_counts
from busseg.imaging.polygons import check_polygon, fill_polygons

_NO_AREAS = ("box", "polyline", "points", "cuboid", "skeleton", "ellipse")


class Image(NamedTuple):
    """One image of a CVAT file: its `name`, `shape` `(height, width)`, `subset` ("" without one), the names of its
    `tags` and of its areas' `labels`, and the `areas`, XML elements.
    """

    name: str
    shape: tuple[int, int]
    subset: str
    tags: tuple[str, ...]
    labels: tuple[str, ...]
    areas: tuple[ElementTree.Element, ...]


def recognises(path: Path) -> bool:
    """Whether an XML file is one of CVAT."""
    with path.open("rb") as file:
        return b"<annotations" in file.read(1000)


def read(path: Path) -> dict[str, Image]:
    """The images of a CVAT file, by their ids.

    Raises:
        ElementTree.ParseError, KeyError, ValueError: If it is not one.
    """
    return parse_once(_parse, path)


def _parse(path):
    content = path.read_bytes()
    if b"<!DOCTYPE" in content:  # it could declare entities that grow without limit
        raise ValueError(f"Expected XML without a document type, found one: {path}")
    root = ElementTree.fromstring(content)  # nosec B314
    if root.find("track") is not None:
        raise ValueError(f"Expected CVAT for images, found CVAT for video; export the other: {path}")
    return {image.attrib["id"]: _to_image(image, path) for image in root.iter("image")}


def _to_image(image, path):
    name = image.attrib["name"]
    if found := [kind for kind in _NO_AREAS if image.find(kind) is not None]:
        raise ValueError(f"Expected polygons and masks, found {found[0]} on {name!r}: {path}")
    areas = tuple(area for kind in ("polygon", "mask") for area in image.iter(kind))
    return Image(
        name,
        check_shape(image.attrib["height"], image.attrib["width"]),
        image.get("subset", ""),
        tuple(tag.attrib["label"] for tag in image.iter("tag")),
        tuple(area.attrib["label"] for area in areas),
        areas,
    )


def draw(path: Path, key: str) -> NDArray[np.uint8]:
    """The union of an image's polygons and masks, array `(height, width)`, uint8, 0 or 1."""
    image = read(path)[key]
    mask = np.zeros(image.shape, np.uint8)
    for area in image.areas:
        if area.tag == "polygon":
            points = [float(number) for point in area.attrib["points"].split(";") for number in point.split(",")]
            mask |= fill_polygons([check_polygon(points)], image.shape)
        else:
            _add_runs(mask, area.attrib)
    return mask


def _add_runs(mask, attributes):
    """Add a CVAT mask: runs of its box, row by row, without lesion first."""
    left, top, width, height = (int(attributes[name]) for name in ("left", "top", "width", "height"))
    part = mask[top : top + height, left : left + width]
    if min(left, top) < 0 or part.shape != (height, width):
        raise ValueError(f"Expected a mask inside its image, found {left}, {top}, {width} x {height}")
    part |= from_counts([int(run) for run in attributes["rle"].split(",")], width * height).reshape(height, width)
