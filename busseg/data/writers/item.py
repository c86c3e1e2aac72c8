"""An image to write in another format, and what the formats share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busseg.data.facts import LESION
from busseg.data.sample import CLASSES, Sample
from busseg.imaging.clips import read_picture
from busseg.imaging.images import read_mask, write_image


@dataclass(frozen=True)
class Item:
    """An image to write.

    Args:
        sample: Its `Sample`.
        stem: Name for its files, without a suffix, unique among the items of a conversion.
        place: Path of a hidden folder for unfinished files.
    """

    sample: Sample
    stem: str
    place: Path

    @property
    def split(self) -> str | None:
        """The part of a split, of `splits.PARTS`; None if there is no split."""
        return self.sample.attributes.get("split")

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Read image and mask.

        Returns:
            `(image, mask)`: uint8 `(height, width)`, or `(height, width, 3)` if the image has colours and no
            transparency; 0 or 1 `(height, width)`, or None if an image that is not normal has no mask.

        Raises:
            FileNotFoundError, OSError, ValueError: If one cannot be read.
        """
        grey = read_picture(self.sample.image)
        colour = read_picture(self.sample.image, colour=True)
        has_colour = (colour != colour[..., :1]).any() and np.array_equal(to_grey(colour), grey)
        unknown = not self.sample.masks and not is_lesion_free(self.sample)
        return colour if has_colour else grey, None if unknown else read_mask(self.sample.masks, grey.shape)

    def write_image(self, path: Path, pixels: NDArray[np.uint8]) -> None:
        """Write an image or mask of the item; missing parent folders are created."""
        write_image(path, pixels, self.place)


def is_lesion_free(sample: Sample) -> bool:
    """Whether a sample without a mask has no lesion: a normal image, or a predicted one."""
    return sample.label == "normal" or "score" in sample.attributes


def to_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The grey values of `Item.read`'s image, as `read_image` computes them."""
    return image if image.ndim == 2 else np.asarray(Image.fromarray(image).convert("L"))


def category_of(sample: Sample) -> str:
    """The category of a sample's lesion: benign, malignant, or lesion without a class."""
    return sample.label if sample.label in ("benign", "malignant") else LESION


def number_categories(samples: Iterable[Sample]) -> dict[str, int]:
    """Dict from each category to its number, from 1. Without any class there is only lesion."""
    if any(sample.label in CLASSES for sample in samples):
        return {"benign": 1, "malignant": 2, LESION: 3}
    return {LESION: 1}


def by_split(items: Sequence[Item], unsplit: str) -> dict[str, list[int]]:
    """Dict from the name of each part to the places of its items; without a split all are in the part `unsplit`."""
    parts: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        parts.setdefault(item.split or unsplit, []).append(place)
    return parts
