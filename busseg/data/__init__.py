"""Datasets: read, audit, group, split and augment images, masks and labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from busseg.data.sample import CLASSES, Fault, Sample
from busseg.data.task import Task


def find_samples(roots: str | Path | Sequence[str | Path], task: str | None = None) -> list[Sample]:
    """Find the samples of one or more dataset folders. Each folder's layout selects its reader.

    Args:
        roots: Path of a folder, or a sequence of them. Each has the layout of one of the modules in
            `busseg.data.readers`, or holds only such a folder, as archives do. The path of a NumPy archive does, too.
        task: Name of the `Task` that the samples are for. "subtypes" labels them with their subtypes. None accepts any.

    Returns:
        List of `Sample`, sorted by name. `source` is the folder's name; if folders share a name, as much of the end of
        their paths as distinguishes them. The names and groups of samples from several folders begin with it.

    Raises:
        FileNotFoundError: If a folder is missing or has an unknown layout.
        ValueError: If no task has the name, the samples are for another task, or one folder is given twice.
    """
    roots = [Path(roots)] if isinstance(roots, str | Path) else [Path(root) for root in roots]
    sources, wanted = name_sources(roots), None if task is None else Task(task)
    found = [(source, _find_samples(root, wanted)) for source, root in zip(sources, roots)]
    if len(roots) == 1:
        return [replace(sample, source=source) for source, samples in found for sample in samples]
    return sorted(
        (
            replace(sample, name=f"{source}/{sample.name}", group=f"{source}/{sample.group}", source=source)
            for source, samples in found
            for sample in samples
        ),
        key=lambda sample: sample.name,
    )


def list_samples(roots: Sequence[str | Path]) -> tuple[list[Sample], list[Fault], dict[str, ModuleType]]:
    """List the samples of dataset folders as `find_samples` does, and all faults instead of raising the first one.

    Args:
        roots: Sequence of paths.

    Returns:
        `(samples, faults, readers)`: the samples, with the names of `find_samples`, folder by folder; the faults,
        `(kind, path, error)`; and a dict from each source to the module that reads it.

    Raises:
        FileNotFoundError, OSError, ValueError: If a folder is missing, has an unknown layout or holds no image.
        ValueError: If one folder is given twice.
    """
    samples, faults, readers = [], [], {}
    for source, root in zip(name_sources(roots), roots):
        readers[source], folder = find_reader(root)
        mine, wrong = readers[source].list_samples(folder)
        if not mine:
            raise wrong[0][2]
        prefix = f"{source}/" if len(roots) > 1 else ""
        samples += [
            replace(sample, name=prefix + sample.name, group=prefix + sample.group, source=source) for sample in mine
        ]
        faults += wrong
    return samples, faults, readers


def name_sources(roots: Sequence[str | Path]) -> list[str]:
    """Name dataset folders by as much of the end of each path as distinguishes it from the others.

    Args:
        roots: Sequence of paths.

    Returns:
        List of names, with forward slashes.

    Raises:
        ValueError: If one folder is given twice.
    """
    paths = [Path(root).resolve().parts for root in roots]
    if len(set(paths)) < len(paths):
        raise ValueError(f"Expected each dataset folder once, found one twice: {', '.join(map(str, roots))}")
    length = 1
    while len({path[-length:] for path in paths}) < len(paths):
        length += 1
    return ["/".join(path[-length:]) for path in paths]


def _find_samples(root, task):
    from busseg.data.readers import breakhis

    reader, folder = find_reader(root)
    if task and task.is_histology != (reader is breakhis):
        wanted, found = ("histology", "ultrasound") if task.is_histology else ("ultrasound", "histology")
        raise ValueError(f"Expected {wanted} images for the task {task}, found {found} images: {folder}")
    samples = reader.find_samples(folder)
    return breakhis.label_by_subtype(samples) if task is Task.SUBTYPES else samples


def find_reader(root: str | Path) -> tuple[ModuleType, Path]:
    """Select the reader of a dataset folder by its layout.

    Args:
        root: Path of a folder; see `find_samples`.

    Returns:
        `(reader, folder)`: the module of `busseg.data.readers` that reads it, and the folder with the layout: `root`,
        or the only folder inside.

    Raises:
        FileNotFoundError: If the folder is missing or has an unknown layout.
    """
    from busseg.data.readers import (
        breakhis,
        breast,
        bus_uclm,
        busbra,
        busi,
        coco,
        cvat,
        imagefolder,
        label_studio,
        medmnist,
        nnunet,
        pairs,
        udiat,
        yolo,
    )

    root = Path(root)
    if root.is_file() and medmnist.recognises(root):
        return medmnist, root
    if not root.is_dir():
        raise FileNotFoundError(f"Expected a dataset folder, found {'a file' if root.exists() else 'nothing'}: {root}")
    tables = (busbra, breast, bus_uclm, udiat)  # recognised by files that other layouts lack
    for reader in (*tables, nnunet, coco, yolo, imagefolder, cvat, label_studio, medmnist):
        if reader.recognises(root):
            return reader, root
    inner = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    if len(inner) == 1 and inner[0].name not in (*CLASSES, "images", "masks"):
        return find_reader(inner[0])
    names = {path.name for path in inner}
    if names & {"images", "masks"}:
        return pairs, root
    if breakhis.is_breakhis(root):  # before BUSI, which has folders with the same names
        return breakhis, root
    if names & set(CLASSES):
        return busi, root
    raise FileNotFoundError(
        f"Expected the folders {', '.join(CLASSES)}, or images and masks, or the files of BUS-BRA, BrEaST, BUS-UCLM, "
        f"UDIAT or BreaKHis, or those of nnU-Net, COCO, YOLO, MedMNIST, an image folder, CVAT or Label Studio, "
        f"found none: {root}"
    )
