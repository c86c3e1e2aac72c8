"""The input files of a command line, the names of their results, and the files that are skipped."""

import glob
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from busseg.imaging.clips import find_clip
from busseg.imaging.dicom import SOP_CLASSES, is_dicom
from busseg.imaging.dicom_pixels import import_pydicom
from busseg.imaging.kinds import find_kind, is_convertible, is_readable_name
from busseg.imaging.masks import MASK_STEM
from busseg.inference.frames import target_of_clip
from busseg.storage.run_folder import EXPLANATION, PREDICTION

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter is a disk of Windows
_NAMED = 3  # skipped files of each kind that a message names
_OF_DICOM = "1.2.840.10008."  # prefix of the identifiers of the standard
_LONGEST_NAME = 180  # bytes, of 255 that file systems allow; results' names have suffixes


def find_inputs(paths: Sequence[str | Path]) -> dict[Path, Path]:
    """The `inputs` that `survey_inputs` returns."""
    return survey_inputs(paths)[0]


def survey_inputs(paths: Sequence[str | Path]) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Find the images, videos and DICOM files of paths and patterns, and the names of their results.

    Folders are searched with all subfolders, and patterns such as `scans/*.png` for the images that they match (`**`
    stands for nested folders); DICOM is recognized by its content. Left out are masks beside their image
    (`NAME_mask.png` beside `NAME.png`), hidden files, and folders of a former prediction or explanation. Files of other
    kinds, such as DICOM other than ultrasound, are skipped. A subfolder that may not be read, and a folder or a pipe
    with the name of an image, are inputs, too: `Frame.read` raises their error. A file that is named itself is always
    an input.

    Args:
        paths: Sequence of paths of files and folders, and of patterns.

    Returns:
        `(inputs, passed)`: dict from path to the results' path without suffix, relative to the output folder; and dict
        from the path of each skipped file to its kind, in words.

    Raises:
        FileNotFoundError: If a path does not exist or is a URL, or a folder or a pattern contains no image.
        ValueError: If the results of two inputs would have one name.
        OSError: If a folder among `paths` may not be read.
    """
    found: dict[Path, Path] = {}
    passed: dict[Path, str] = {}
    for path in map(Path, paths):
        images, others = search(path)
        found |= images
        passed |= others
    targets = _name_results(found)
    return targets, {path: kind for path, kind in passed.items() if path not in targets}


def search(path: Path) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Search one path or pattern.

    Returns:
        `(found, passed)`: dict from path to the path relative to what was searched, and the skipped files as in
        `survey_inputs`.

    Raises:
        FileNotFoundError, OSError: See `survey_inputs`.
    """
    if _URL.match(str(path)) and not path.exists():
        url = str(path).replace(":/", "://", 1)  # as it was; a path drops the empty part
        raise FileNotFoundError(f"Expected a file or a folder, found a URL; download it first: {url}")
    if path.is_dir():
        files, closed = _walk(path)
        images, passed = _sort(files)
        if not images and not closed:
            raise FileNotFoundError(f"Expected images in the folder, found {_list(passed) or 'none'}: {path}")
        return {image: image.relative_to(path) for image in [*images, *closed]}, passed
    if path.exists():
        return {path: Path(path.name)}, {}
    if glob.has_magic(str(path)):
        fixed = list(takewhile(lambda part: not glob.has_magic(part), path.parts))
        images, passed = _sort(Path(*fixed).glob(str(Path(*path.parts[len(fixed) :]))))
        if not images:
            found_instead = _list(passed) or "none"
            raise FileNotFoundError(f"Expected images that match the pattern, found {found_instead}: {path}")
        return {image: image.relative_to(Path(*fixed)) for image in images}, passed
    raise FileNotFoundError(f"Expected an image or a folder of images, found nothing: {path}")


def _name_results(found):
    """Dict from path to the results' path, unique and without suffix."""
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
        if clip is not None and _is_clip(clip):
            raise ValueError(
                f"Expected inputs with different names, found a clip and one like its frame: {clip}, {image}"
            )
    return targets


def format_passed(passed: Mapping[Path, str]) -> str:
    """One line with the counts and some names of the skipped files of each kind; see `survey_inputs`."""
    return f"passed over {len(passed)} files that are not read: {_list(passed)}"


def _list(passed):
    """Counts of kinds, with names; kinds that may hold images first."""
    kinds = defaultdict(list)
    for path, kind in passed.items():
        kinds[kind].append(path.name)
    ordered = sorted(kinds, key=lambda kind: (not is_convertible(kind.split(" of ")[0]), kind))
    return ", ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in ((k, kinds[k]) for k in ordered))


def _some(names):
    return ", ".join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])


def _is_clip(path):
    """Whether a file may have frames."""
    try:
        return is_dicom(path) or getattr(find_clip(path), "frame_count", 1) > 1
    except (OSError, ValueError):  # a broken file has no results
        return False


def _walk(folder):
    """`(files, closed)` of a folder and its subfolders: files not written by busseg, and folders without permission."""
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
    """The target with a name that leaves room for the results' suffixes; a hash keeps shortened names unique."""
    name = os.fsencode(target.name)
    if len(name) <= _LONGEST_NAME:
        return target
    start = name[: _LONGEST_NAME - 9].decode(errors="ignore")
    return target.with_name(f"{start}~{hashlib.blake2b(name, digest_size=4).hexdigest()}")


def _sort(paths):
    """`(files, passed)`: the readable files of paths, sorted, without masks beside their image; and the others."""
    files, passed = [], {}
    for path in sorted(paths):
        # DICOMDIR is the list of contents beside scans.
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or path.is_dir():
            continue
        kind = _other_dicom(path) if is_dicom(path) else None if is_readable_name(path) else _other(path)
        if kind:
            passed[path] = kind
        else:
            files.append(path)
    stems = {(file.parent, file.stem) for file in files}
    return [file for file in files if not _is_mask(file, stems)], passed


def _other(path):
    """The kind of a file that is not named like an image, in words."""
    try:
        return find_kind(path) or "of an unknown kind"
    except OSError:
        return "that may not be read"


def _other_dicom(path):
    """The kind of a DICOM file by its header, such as "DICOM of Segmentation Storage"; None for ultrasound."""
    try:
        pydicom = import_pydicom(path)
        kind = pydicom.filereader.read_file_meta_info(path).get("MediaStorageSOPClassUID", "")
    except Exception:  # pydicom raises anything; reading the file reports it
        return None
    known = kind.name != kind or not kind.startswith(_OF_DICOM)  # a broken one is unknown
    return f"DICOM of {kind.name}" if kind and known and kind.is_valid and kind not in SOP_CLASSES else None


def _is_mask(file, stems):
    match = MASK_STEM.fullmatch(file.stem)
    return bool(match) and (file.parent, match["image"]) in stems
