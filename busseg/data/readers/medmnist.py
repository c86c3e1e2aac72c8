"""Reader of the NumPy archives of MedMNIST and MedSegBench.

MedMNIST: Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
classification", Scientific Data 10:41 (2023), https://doi.org/10.1038/s41597-022-01721-8; its BreastMNIST is BUSI with
the classes 0 malignant, 1 normal or benign, https://github.com/MedMNIST/MedMNIST/blob/main/medmnist/info.py.
MedSegBench: Kuş and Aydin, Scientific Data 11:1283 (2024), https://github.com/zekikus/MedSegBench; its busi has masks.
"""

from pathlib import Path

import numpy as np

from busseg.data.facts import find_label, find_split
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.arrays import list_arrays, read_array
from busseg.storage.files import blaming

SPLITS = ("train", "val", "test")
NAMES = "classes"  # array of busseg's own: the names of the classes, by their numbers
BREASTMNIST = ("malignant", None)  # its second class is "normal, benign"


def recognises(root: str | Path) -> bool:
    """Whether a path is an archive of MedMNIST or MedSegBench, or a folder that holds one."""
    return _find(Path(root)) is not None


def _find(root):
    paths = sorted(root.glob("*.npz")) if root.is_dir() else [root]
    return next((path for path in paths if "train_images" in list_arrays(path)), None)


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of a MedMNIST or MedSegBench archive.

    The archive has the arrays `SPLIT_images`, `(n, height, width)` or with colours, and `SPLIT_labels`, `(n, 1)`, the
    numbers of classes, or `SPLIT_label`, `(n, height, width)`, the masks; SPLIT is train, val or test. busseg writes
    both, and the names of the classes. Without names, two classes are those of BreastMNIST: 0 is malignant, and 1 gives
    no class, since busseg distinguishes normal from benign.

    Args:
        root: Path of the archive, or of a folder that holds it.

    Returns:
        List of `Sample`, sorted by name, with their `split`, if there are several.

    Raises:
        FileNotFoundError: If there are no masks; `busseg convert` takes such an archive, too.
        ValueError: If the archive is broken or has other classes.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """List the samples of an archive as `find_samples` does, and all faults instead of raising the first one.

    Args:
        root: Path of the archive, or of a folder that holds it.

    Returns:
        `(samples, faults)`: the list of `Sample`; and a list of `(kind, path, error)`, the kind being one of
        "missing_mask" (there are only classes), "bad_label".
    """
    path = _find(Path(root))
    arrays = list_arrays(path)
    try:
        with blaming(path, "an archive of MedMNIST or MedSegBench"):
            names = [str(name) for name in read_array(path, NAMES)] if NAMES in arrays else None
            samples = [sample for split in SPLITS for sample in _samples_of(path, split, arrays, names)]
    except (OSError, ValueError) as error:
        return [], [("bad_label", path, error)]
    if len({sample.attributes["split"] for sample in samples}) < 2:
        samples = [Sample(**{**vars(sample), "attributes": {}}) for sample in samples]
    faults: list[Fault] = []
    if not any(sample.masks for sample in samples):
        line = f"Expected masks, train_label as in MedSegBench, found only {', '.join(arrays)}: {path}"
        faults.append(("missing_mask", path, FileNotFoundError(line)))
    return sorted(samples, key=lambda sample: sample.name), faults


def _samples_of(path, split, arrays, names):
    if f"{split}_images" not in arrays:
        return
    count = len(read_array(path, f"{split}_images"))
    labels = _read_labels(path, split, arrays, names) if f"{split}_labels" in arrays else [None] * count
    masks = f"{split}_label" if f"{split}_label" in arrays else None
    if len(labels) != count or (masks and len(read_array(path, masks)) != count):
        raise ValueError(f"Expected {count} labels for {split}_images, found another number: {path}")
    for number, label in enumerate(labels):
        name = f"{split}_images/{number}"
        yield Sample(
            name=name,
            image=path / name,
            masks=(path / masks / str(number),) if masks else (),
            label=label,
            group=name,
            attributes={"split": find_split(split)},
        )


def _read_labels(path, split, arrays, names):
    numbers = read_array(path, f"{split}_labels").astype(np.int64).reshape(-1).tolist()
    known = names or BREASTMNIST
    if any(not 0 <= number < len(known) for number in numbers):
        raise ValueError(f"Expected classes of BreastMNIST, 0 and 1, found number {max(numbers)}: {path}")
    return [known[number] and find_label(known[number]) for number in numbers]
