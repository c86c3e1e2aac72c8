"""Any folder with `images/` and `masks/` -> samples."""

from pathlib import Path

from busseg.data.files import read_csv
from busseg.data.images import is_image
from busseg.data.sample import CLASSES, Sample


def find_samples(root):
    """Find the images of a folder and pair each with the mask of the same name.

    Expected: `root/images/NAME.png`, `root/masks/NAME.png`, and if classes are known `root/labels.csv` with the
    columns `file` (as in `images/`) and `label`, and optionally `group` (a patient, say). The suffixes may differ.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name. Without `labels.csv` every label is None.

    Raises:
        FileNotFoundError: If a folder, an image's mask or a mask's image is missing, or there are no images.
        ValueError: If two files share a name, or `labels.csv` misses an image, names one twice, or names an
            unknown class or file.
    """
    root = Path(root)
    images, masks = (_by_stem(root / folder) for folder in ("images", "masks"))
    if not images:
        raise FileNotFoundError(f"Expected images in the folder, found none: {root / 'images'}")
    for stem in sorted(images.keys() - masks.keys()):
        raise FileNotFoundError(f"Expected {stem}.png in {root / 'masks'}, found no mask: {images[stem]}")
    for stem in sorted(masks.keys() - images.keys()):
        raise FileNotFoundError(f"Expected {stem}.png in {root / 'images'}, found no image: {masks[stem]}")
    rows = _read_labels(root / "labels.csv", {image.name for image in images.values()})
    return [
        Sample(
            name=image.name,
            image=image,
            masks=(masks[stem],),
            label=rows.get(image.name, {}).get("label"),
            group=rows.get(image.name, {}).get("group") or image.name,
        )
        for stem, image in sorted(images.items())
    ]


def _by_stem(folder):
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected the folders images and masks, found no {folder.name}: {folder.parent}")
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_image(path):
            if path.stem in found:
                raise ValueError(f"Expected one file named {path.stem}, found {found[path.stem].name} too: {path}")
            found[path.stem] = path
    return found


def _read_labels(path, names):
    if not path.exists():
        return {}
    rows = {}
    for row in read_csv(path, required=("file", "label")):
        name = row["file"]
        if rows.setdefault(name, row) is not row:
            raise ValueError(f"Expected one row a file, found two for {name!r}: {path}")
        if name not in names:
            raise ValueError(f"Expected rows for the files in images, found {name!r}: {path}")
        if row["label"] not in CLASSES:
            raise ValueError(f"Expected a label of {', '.join(CLASSES)}, found {row['label']!r} for {name!r}: {path}")
    for name in sorted(names - rows.keys()):
        raise ValueError(f"Expected a row for every file in images, found none for {name!r}: {path}")
    return rows
