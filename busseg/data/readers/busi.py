"""Reader of BUSI folders.

BUSI: Al-Dhabyani et al., "Dataset of breast ultrasound images", Data in Brief 28:104863 (2020),
https://doi.org/10.1016/j.dib.2019.104863
"""

from pathlib import Path

from busseg.data.duplicates import published_busi_groups
from busseg.data.sample import CLASSES, Fault, Sample
from busseg.imaging.images import is_image
from busseg.imaging.masks import MASK_STEM


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of a BUSI folder and pair them with their masks by name.

    Layout: `root/{normal,benign,malignant}/NAME.png` beside `NAME_mask.png`, `NAME_mask_1.png`, ... Other image
    suffixes, in any case, are read, too; other files are ignored. Class folders may be missing or empty, as long as one
    has images; see `missing_classes`.

    Args:
        root: Path of the folder that holds the class folders.

    Returns:
        List of `Sample`, sorted by name. Images that Pawłowska et al. (2023) found to be copies share a group.

    Raises:
        FileNotFoundError: If there are no images, or an image's mask or a mask's image is missing.
        ValueError: If two images of a class differ only by their suffix.
    """
    samples, faults = list_samples(root)
    for kind, _, error in faults:
        if kind != "missing_class":
            raise error
    return samples


def missing_classes(root: str | Path) -> list[str]:
    """The classes without an image in a BUSI folder."""
    present = {sample.label for sample in list_samples(root)[0]}
    return [label for label in CLASSES if label not in present]


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """List the samples of a BUSI folder as `find_samples` does, and all faults instead of raising the first one.

    Args:
        root: Path of the folder that holds the class folders.

    Returns:
        `(samples, faults)`: the list of `Sample`, where one without a mask has no `masks`; and a list of
        `(kind, path, error)`, the kind being one of "missing_class", "missing_folder" (there are no images),
        "name_clash", "missing_mask", "orphan_mask".
    """
    root = Path(root)
    groups = published_busi_groups()
    samples, missing = [], []
    faults: list[Fault] = []
    for label in CLASSES:
        folder = root / label
        if not folder.is_dir():
            error = f"Expected the class folders {', '.join(CLASSES)}, found no {label}: {root}"
            missing.append((folder, FileNotFoundError(error)))
            continue
        pairs, wrong = _pairs(folder)
        faults += wrong
        if not pairs:
            error = f"Expected images in the class folder, found none: {folder}"
            missing.append((folder, FileNotFoundError(error)))
        samples += [
            Sample(
                name=f"{label}/{image.name}",
                image=image,
                masks=masks,
                label=label,
                group=groups.get(image.stem, f"{label}/{image.name}"),
            )
            for image, masks in pairs
        ]
    kind = "missing_class" if samples else "missing_folder"
    faults[:0] = [(kind, *one) for one in missing]
    return sorted(samples, key=lambda sample: sample.name), faults


def _pairs(folder):
    """`(pairs, faults)`: each image of a folder with its masks, and the faults."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and is_image(path))
    images, faults = {}, []
    for path in files:
        if not MASK_STEM.fullmatch(path.stem) and images.setdefault(path.stem, path) != path:
            error = f"Expected one image named {path.stem}, found {images[path.stem].name} too: {path}"
            faults.append(("name_clash", path, ValueError(error)))
    masks = {stem: [] for stem in images}
    for path in files:
        match = MASK_STEM.fullmatch(path.stem)
        if match and match["image"] in images:
            masks[match["image"]].append(path)
        elif match:
            error = f"Expected the image {match['image']} beside its mask, found none: {path}"
            faults.append(("orphan_mask", path, FileNotFoundError(error)))
    for stem, image in images.items():
        if not masks[stem]:
            error = f"Expected {stem}_mask.png beside the image, found no mask: {image}"
            faults.append(("missing_mask", image, FileNotFoundError(error)))
    return [(image, tuple(masks[stem])) for stem, image in images.items()], faults
