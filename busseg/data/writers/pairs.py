"""Write busseg's own layout, which `readers/pairs.py` reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.data.facts import FACTS, facts_of
from busseg.data.writers.item import Item
from busseg.storage.files import write_csv

TITLE = "busseg's layout"
CARRIES = ("classes", "groups", "scales", "attributes", "splits", "folds")


def add(folder: Path, item: Item, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> str:
    """Write one image and its mask; returns its file name."""
    name = f"{item.stem}.png"
    item.write_image(folder / "images" / name, image)
    item.write_image(folder / "masks" / name, mask * np.uint8(255))
    return name


def finish(folder: Path, items: Sequence[Item], names: Sequence[str], size: int) -> list[str]:
    """Write the table of classes. Without classes there is none, and groups and attributes are lost.

    Raises:
        ValueError: If some images have a class and others have none.
    """
    labels = [item.sample.label for item in items]
    if not any(labels):
        return ["There is no labels.csv without classes, so groups, scales, attributes and splits are left out."]
    if not all(labels):
        name = items[labels.index(None)].sample.name
        raise ValueError(f"Expected a class for every image or for none, found none for {name!r}")
    facts = [facts_of(item.sample) for item in items]
    columns = [name for name in FACTS if any(name in values for values in facts)]
    rows = [{"file": n, "label": label, **values} for n, label, values in zip(names, labels, facts)]
    write_csv(folder / "labels.csv", ("file", "label", *columns), rows)
    return []
