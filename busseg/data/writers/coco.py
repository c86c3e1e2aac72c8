"""Write COCO files, which `readers/coco.py` reads, and the results of predictions."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.data.facts import facts_of
from busseg.data.writers.item import Item, by_split, category_of, number_categories
from busseg.imaging.annotations.runs import compress, to_counts
from busseg.imaging.polygons import outline_mask
from busseg.storage.files import write_text

TITLE = "COCO"
CARRIES = ("classes", "groups", "scales", "attributes", "splits", "folds")
RESULTS = "results.json"


def add(folder: Path, item: Item, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[dict, list[dict], dict]:
    """Write one image; returns its entry, its annotations, and its result, without ids and categories."""
    name = f"{item.split}/{item.stem}.png" if item.split else f"{item.stem}.png"
    item.write_image(folder / "images" / name, image)
    height, width = mask.shape
    entry = {"file_name": name, "height": height, "width": width, "label": item.sample.label, **facts_of(item.sample)}
    areas = [_annotation(polygon) for polygon in outline_mask(mask)]
    runs = {"size": [height, width], "counts": compress(to_counts(mask.T.ravel()))}
    return entry, areas, {"segmentation": runs, "bbox": list(cv2.boundingRect(mask)), "found": bool(mask.any())}


def _annotation(polygon):
    """A connected part, whose polygon runs along pixel edges: pixel (0, 0) is the square up to (1, 1)."""
    left, top = polygon.min(axis=0).tolist()
    right, bottom = polygon.max(axis=0).tolist()
    x, y = polygon.astype(np.float64).T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    box = [left, top, right - left, bottom - top]
    return {"segmentation": [polygon.ravel().tolist()], "bbox": box, "area": area, "iscrowd": 0}


def finish(folder: Path, items: Sequence[Item], records: Sequence[tuple[dict, list, dict]], size: int) -> list[str]:
    """Write a file for each part of the split, and `results.json` if the lesions are predicted."""
    categories = number_categories(item.sample for item in items)
    for part, places in by_split(items, "default").items():
        images = [{"id": place + 1, **records[place][0]} for place in places]
        areas = [
            {"image_id": place + 1, "category_id": categories[category_of(items[place].sample)], **area}
            for place in places
            for area in records[place][1]
        ]
        content = {
            "images": images,
            "annotations": [{"id": number, **area} for number, area in enumerate(areas, 1)],
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
        }
        name = {"validation": "val"}.get(part, part)
        write_text(folder / "annotations" / f"instances_{name}.json", json.dumps(content))
    results = [
        {"image_id": place, "category_id": categories[category_of(item.sample)], "segmentation": result["segmentation"]}
        | {"bbox": result["bbox"], "score": float(item.sample.attributes["score"])}
        for place, (item, (_, _, result)) in enumerate(zip(items, records), 1)
        if "score" in item.sample.attributes and result["found"]
    ]
    if results:
        write_text(folder / RESULTS, json.dumps(results))
    return []
