"""Audit dataset folders: count their contents, find faults, and find copies of images."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from busseg.data import list_samples
from busseg.data.audit_text import list_few
from busseg.data.burned_in import has_marks
from busseg.data.duplicates import content_groups, find_copies
from busseg.data.findings import FINDINGS
from busseg.data.readers import breakhis, busi
from busseg.data.sample import CLASSES
from busseg.imaging.annotations import is_annotation
from busseg.imaging.arrays import is_in_array, read_from_array
from busseg.imaging.images import count_pixels, read_image, read_mask_file
from busseg.imaging.threads import map_in_turn

UNLABELLED = "no class"

COLOUR_LEVELS = 30  # least spread of a coloured pixel's channels; compression tints grey pixels by less
COLOUR_SHARE = 0.0005  # least share of coloured pixels: a caliper, a line of text or a small vessel

_GREY_MODES = ("1", "L", "LA", "I;16")
_MODE_NAMES = {"1": "1 bit", "L": "grey", "LA": "grey and alpha", "I;16": "16 bit grey", "P": "palette"}


def audit_dataset(roots: str | Path | Sequence[str | Path], progress: Callable[[Iterable], Iterable] = iter) -> dict:
    """Audit dataset folders of any layout that `busseg.data.find_samples` reads, without stopping at a fault.

    Args:
        roots: Path of a folder, or a sequence of them. Copies are searched across all of them.
        progress: Function that wraps an iteration, for progress bars: one over the images, then those of `find_copies`.

    Returns:
        Dict, fit for JSON. File names are relative to `data`, names of samples are those of `find_samples`:

        - `data`, `images`, `masks`: the folder, or the common parent of several, and how many files there are.
        - `sources`: dict from each source to its number of `images` and of those of each class.
        - `classes`: dict from class to `images`, `share`, `judged` (images large enough to detect marks), `marked`
          (those of them with burned-in marks), and `lesion`: the sizes of lesions, as fractions of the image,
          `images, min, q1, median, q3, max`; None if there are none.
        - `width_px`, `height_px`: `min, median, max` of the images. None if none is readable.
        - `image_formats`, `mask_formats`: dict from format, such as `PNG grey`, to how many files have it.
        - `findings`: dict from each kind of `FINDINGS` to a list of `file, sample, detail`. An entry of `copies`,
          `copies_across` and `label_conflict` is a group.
        - `copies`: list of `first, second, similarity, exact`.
        - `groups`: list of the groups with two images or more, `files, labels`, most images first.
        - `published`: for BUSI, how its published groups compare with the groups by content, in counts; else None.
        - `files`: list of `file, path, source, label, group, width_px, height_px, format, marked, lesion_fraction`, one
          an image. Unknown values are None.

    Raises:
        FileNotFoundError: If a folder is missing, has an unknown layout or holds no image.
        ValueError: If one folder is given twice.
    """
    folders = [Path(roots)] if isinstance(roots, str | Path) else [Path(root) for root in roots]
    if len(folders) > 1:
        folders = [folder.resolve() for folder in folders]
    samples, faults, readers = list_samples(folders)
    root = Path(os.path.commonpath(folders))
    ultrasound = {source for source, reader in readers.items() if reader is not breakhis}
    examine = partial(_examine, ultrasound=ultrasound)
    facts = [one for _, one in zip(progress(samples), map_in_turn(examine, samples, _count_pixels))]
    copies = find_copies([sample.image for sample, one in zip(samples, facts) if one["width_px"]], progress)
    group_of = content_groups([sample.image for sample in samples], copies)
    files = [
        {"file": sample.name, "path": _relative(sample.image, root), "source": sample.source, "label": sample.label}
        | {"group": group_of[sample.image]}
        | {name: one[name] for name in ("width_px", "height_px", "format", "marked", "lesion_fraction")}
        for sample, one in zip(samples, facts)
    ]
    groups = _groups(files)
    return {
        "data": str(root),
        "images": len(samples),
        "masks": sum(len(sample.masks) for sample in samples),
        "sources": _sources(files),
        "classes": _classes(files),
        "width_px": _range([file["width_px"] for file in files if file["width_px"]]),
        "height_px": _range([file["height_px"] for file in files if file["height_px"]]),
        "image_formats": _counted(file["format"] for file in files if file["format"]),
        "mask_formats": _counted(name for one in facts for name in one["mask_formats"]),
        "findings": _findings(samples, facts, faults, groups, root),
        "copies": _copies(samples, copies),
        "groups": groups,
        "published": _published([sample for sample in samples if readers[sample.source] is busi], groups),
        "files": files,
    }


# === One image ===
def _count_pixels(sample):
    """The pixels of an image and its masks, which are in memory together."""
    return sum(count_pixels(path) for path in (sample.image, *sample.masks))


def _examine(sample, ultrasound):
    """The facts of one image and its masks: a dict, whose `found` lists the findings, `(kind, path, detail)`.

    Colour and marks are checked in images of the sources `ultrasound` only: histology is always coloured.
    """
    ultrasound = sample.source in ultrasound
    facts = {"width_px": None, "height_px": None, "format": None, "marked": None, "lesion_fraction": None}
    facts |= {"mask_formats": [], "found": []}
    shape = None
    try:
        image = read_image(sample.image)
    except (OSError, ValueError) as error:
        facts["found"].append(("unreadable", sample.image, _reason(error, sample.image)))
    else:
        shape = image.shape
        facts |= {"height_px": shape[0], "width_px": shape[1], "marked": ultrasound and has_marks(image)}
        facts["format"], colour = _format_and_colour(sample.image)
        if ultrasound and colour >= COLOUR_SHARE:
            facts["found"].append(("colour_overlay", sample.image, f"{colour:.2%} of the pixels"))
        if facts["marked"]:
            facts["found"].append(("burned_in", sample.image, ""))
    _examine_masks(sample, shape, facts)
    return facts


def _format_and_colour(path):
    """The format of a readable image as text, and the share of its pixels that are coloured."""
    with _open(path) as image:
        name = _format(image)
        if image.mode in _GREY_MODES:
            return name, 0.0
        channels = cv2.split(np.asarray(image.convert("RGBA").convert("RGB")))  # else Pillow warns of some palettes
    spread = cv2.max(cv2.max(*channels[:2]), channels[2]) - cv2.min(cv2.min(*channels[:2]), channels[2])
    return name, np.count_nonzero(spread > COLOUR_LEVELS) / spread.size


def _open(path):
    return Image.fromarray(read_from_array(path)) if is_in_array(path) else Image.open(path)


def _format(image):
    return f"{image.format or 'NumPy'} {_MODE_NAMES.get(image.mode, image.mode)}"


def _format_of_mask(path):
    if is_annotation(path):
        return f"drawn from {'txt' if path.suffix == '.txt' else path.parent.suffix[1:]}"
    with _open(path) as image:
        return _format(image)


def _examine_masks(sample, shape, facts):
    lesions = []
    for path in sample.masks:
        try:
            mask = read_mask_file(path, shape)
        except (OSError, ValueError) as error:
            facts["found"].append(("unreadable", path, _reason(error, path)))
            continue
        facts["mask_formats"].append(_format_of_mask(path))
        soft = np.count_nonzero((mask > 0) & (mask < 255)) / mask.size
        if soft:
            facts["found"].append(("soft_mask", path, f"{soft:.2%} of the pixels"))
        if shape and mask.shape != shape:
            sizes = [f"{width} x {height} px" for height, width in (mask.shape, shape)]
            facts["found"].append(("misaligned_mask", path, f"{sizes[0]}, the image {sizes[1]}"))
        lesions.append(mask > 127)
    if len(sample.masks) > 1:
        facts["found"].append(("several_masks", sample.image, f"{len(sample.masks)} masks"))
    drawn = any(lesion.any() for lesion in lesions)
    if len(lesions) == len(sample.masks) > 0:
        if not drawn and sample.label != "normal":
            facts["found"].append(("empty_mask", sample.image, sample.label or UNLABELLED))
        if all(lesion.shape == shape for lesion in lesions):
            facts["lesion_fraction"] = float(np.any(lesions, axis=0).mean())
    if drawn and sample.label == "normal":
        facts["found"].append(("lesion_on_normal", sample.image, ""))


def _reason(error, path):
    """The text of an error without the path at its end, which the finding names already."""
    return str(error).removesuffix(f": {path}").removesuffix(f": {path.parent}")


def _relative(path, root):
    return path.relative_to(root).as_posix()


# === All images ===
def _findings(samples, facts, faults, groups, root):
    """Dict from each kind of `FINDINGS` to the list of what was found; see `audit_dataset`."""
    findings = {kind: [] for kind in FINDINGS}
    for kind, path, error in faults:
        findings[kind].append({"file": _relative(path, root), "sample": None, "detail": _reason(error, path)})
    for sample, one in zip(samples, facts):
        for kind, path, detail in one["found"]:
            findings[kind].append({"file": _relative(path, root), "sample": sample.name, "detail": detail})
    source_of = {sample.name: sample.source for sample in samples}
    for group in groups:
        first, *others = group["files"]
        entry = {"file": first, "sample": first, "detail": f"and {list_few(others)}"}
        findings["copies"].append(entry)
        if len({source_of[name] for name in group["files"]}) > 1:
            findings["copies_across"].append(entry)
        if _in_conflict(group):
            labels = (f"{file} is {label}" for file, label in zip(group["files"], group["labels"]))
            findings["label_conflict"].append(entry | {"detail": ", ".join(labels)})
    return findings


def _copies(samples, copies):
    name_of = {sample.image: sample.name for sample in samples}
    return [
        {"first": name_of[copy.first], "second": name_of[copy.second]}
        | {"similarity": round(float(copy.similarity), 3), "exact": bool(copy.exact)}
        for copy in copies
    ]


def _groups(files):
    members = defaultdict(list)
    for file in files:
        members[file["group"]].append(file)
    groups = [
        {"files": [file["file"] for file in group], "labels": [file["label"] for file in group]}
        for group in members.values()
        if len(group) > 1
    ]
    return sorted(groups, key=lambda group: -len(group["files"]))


def _in_conflict(group):
    return len(set(group["labels"])) > 1


def _sources(files):
    members = defaultdict(list)
    for file in files:
        members[file["source"]].append(file["label"] or UNLABELLED)
    return {source: {"images": len(labels), **Counter(labels)} for source, labels in members.items()}


def _classes(files):
    members = defaultdict(list)
    for file in files:
        members[file["label"] or UNLABELLED].append(file)
    return {
        label: {
            "images": len(members[label]),
            "share": len(members[label]) / len(files),
            "judged": sum(file["marked"] is not None for file in members[label]),
            "marked": sum(bool(file["marked"]) for file in members[label]),
            "lesion": _spread([file["lesion_fraction"] for file in members[label] if file["lesion_fraction"]]),
        }
        for label in (*CLASSES, UNLABELLED)
        if label in members
    }


def _spread(values):
    if not values:
        return None
    marks = np.percentile(values, (0, 25, 50, 75, 100))
    return {"images": len(values), **{name: float(v) for name, v in zip(("min", "q1", "median", "q3", "max"), marks)}}


def _range(values):
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)} if values else None


def _counted(names):
    return dict(Counter(names).most_common())


def _published(samples, groups):
    """How BUSI's published groups compare with the groups by content, in counts of pairs of images."""
    names = {sample.name for sample in samples}
    members = defaultdict(list)
    for sample in samples:
        members[sample.group].append(sample)
    members = [group for group in members.values() if len(group) > 1]
    if not members:
        return None
    listed = {pair for group in members for pair in combinations(sorted(sample.name for sample in group), 2)}
    seen = {pair for group in groups for pair in combinations(sorted(names & set(group["files"])), 2)}
    return {
        "groups": len(members),
        "images": sum(len(group) for group in members),
        "conflicts": sum(len({sample.label for sample in group}) > 1 for group in members),
        "pairs": len(listed),
        "content_pairs": len(seen),
        "shared_pairs": len(listed & seen),
        "only_published_pairs": len(listed - seen),
        "only_content_pairs": len(seen - listed),
    }
