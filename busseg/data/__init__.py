"""What goes in: images, masks, labels, and how they are read, grouped, split, augmented and batched."""

from pathlib import Path


def find_samples(root, task=None):
    """Find the samples of a dataset folder, whichever of the known shapes it has.

    Args:
        root: Path of a folder of BUSI (see `busi.find_samples`), of BreaKHis (see `breakhis.find_samples`) or of pairs
            (see `pairs.find_samples`), or of one that holds just that folder, as archives do.
        task: One of `TASKS`, which the samples are for: those of "subtypes" are labelled with these. None takes any.

    Returns:
        List of `Sample`, sorted by name.

    Raises:
        FileNotFoundError: If the folder is missing or has none of these shapes.
        ValueError: If the samples are for another task.
    """
    from busseg.data import breakhis

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
    from busseg.data import breakhis, breast, bus_uclm, busbra, busi, pairs, udiat
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
