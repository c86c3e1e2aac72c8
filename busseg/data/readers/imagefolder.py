"""Reader of the image folders of Hugging Face's `datasets`.

Layout: https://huggingface.co/docs/datasets/image_dataset
"""

import json
from pathlib import Path

from busseg.data.facts import find_label, find_split, with_facts
from busseg.data.readers.tables import compare_with_files
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.images import is_image
from busseg.storage.files import blaming, names_in, read_csv

TABLES = ("metadata.csv", "metadata.jsonl")
_IMAGE, _MASK = ("file_name", "image_file_name"), ("mask_file_name", "mask")


def recognises(root: str | Path) -> bool:
    """Whether a folder holds the table of an image folder, in itself or in the folder of a split."""
    return bool(_tables(Path(root)))


def _tables(root):
    folders = [root, *(path for path in sorted(root.iterdir()) if path.is_dir() and find_split(path.name))]
    return [folder / name for folder in folders for name in TABLES if _names_images(folder / name)]


def _names_images(path):
    if path.suffix == ".csv":
        return bool(set(_IMAGE) & set(names_in(path)))
    return path.is_file()


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images that the tables of an image folder list.

    Layout: `metadata.csv` or `metadata.jsonl` in `root` or in each of the folders `root/train`, `root/validation` and
    `root/test`. A row names the image in `file_name` and its mask in `mask_file_name`, relative to the table; `label`
    is the class, and `group`, `pixel_mm` and the attributes are read, too, if they are there.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name, with their `split`, if there are several.

    Raises:
        FileNotFoundError: If an image, a mask or a file of the layout is missing.
        ValueError: If a table is broken, or lists an image twice or not at all.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """The samples as `find_samples` lists them, and all faults; see `tables.compare_with_files`."""
    root = Path(root)
    tables = _tables(root)
    samples: list[Sample] = []
    faults: list[Fault] = []
    for table in tables:
        split = find_split(table.parent.name) if len(tables) > 1 else None
        try:
            with blaming(table, "the table of an image folder"):
                samples += [_to_sample(row, table, root, split) for row in _read(table)]
        except (OSError, ValueError) as error:
            faults.append(("bad_label", table, error))
    files = [path for path in root.rglob("*") if is_image(path) and path.is_file()]
    listed = {mask for sample in samples for mask in sample.masks}
    images = [path for path in files if path not in listed]
    samples, more = compare_with_files(tables[0], samples, images, listed & set(files))
    faults += more
    if samples and not listed:
        line = f"Expected the column mask_file_name, found none: {tables[0]}"
        faults.append(("missing_mask", tables[0], FileNotFoundError(line)))
    return samples, faults


def _read(table):
    if table.suffix == ".csv":
        return read_csv(table)
    return [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]


def _to_sample(row, table, root, split):
    image, mask = (next((row[name] for name in names if row.get(name)), None) for names in (_IMAGE, _MASK))
    if not image:
        raise ValueError(f"Expected the column file_name, found {', '.join(row)}: {table}")
    label = row.get("label")
    if label not in (None, "") and not find_label(label):
        raise ValueError(f"Expected a class by its name in label, found {label!r} for {image!r}: {table}")
    image = _inside(table.parent / image, root, table)
    name = image.relative_to(root).as_posix()
    sample = Sample(
        name=name,
        image=image,
        masks=(_inside(table.parent / mask, root, table),) if mask else (),
        label=find_label(label) if label else None,
        group=name,
    )
    return with_facts(sample, {**row, **({"split": split} if split else {})})


def _inside(path, root, table):
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"Expected files inside the dataset, found {str(path)!r}: {table}")
    return path
