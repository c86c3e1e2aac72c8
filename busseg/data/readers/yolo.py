"""Reader of YOLO segmentation folders.

Layout: https://docs.ultralytics.com/datasets/segment/
"""

from pathlib import Path
from types import ModuleType

from busseg.data.facts import check_categories, find_split, label_by_areas
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.annotations import yolo
from busseg.imaging.images import is_image
from busseg.storage.extras import import_extra
from busseg.storage.files import blaming

DATA = "data.yaml"


def recognises(root: str | Path) -> bool:
    """Whether a folder holds a YOLO dataset."""
    return any((Path(root) / name).is_file() for name in (DATA, "dataset.yaml")) and any(_label_folders(Path(root)))


def _label_folders(root):
    return [path for path in (root / "labels", *root.glob("*/labels")) if path.is_dir()]


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of a YOLO segmentation dataset, with the polygons of their label files.

    Layout: `root/data.yaml` with `names`, the images `root/images/SPLIT/NAME.png` beside `root/labels/SPLIT/NAME.txt`,
    or `root/SPLIT/images/NAME.png` beside `root/SPLIT/labels/NAME.txt`; SPLIT may be missing. An image without a label
    file has no lesion. The class of an image is that of its objects: malignant if one is, else benign if one is. An
    image without objects is normal if `names` distinguishes benign from malignant.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name, with their `split`, if there are several.

    Raises:
        FileNotFoundError: If an image, a mask or a file of the layout is missing.
        ValueError: If `data.yaml` or a label file is broken, or has classes of other areas than lesions.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """List the samples of a YOLO folder as `find_samples` does, and all faults instead of raising the first one.

    Args:
        root: Path of the folder.

    Returns:
        `(samples, faults)`: the list of `Sample`; and a list of `(kind, path, error)`, the kind being one of
        "missing_folder", "orphan_mask", "bad_label".
    """
    root = Path(root)
    table = next(path for path in (root / DATA, root / "dataset.yaml") if path.is_file() or path.name != DATA)
    try:
        names = _read_names(table)
    except (OSError, ValueError) as error:
        return [], [("bad_label", table, error)]
    samples: list[Sample] = []
    faults: list[Fault] = []
    for labels in _label_folders(root):
        images = labels.with_name("images")
        texts = {path.relative_to(labels).with_suffix(""): path for path in labels.rglob("*.txt")}
        for image in sorted(path for path in images.rglob("*") if is_image(path) and path.is_file()):
            text = texts.pop(image.relative_to(images).with_suffix(""), None)
            try:
                samples.append(_to_sample(root, image, text, names))
            except (OSError, ValueError) as error:
                faults.append(("bad_label", text, error))
        for text in sorted(texts.values()):
            line = f"Expected an image {text.stem} in {images}, found none: {text}"
            faults.append(("orphan_mask", text, FileNotFoundError(line)))
    if not samples and not faults:
        faults.append(("missing_folder", root, FileNotFoundError(f"Expected images, found none: {root / 'images'}")))
    if len({sample.attributes.get("split") for sample in samples}) < 2:  # YOLO demands a name, so one means nothing
        samples = [Sample(**{**vars(sample), "attributes": {}}) for sample in samples]
    return sorted(samples, key=lambda sample: sample.name), faults


def _read_names(path):
    """Dict from the number of each class to its name."""
    yaml = import_yaml(path)
    with blaming(path, "the data of a YOLO dataset"):
        names = yaml.safe_load(path.read_text(encoding="utf-8"))["names"]
        names = dict(enumerate(names)) if isinstance(names, list) else {int(key): name for key, name in names.items()}
    check_categories(names.values(), path)
    return names


def _to_sample(root, image, text, names):
    name = image.relative_to(root).as_posix()
    split = next(filter(None, map(find_split, image.relative_to(root).parts[:-1])), None)
    objects = yolo.read(text) if text else []
    if unknown := {number for number, _ in objects} - names.keys():
        raise ValueError(f"Expected classes of {DATA}, found number {min(unknown)}: {text}")
    label = label_by_areas([names[number] for number, _ in objects], names.values())
    return Sample(
        name=name,
        image=image,
        masks=(text,) if text else (),
        label=label,
        group=name,
        attributes={"split": split} if split else {},
    )


def import_yaml(path: str | Path) -> ModuleType:
    """Import PyYAML, which reads and writes `data.yaml`; see `import_extra`."""
    return import_extra("yaml", "PyYAML to read YAML", "formats", path)
