"""Write raw datasets of nnU-Net, version 2, which `readers/nnunet.py` reads."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.data.facts import facts_of
from busseg.data.readers.nnunet import CASES, DATASET, FOLDERS, SPLITS
from busseg.data.writers.item import Item, category_of, number_categories, to_grey
from busseg.storage.files import write_text

TITLE = "nnU-Net"
CARRIES = ("classes", "groups", "scales", "attributes", "splits", "folds")


def add(folder: Path, item: Item, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[NDArray, bool]:
    """Write one image. Its label map waits for the numbers of the categories; returns the mask, and whether the image
    had colours.
    """
    images, _ = FOLDERS[item.split == "test"]
    item.write_image(folder / images / f"{item.stem}_0000.png", to_grey(image))
    return mask, image.ndim == 3


def finish(folder: Path, items: Sequence[Item], records: Sequence[tuple[NDArray, bool]], size: int) -> list[str]:
    """Write the label maps, `dataset.json`, and `splits_final.json` if there is a split."""
    categories = number_categories(item.sample for item in items)
    used = set()
    for item, (mask, _) in zip(items, records):
        category = category_of(item.sample)
        if mask.any():
            used.add(category)
        _, labels = FOLDERS[item.split == "test"]
        item.write_image(folder / labels / f"{item.stem}.png", mask * np.uint8(categories[category]))
    for images, labels in FOLDERS[:1]:  # nnU-Net wants them, even if all images are of the test part
        (folder / images).mkdir(exist_ok=True)
        (folder / labels).mkdir(exist_ok=True)
    training = [item for item in items if item.split != "test"]
    names = [name for name in categories if name in used or name != "lesion" or len(categories) == 1]
    content = {
        "channel_names": {"0": "ultrasound"},
        "labels": {"background": 0, **{name: categories[name] for name in names}},
        "numTraining": len(training),
        "file_ending": ".png",
        CASES: {item.stem: {"label": item.sample.label, **facts_of(item.sample)} for item in items},
    }
    write_text(folder / DATASET, json.dumps(content, indent=2))
    notes = []
    if any(colour for _, colour in records):
        notes.append(f"Colours of {sum(colour for _, colour in records)} images are written as grey.")
    if folds := _folds(training):
        write_text(folder / SPLITS, json.dumps(folds, indent=2))
        notes.append(f"Copy {SPLITS} to nnUNet_preprocessed/{folder.name}; nnU-Net reads it there.")
    return notes


def _folds(items):
    """nnU-Net's folds: one for each number of a fold, else one with the train and validation parts."""
    numbers = sorted({item.sample.attributes["fold"] for item in items if "fold" in item.sample.attributes}, key=int)
    if numbers:
        tested = [{item.stem for item in items if item.sample.attributes.get("fold") == number} for number in numbers]
        return [{"train": [i.stem for i in items if i.stem not in val], "val": sorted(val)} for val in tested]
    parts = {"train": [i.stem for i in items if i.split == "train"]}
    parts["val"] = [i.stem for i in items if i.split == "validation"]
    return [parts] if parts["train"] and parts["val"] else []
