"""Reader of any folder with `images/` and `masks/`."""

from pathlib import Path

from busseg.data.facts import with_facts
from busseg.data.sample import CLASSES, Fault, Sample, without_faults
from busseg.imaging.images import is_image
from busseg.storage.escaping import match_names
from busseg.storage.files import read_csv


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of a folder and pair each with the mask of the same name.

    Layout: `root/images/NAME.png`, `root/masks/NAME.png`, and, if the classes are known, `root/labels.csv` with the
    columns `file` (the name in `images/`), `label`, and optionally `group` (for example, the patient), `pixel_mm` and
    the attributes of `facts.KEPT`. The suffixes may differ.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name. Without `labels.csv` every label is None.

    Raises:
        FileNotFoundError: If a folder, an image's mask or a mask's image is missing, or there are no images.
        ValueError: If two files share a name, or `labels.csv` lacks an image, names one twice, or names an unknown
            class or file.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """List the samples of a folder of pairs as `find_samples` does, and all faults instead of raising the first one.

    Args:
        root: Path of the folder.

    Returns:
        `(samples, faults)`: the list of `Sample`, where one without a mask has no `masks` and one without a known
        class no label; and a list of `(kind, path, error)`, the kind being one of "missing_folder", "name_clash",
        "missing_mask", "orphan_mask", "bad_label".
    """
    root = Path(root)
    faults: list[Fault] = []
    images, masks = (_by_stem(root / folder, faults) for folder in ("images", "masks"))
    if not images and not faults:
        error = f"Expected images in the folder, found none: {root / 'images'}"
        faults.append(("missing_folder", root / "images", FileNotFoundError(error)))
    for stem in sorted(images.keys() - masks.keys()):
        error = f"Expected {stem}.png in {root / 'masks'}, found no mask: {images[stem]}"
        faults.append(("missing_mask", images[stem], FileNotFoundError(error)))
    for stem in sorted(masks.keys() - images.keys()):
        error = f"Expected {stem}.png in {root / 'images'}, found no image: {masks[stem]}"
        faults.append(("orphan_mask", masks[stem], FileNotFoundError(error)))
    rows = _read_labels(root / "labels.csv", {image.name for image in images.values()}, faults)
    samples = []
    for stem, image in sorted(images.items()):
        row, mask = rows.get(image.name, {}), (masks[stem],) if stem in masks else ()
        sample = Sample(name=image.name, image=image, masks=mask, label=row.get("label"), group=image.name)
        try:
            samples.append(with_facts(sample, row))
        except ValueError as error:
            faults.append(("bad_label", root / "labels.csv", ValueError(f"{error}: {root / 'labels.csv'}")))
            samples.append(sample)
    return samples, faults


def _by_stem(folder, faults):
    if not folder.is_dir():
        error = f"Expected the folders images and masks, found no {folder.name}: {folder.parent}"
        faults.append(("missing_folder", folder, FileNotFoundError(error)))
        return {}
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_image(path) and found.setdefault(path.stem, path) != path:
            error = f"Expected one file named {path.stem}, found {found[path.stem].name} too: {path}"
            faults.append(("name_clash", path, ValueError(error)))
    return found


def _read_labels(path, names, faults):
    """Dict from the name of each image to its row. A row with an unknown class has the label None."""
    if not path.exists():
        return {}
    try:
        table = read_csv(path, required=("file", "label"))
    except ValueError as error:
        faults.append(("bad_label", path, error))
        return {}
    rows, wrong, spelt = {}, [], match_names(names)
    for row in table:
        name = spelt(row["file"])
        if rows.setdefault(name, row) is not row:
            wrong.append(f"one row a file, found two for {name!r}")
        elif name not in names:
            wrong.append(f"rows for the files in images, found {name!r}")
        elif row["label"] not in CLASSES:
            wrong.append(f"a label of {', '.join(CLASSES)}, found {row['label']!r} for {name!r}")
            row["label"] = None
    wrong += [f"a row for every file in images, found none for {name!r}" for name in sorted(names - rows.keys())]
    faults += [("bad_label", path, ValueError(f"Expected {what}: {path}")) for what in wrong]
    return rows
