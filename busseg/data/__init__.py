"""What goes in: images, masks, labels, and how they are read, grouped, split, augmented and batched."""

from dataclasses import replace
from pathlib import Path


def find_samples(roots, task=None):
    """Find the samples of one dataset folder, or of several, whichever of the known shapes each has.

    Args:
        roots: Path of a folder, or a sequence of them. Each is a folder that one of the readers knows: `busi`,
            `busbra`, `breast`, `bus_uclm`, `udiat`, `breakhis` or `pairs`; or one that holds just that folder, as
            archives do.
        task: One of `TASKS`, which the samples are for: those of "subtypes" are labelled with these. None takes any.

    Returns:
        List of `Sample`, sorted by name. `source` is the folder's name; where folders of one name are given, as much of
        their paths as sets them apart. The samples of several folders have names and groups that begin with it.

    Raises:
        FileNotFoundError: If a folder is missing or has none of these shapes.
        ValueError: If the samples are for another task, or one folder is given twice.
    """
    roots = [Path(roots)] if isinstance(roots, str | Path) else [Path(root) for root in roots]
    sources = name_sources(roots)
    found = [(source, _find_samples(root, task)) for source, root in zip(sources, roots)]
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


def name_sources(roots):
    """What to call dataset folders: as much of the end of each path as sets it apart from the others.

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
    if task and (reader is breakhis) == (task == "ultrasound"):
        wanted, found = ("scans", "tissue") if task == "ultrasound" else ("tissue", "scans")
        raise ValueError(f"Expected {wanted}, for the task {task}, found a dataset of {found}: {folder}")
    samples = reader.find_samples(folder)
    return breakhis.label_by_subtype(samples) if task == "subtypes" else samples


def find_reader(root):
    """Tell a dataset folder by its shape.

    Args:
        root: Path of a folder; see `find_samples`.

    Returns:
        `(reader, folder)`: the module that reads it, `busi`, `busbra`, `breast`, `bus_uclm`, `udiat`, `breakhis` or
        `pairs`, and the folder that has the shape: `root`, or the only one inside.

    Raises:
        FileNotFoundError: If the folder is missing or has none of these shapes.
    """
    from busseg.data.readers import breakhis, breast, bus_uclm, busbra, busi, pairs, udiat
    from busseg.data.sample import CLASSES

    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"Expected a dataset folder, found {'a file' if root.exists() else 'nothing'}: {root}")
    for reader in (busbra, breast, bus_uclm, udiat):  # by their tables, which other shapes lack
        if reader.recognises(root):
            return reader, root
    inner = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    if len(inner) == 1 and inner[0].name not in (*CLASSES, "images", "masks"):
        return find_reader(inner[0])
    names = {path.name for path in inner}
    if names & {"images", "masks"}:
        return pairs, root
    if breakhis.is_breakhis(root):  # before BUSI, which has folders of the same names
        return breakhis, root
    if names & set(CLASSES):
        return busi, root
    raise FileNotFoundError(
        f"Expected the folders {', '.join(CLASSES)}, or images and masks, or the files of BUS-BRA, BrEaST, BUS-UCLM, "
        f"UDIAT or BreaKHis, found none: {root}"
    )
