"""Images and masks in NumPy archives: the path `busi_256.npz/train_images/3` is image 3 of the array `train_images`."""

import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.storage.files import blaming

MAX_BYTES = 2**32  # of one array; the largest of MedSegBench, 2,694 images of 512 x 512 in colour, has half of it
_KEPT = 4  # arrays in memory


def is_in_array(path: Path) -> bool:
    """Whether a path names an image in a NumPy archive."""
    return len(path.parents) > 2 and path.parents[1].suffix == ".npz" and path.name.isdecimal()


def read_from_array(path: Path) -> NDArray[np.uint8]:
    """Read one image of an archive.

    Args:
        path: Path `ARCHIVE.npz/ARRAY/NUMBER`.

    Returns:
        Array `(height, width)` or `(height, width, 3)`, uint8.

    Raises:
        ValueError: If the archive is broken, or lacks the image.
    """
    array = read_array(path.parents[1], path.parent.name)
    if array.ndim not in (3, 4) or array.shape[3:] not in ((), (3,)) or array.dtype != np.uint8:
        found = f"{array.shape} {array.dtype}"
        raise ValueError(f"Expected images, (n, height, width) or (n, height, width, 3) uint8, found {found}: {path}")
    if int(path.name) >= len(array):
        raise ValueError(f"Expected one of {len(array)} images, found number {path.name}: {path}")
    return array[int(path.name)]


def list_arrays(path: str | Path) -> list[str]:
    """Names of the arrays in a NumPy archive; empty for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile):
        return []


def read_array(path: str | Path, name: str) -> NDArray:
    """Read one array of an archive; the latest few stay in memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the archive is broken, lacks the array, or holds more than `MAX_BYTES` in it.
    """
    status = Path(path).stat()
    return _load(Path(path), name, status.st_size, status.st_mtime_ns)


@lru_cache(_KEPT)
def _load(path, name, size, changed):
    with blaming(path, f"a NumPy archive with {name}"):
        with zipfile.ZipFile(path) as archive:
            found = archive.getinfo(f"{name}.npy").file_size
        if found > MAX_BYTES:
            raise ValueError(f"Expected at most {MAX_BYTES} bytes in {name}, found {found}: {path}")
        with np.load(path) as arrays:  # refuses pickled objects, which could run code
            return arrays[name]
