"""Reader of folders with a JSON export of Label Studio.

Layout: https://labelstud.io/guide/task_format
"""

import re
from pathlib import Path
from urllib.parse import unquote

from busseg.data.facts import check_categories, find_label, label_by_areas, with_facts
from busseg.data.readers.tables import compare_with_files
from busseg.data.sample import CLASSES, Fault, Sample, without_faults
from busseg.imaging.annotations import label_studio
from busseg.imaging.images import is_image
from busseg.storage.files import blaming

_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # before the name of an uploaded file


def recognises(root: str | Path) -> bool:
    """Whether a folder holds tasks of Label Studio."""
    return bool(_files(Path(root)))


def _files(root):
    return sorted(path for path in root.glob("*.json") if label_studio.recognises(path))


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images that a person annotated in Label Studio, with their brush masks and polygons.

    Layout: `root/*.json`, an export as JSON, and the images in `root/images` or `root`, by their names; files that
    Label Studio imports, with predictions alone, are passed over. Tasks without a submitted annotation are left out.
    The class of an image is its choice, or else that of its areas' labels: malignant if one is, else benign if one is.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name.

    Raises:
        FileNotFoundError: If an image, a mask or a file of the layout is missing.
        ValueError: If an export is broken, has boxes or labels of other areas than lesions, or lists an image twice.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """The samples as `find_samples` lists them, and all faults; see `tables.compare_with_files`."""
    root = Path(root)
    images = {path.name: path for path in root.rglob("*") if is_image(path) and path.is_file()}
    samples: list[Sample] = []
    faults: list[Fault] = []
    for path in _files(root):
        try:
            with blaming(path, "an export of Label Studio"):
                tasks = {key: task for key, task in label_studio.read(path).items() if task.annotated}
                check_categories({name for task in tasks.values() for name in task.labels}, path)
                samples += [_to_sample(root, path, key, task, images) for key, task in tasks.items()]
        except (OSError, ValueError) as error:
            faults.append(("bad_label", path, error))
    if not samples and not faults:
        line = f"Expected annotations that a person submitted, found only predictions: {root}"
        faults.append(("missing_folder", root, FileNotFoundError(line)))
    # Tasks may be annotated in part, so that images without one are no fault.
    annotated = {sample.image for sample in samples} & {*images.values()}
    if samples:
        samples, more = compare_with_files(_files(root)[0], samples, annotated, ())
        faults += more
    return samples, faults


def _to_sample(root, path, key, task, images):
    source = unquote(str(task.data.get("image") or next(iter(task.data.values()))))
    name = re.split(r"[/\\=]", source)[-1]
    if name not in images:
        name = _UPLOAD.sub("", name, count=1)
    place = images.get(name, root / "images" / name)
    choices = [choice.lower() for choice in task.choices if choice.lower() in CLASSES]
    sample = Sample(
        name=place.relative_to(root).as_posix(),
        image=place,
        masks=(path / key,) if task.areas else (),
        label=find_label(choices[0]) if choices else label_by_areas(task.labels, task.labels),
        group=place.relative_to(root).as_posix(),
    )
    return with_facts(sample, {name: value for name, value in task.data.items() if name != "score"})
