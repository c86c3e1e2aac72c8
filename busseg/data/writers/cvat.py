"""Write annotations for CVAT, "CVAT for images 1.1": a person corrects them, and `readers/cvat.py` reads them.

Reference:
    https://docs.cvat.ai/docs/dataset_management/formats/xml_format/
"""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.data.facts import LESION
from busseg.data.readers.cvat import TABLE
from busseg.data.sample import CLASSES
from busseg.data.writers.item import Item
from busseg.imaging.annotations.runs import to_counts
from busseg.storage.files import write_text

TITLE = "CVAT"
CARRIES = ("classes", "splits")
LABELS = "labels.json"


def add(folder: Path, item: Item, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> ElementTree.Element:
    """Write one image; returns its XML element, without its id."""
    name = f"{item.stem}.png"
    item.write_image(folder / "images" / name, image)
    height, width = mask.shape
    element = ElementTree.Element("image", name=name, width=str(width), height=str(height))
    if item.split:
        element.set("subset", item.split)
    if item.sample.label:
        ElementTree.SubElement(element, "tag", label=item.sample.label, source="auto")
    count, parts = cv2.connectedComponents(mask, connectivity=8)
    for number in range(1, count):
        _add_mask(element, np.uint8(parts == number))
    return element


def _add_mask(element, part):
    left, top, width, height = cv2.boundingRect(part)
    runs = to_counts(part[top : top + height, left : left + width].ravel())
    box = {"left": left, "top": top, "width": width, "height": height, "z_order": 0, "occluded": 0}
    attributes = {name: str(value) for name, value in box.items()}
    ElementTree.SubElement(element, "mask", attributes, label=LESION, source="auto", rle=", ".join(map(str, runs)))


def finish(folder: Path, items: Sequence[Item], elements: Sequence[ElementTree.Element], size: int) -> list[str]:
    """Write the annotations, and the labels for the raw editor of a CVAT task."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, element in enumerate(elements):
        element.set("id", str(number))
        root.append(element)
    ElementTree.indent(root)
    write_text(folder / TABLE, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode"))
    labels = [{"name": LESION, "type": "mask", "attributes": []}]
    labels += [{"name": name, "type": "tag", "attributes": []} for name in CLASSES]
    write_text(folder / LABELS, json.dumps(labels, indent=2))
    return []
