"""Reader of COCO folders.

Layout: https://cocodataset.org/#format-data
"""

from pathlib import Path

from busseg.data.facts import check_categories, find_label, find_split, label_by_areas, with_facts
from busseg.data.readers.tables import compare_with_files
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.annotations import coco
from busseg.imaging.images import is_image
from busseg.storage.files import blaming

_PLACES = ("*.json", "annotations/*.json", "*/_annotations.coco.json")


def recognises(root: str | Path) -> bool:
    """Whether a folder holds COCO files."""
    return bool(_files(Path(root)))


def _files(root):
    return sorted(path for place in _PLACES for path in root.glob(place) if coco.recognises(path))


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images that COCO files list, with their segmentations.

    Layout: `root/annotations/NAME.json`, `root/NAME.json` or `root/SPLIT/_annotations.coco.json`, and the images under
    the `file_name` of the file, beside it or in `root`, `root/images`, `root/SPLIT` or `root/images/SPLIT`. The class
    of an image is its own `label`, as busseg writes it, or that of its annotations' categories: malignant if one is,
    else benign if one is. An image without annotations is normal if the categories distinguish benign from malignant.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name. The split is the word train, val or test in the file's or its folder's name,
        if the files have different ones.

    Raises:
        FileNotFoundError: If an image, a mask or a file of the layout is missing.
        ValueError: If a file is broken, lists an image twice or has categories of other areas than lesions.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """The samples as `find_samples` lists them, and all faults; see `tables.compare_with_files`."""
    root = Path(root)
    files = _files(root)
    splits = {path: _find_split(path) for path in files}
    samples, faults = [], []
    for path in files:
        split = splits[path] if len(set(splits.values())) > 1 else None
        try:
            with blaming(path, "a COCO file"):
                samples += _samples_of(path, root, split)
        except (OSError, ValueError) as error:
            faults.append(("bad_label", path, error))
    images = [path for path in root.rglob("*") if is_image(path) and path.is_file()]
    samples, more = compare_with_files(files[0] if files else root / "annotations.json", samples, images, ())
    return samples, faults + more


def _find_split(path):
    words = [path.parent.name, *path.stem.replace("-", "_").split("_")]
    return next(filter(None, (find_split(word.rstrip("0123456789")) for word in words)), None)


def _samples_of(path, root, split):
    content = coco.read(path)
    used = {annotation["category_id"] for found in content.annotations.values() for annotation in found}
    check_categories((content.categories[number] for number in used), path)
    for key, image in content.images.items():
        areas = [content.categories[annotation["category_id"]] for annotation in content.annotations.get(key, ())]
        place = _find_image(image["file_name"], path, root)
        name = place.relative_to(root).as_posix()
        label = find_label(image.get("label")) or label_by_areas(areas, content.categories.values())
        sample = Sample(name=name, image=place, masks=(path / key,), label=label, group=name)
        yield with_facts(sample, {**image, **({"split": split} if split else {})})


def _find_image(name, path, root):
    split = path.stem.split("_")[-1]  # of instances_train2017.json
    folders = [path.parent, root, root / "images", root / split, root / "images" / split]
    places = [folder / name for folder in folders]
    found = next((place for place in places if place.is_file()), root / "images" / name)
    if not found.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"Expected images inside the dataset, found {name!r}: {path}")
    return found
