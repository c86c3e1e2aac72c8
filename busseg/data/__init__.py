"""What goes in: images, masks, labels, and how they are read, grouped, split, augmented and batched."""

from pathlib import Path


def find_samples(root):
    """Find the samples of a dataset folder, whichever of the known shapes it has.

    Args:
        root: Path of a BUSI folder (see `busi.find_samples`), of one that holds just that folder, as the archive of
            BUSI does, or of a folder of pairs (see `pairs.find_samples`).

    Returns:
        List of `Sample`, sorted by name.

    Raises:
        FileNotFoundError: If the folder is missing or has neither shape.
    """
    reader, folder = find_reader(root)
    return reader.find_samples(folder)


def find_reader(root):
    """Tell a dataset folder by its shape.

    Args:
        root: Path of a folder; see `find_samples`.

    Returns:
        `(reader, folder)`: the module that reads it, `busi` or `pairs`, and the folder that has the shape: `root`, or
        the only one inside.

    Raises:
        FileNotFoundError: If the folder is missing or has neither shape.
    """
    from busseg.data import busi, pairs
    from busseg.data.sample import CLASSES

    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"Expected a dataset folder, found {'a file' if root.exists() else 'nothing'}: {root}")
    inner = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    if len(inner) == 1 and inner[0].name not in (*CLASSES, "images", "masks"):
        return find_reader(inner[0])
    names = {path.name for path in inner}
    if names & {"images", "masks"}:
        return pairs, root
    if names & set(CLASSES):
        return busi, root
    raise FileNotFoundError(f"Expected the folders {', '.join(CLASSES)}, or images and masks, found neither: {root}")
