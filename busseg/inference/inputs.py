"""Which files a command line names, and where the results of each go."""

import glob
import hashlib
import os
from collections import Counter
from itertools import takewhile
from pathlib import Path

from busseg.data.busi import MASK_STEM
from busseg.data.claims import EXPLANATION, PREDICTION
from busseg.data.dicom import is_dicom
from busseg.data.images import is_image
from busseg.inference.frames import target_of_clip

_LONGEST_NAME = 180  # bytes; of the 255 that file systems allow, writers add some to the ends of results' names


def find_inputs(paths):
    """Find the image and DICOM files that inputs name, and where their results go.

    Folders are searched with all their subfolders, and patterns such as `scans/*.png` for the images that they match
    (`**` stands for folders in folders); DICOM is told by its content, whatever its name. Masks that lie beside their
    image (`NAME_mask.png` beside `NAME.png`) are passed over, for they are no scans, and so is what a former prediction
    or explanation wrote. What is named like an image and is no file is found, too, and so is a subfolder that may not
    be read: `Frame.read` tells what is wrong with them.

    Args:
        paths: Sequence of paths of files and folders, and of patterns.

    Returns:
        Dict from image path to the results' path without suffix, relative to the output folder.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds, or a pattern matches, no image.
        ValueError: If the results of two inputs would have one name.
        OSError: If a folder among `paths` may not be read.
    """
    found = {}
    for path in map(Path, paths):
        if path.is_dir():
            files, closed = _walk(path)
            images = [*_images(files), *closed]
            if not images:
                raise FileNotFoundError(f"Expected images in the folder, found none: {path}")
            found |= {image: image.relative_to(path) for image in images}
        elif path.exists():
            found[path] = Path(path.name)
        elif glob.has_magic(str(path)):
            fixed = list(takewhile(lambda part: not glob.has_magic(part), path.parts))
            images = _images(Path(*fixed).glob(str(Path(*path.parts[len(fixed) :]))))
            if not images:
                raise FileNotFoundError(f"Expected images that match the pattern, found none: {path}")
            found |= {image: image.relative_to(Path(*fixed)) for image in images}
        else:
            raise FileNotFoundError(f"Expected an image or a folder of images, found nothing: {path}")
    # x.png and x.jpg of one folder keep their suffixes, so that both have results.
    stems = Counter(target.with_suffix("") for target in found.values())
    targets = {image: t if stems[t.with_suffix("")] > 1 else t.with_suffix("") for image, t in found.items()}
    targets = {image: _shortened(target) for image, target in targets.items()}
    owners = {}
    for image, target in targets.items():
        if owners.setdefault(target, image) != image:
            raise ValueError(
                f"Expected inputs with different names, found two named {target}: {owners[target]}, {image}"
            )
    for image, target in targets.items():
        clip = owners.get(target_of_clip(target))
        if clip is not None and is_dicom(clip):
            raise ValueError(
                f"Expected inputs with different names, found a clip and one like its frame: {clip}, {image}"
            )
    return targets


def _walk(folder):
    """`(files, closed)` in a folder and its subfolders: all files but what busseg wrote, and folders not to be read."""
    files, closed = [], []

    def note(error):
        if Path(error.filename) == folder:
            raise error
        closed.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=note):
        if {PREDICTION.marker, EXPLANATION.marker} & set(names):
            folders.clear()
        else:
            files += [Path(place, name) for name in names]
    return files, sorted(closed)


def _shortened(target):
    """The target, with a name that still has room for the ends of the results' names, which are unlike another's."""
    name = os.fsencode(target.name)
    if len(name) <= _LONGEST_NAME:
        return target
    start = name[: _LONGEST_NAME - 9].decode(errors="ignore")
    return target.with_name(f"{start}~{hashlib.blake2b(name, digest_size=4).hexdigest()}")


def _images(paths):
    """The images among paths, sorted, without masks that lie beside their image."""
    files = sorted(path for path in paths if (is_image(path) and not path.is_dir()) or _is_scan(path))
    stems = {(file.parent, file.stem) for file in files}
    return [file for file in files if not _is_mask(file, stems)]


def _is_scan(path):
    """Whether a file is DICOM, and not hidden nor the list of contents that lies beside scans."""
    return not path.name.startswith(".") and path.name.upper() != "DICOMDIR" and is_dicom(path)


def _is_mask(file, stems):
    match = MASK_STEM.fullmatch(file.stem)
    return bool(match) and (file.parent, match["image"]) in stems
