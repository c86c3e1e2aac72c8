"""Write datasets of YOLO segmentation, which `readers/yolo.py` reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.data.readers.yolo import DATA, import_yaml
from busseg.data.writers.item import Item, category_of, number_categories
from busseg.imaging.polygons import outline_mask
from busseg.storage.files import write_text

TITLE = "YOLO"
CARRIES = ("classes", "splits")


def add(folder: Path, item: Item, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> list[str]:
    """Write one image. Its label file waits for the numbers of the categories; returns its polygons as text."""
    item.write_image(folder / "images" / _folder(item) / f"{item.stem}.png", image)
    polygons = [polygon / mask.shape[::-1] for polygon in outline_mask(mask)]
    return [" ".join(f"{number:.8f}" for number in polygon.ravel()) for polygon in polygons]


def _folder(item):
    return {"validation": "val"}.get(item.split, item.split or "train")


def finish(folder: Path, items: Sequence[Item], records: Sequence[list[str]], size: int) -> list[str]:
    """Write the label files and `data.yaml`, which names the folders of the parts relative to itself."""
    numbers = number_categories(item.sample for item in items)
    for item, polygons in zip(items, records):
        number = numbers[category_of(item.sample)] - 1
        text = "".join(f"{number} {polygon}\n" for polygon in polygons)
        write_text(folder / "labels" / _folder(item) / f"{item.stem}.txt", text)
    parts = {_folder(item) for item in items}
    content: dict[str, str | dict[int, str]] = {
        part: f"images/{part if part in parts else 'train'}" for part in ("train", "val")
    }
    content |= {"test": "images/test"} if "test" in parts else {}
    content["names"] = {number - 1: name for name, number in numbers.items()}
    write_text(folder / DATA, import_yaml(folder / DATA).safe_dump(content, sort_keys=False))
    empty = sum(not polygons for item, polygons in zip(items, records) if item.sample.label in ("benign", "malignant"))
    notes = [f"{empty} benign or malignant images have no lesion drawn and look normal."] if empty else []
    return notes if "val" in parts else [*notes, "There is no validation part, so val names images/train, too."]
