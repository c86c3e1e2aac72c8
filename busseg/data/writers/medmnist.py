"""Write NumPy archives of MedMNIST and MedSegBench, which `readers/medmnist.py` reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.data.readers.medmnist import NAMES, SPLITS
from busseg.data.splits import PARTS
from busseg.data.task import Task
from busseg.data.writers.item import Item, by_split, to_grey
from busseg.imaging.images import fit_to_square

TITLE = "MedMNIST"
CARRIES = ("classes", "splits")


def add(
    folder: Path, item: Item, image: NDArray[np.uint8], mask: NDArray | None
) -> tuple[NDArray, NDArray | None, bool]:
    """The grey image, its mask, and whether the image had colours; an archive is written as a whole."""
    return to_grey(image), mask, image.ndim == 3


def finish(folder: Path, items: Sequence[Item], records: Sequence[tuple], size: int) -> list[str]:
    """Write the archive. Images of different sizes are fitted to squares of side `size`, in pixels.

    Raises:
        ValueError: If some images have a class or a mask and others have none.
    """
    images, masks, coloured = map(list, zip(*records))
    labels = [item.sample.label for item in items]
    for what, values in (("class", labels), ("mask", masks)):
        missing = [item.sample.name for item, value in zip(items, values) if value is None]
        if 0 < len(missing) < len(items):
            raise ValueError(f"Expected a {what} for every image or for none, found none for {missing[0]!r}")
    notes = [f"Colours of {sum(coloured)} images are written as grey."] if any(coloured) else []
    if len({image.shape for image in images}) > 1:
        images = [fit_to_square(image, size) for image in images]
        masks = [mask if mask is None else fit_to_square(mask, size) for mask in masks]
        notes.append(f"Images and masks are fitted to squares of {size} px, because they differ in size.")
    classes = next((task.classes for task in Task if labels[0] in task.classes), ())
    arrays = {NAMES: np.array(classes)} if classes else {}
    parts = by_split(items, "train")
    for split, part in zip(SPLITS, PARTS):
        places = parts.get(part, [])
        arrays[f"{split}_images"] = _stack([images[place] for place in places], images[0].shape)
        if masks[0] is not None:
            arrays[f"{split}_label"] = _stack([masks[place] for place in places], images[0].shape)
        if classes:
            numbers = [classes.index(labels[place]) for place in places]
            arrays[f"{split}_labels"] = np.array(numbers, np.uint8).reshape(-1, 1)
    folder.mkdir()
    np.savez_compressed(folder / f"{folder.name}.npz", **arrays)  # type: ignore[arg-type]  # no array is allow_pickle
    return notes


def _stack(images, shape):
    return np.array(images, np.uint8).reshape(-1, *shape)
