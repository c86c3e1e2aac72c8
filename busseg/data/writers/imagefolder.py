"""Write image folders of Hugging Face's `datasets`, which `readers/imagefolder.py` reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.data.facts import FACTS, facts_of
from busseg.data.readers.imagefolder import TABLES
from busseg.data.writers.item import Item, by_split
from busseg.storage.files import write_csv

TITLE = "an image folder"
CARRIES = ("classes", "groups", "scales", "attributes", "splits", "folds")
_UNSPLIT = "train"  # the name that `datasets` gives to all images of a dataset without a split


def add(folder: Path, item: Item, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> dict[str, str | float]:
    """Write one image and, if it is known, its mask; returns the row of the table."""
    part = folder / (item.split or _UNSPLIT)
    row = {"file_name": f"images/{item.stem}.png"}
    item.write_image(part / row["file_name"], image)
    if mask is not None:
        row["mask_file_name"] = f"masks/{item.stem}.png"
        item.write_image(part / row["mask_file_name"], mask * np.uint8(255))
    return row | ({"label": item.sample.label} if item.sample.label else {}) | facts_of(item.sample)


def finish(folder: Path, items: Sequence[Item], rows: Sequence[dict[str, str | float]], size: int) -> list[str]:
    """Write the table of each part."""
    columns = [name for name in ("file_name", "mask_file_name", "label", *FACTS) if any(name in row for row in rows)]
    for part, places in by_split(items, _UNSPLIT).items():
        write_csv(folder / part / TABLES[0], columns, [rows[place] for place in places])
    return []
