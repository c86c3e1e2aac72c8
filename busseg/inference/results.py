"""Result files by what they tell of themselves: which are busseg's own."""

import os
import zipfile

from busseg.imaging.dicom import import_pydicom, is_dicom
from busseg.storage.signature import is_own_picture


def refuse_foreign(out, names):
    """Make sure that no result would take the place of a file that busseg did not write.

    Args:
        out: Path of the output folder.
        names: Iterable of the results' names in it.

    Raises:
        FileExistsError: If one would.
    """
    for path in (out / name for name in names):
        if os.path.lexists(path) and not _is_own(path):
            raise FileExistsError(f"Expected a result of busseg to replace, found another file: {path}")


def _is_own(path):
    if not path.is_file():
        return False
    if path.suffix == ".png":
        return is_own_picture(path)
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as arrays:
                return "occlusion.npy" in arrays.namelist()
        return is_dicom(path) and import_pydicom(path).dcmread(path, stop_before_pixels=True).Manufacturer == "busseg"
    except Exception:  # whatever a broken file raises, busseg wrote none
        return False
