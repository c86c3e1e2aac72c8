"""A BUSI folder -> samples.

BUSI: Al-Dhabyani et al., "Dataset of breast ultrasound images", Data in Brief 28:104863 (2020),
https://doi.org/10.1016/j.dib.2019.104863
"""

import re
from pathlib import Path

from busseg.data.duplicates import published_busi_groups
from busseg.data.images import is_image
from busseg.data.sample import CLASSES, Sample

MASK_STEM = re.compile(r"(?P<image>.+)_mask(_\d+)?")


def find_samples(root):
    """Find the images of a BUSI folder and pair them with their masks by name.

    Expected: `root/{normal,benign,malignant}/NAME.png` beside `NAME_mask.png`, `NAME_mask_1.png`, ... Other image
    suffixes, in any case, are taken too; files that are no images are passed over.

    Args:
        root: Path of the folder that holds the three class folders.

    Returns:
        List of `Sample`, sorted by name. Images that Pawłowska et al. (2023) found to be copies share a group.

    Raises:
        FileNotFoundError: If a folder, an image's mask or a mask's image is missing, or a class folder is empty.
        ValueError: If two images of a class differ by their suffix alone.
    """
    root = Path(root)
    groups = published_busi_groups()
    samples = []
    for label in CLASSES:
        folder = root / label
        if not folder.is_dir():
            raise FileNotFoundError(f"Expected the class folders {', '.join(CLASSES)}, found no {label}: {root}")
        found = [
            Sample(
                name=f"{label}/{image.name}",
                image=image,
                masks=masks,
                label=label,
                group=groups.get(image.stem, f"{label}/{image.name}"),
            )
            for image, masks in _pairs(folder)
        ]
        if not found:
            raise FileNotFoundError(f"Expected images in the class folder, found none: {folder}")
        samples += found
    return sorted(samples, key=lambda sample: sample.name)


def _pairs(folder):
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_image(path))
    images = {}
    for path in files:
        if not MASK_STEM.fullmatch(path.stem) and images.setdefault(path.stem, path) != path:
            raise ValueError(f"Expected one image named {path.stem}, found {images[path.stem].name} too: {path}")
    masks = {stem: [] for stem in images}
    for path in files:
        match = MASK_STEM.fullmatch(path.stem)
        if match and match["image"] not in images:
            raise FileNotFoundError(f"Expected the image {match['image']} beside its mask, found none: {path}")
        if match:
            masks[match["image"]].append(path)
    for stem, image in images.items():
        if not masks[stem]:
            raise FileNotFoundError(f"Expected {stem}_mask.png beside the image, found no mask: {image}")
    return [(image, tuple(masks[stem])) for stem, image in images.items()]
