"""Dataset folders looked over before they are trusted: what is there, what is amiss, which images are copies."""

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from busseg.data import find_reader, name_sources
from busseg.data.audit_text import list_few
from busseg.data.burned_in import has_marks
from busseg.data.duplicates import content_groups, find_copies
from busseg.data.findings import FINDINGS
from busseg.data.readers import breakhis, busi
from busseg.data.sample import CLASSES
from busseg.imaging.images import count_pixels, read_image, read_mask_file
from busseg.imaging.threads import map_in_turn

UNLABELLED = "no class"

COLOUR_LEVELS = 30  # that a pixel's channels are apart; compression tints grey pixels by less
COLOUR_SHARE = 0.0005  # of the pixels: a caliper, a line of text or a small vessel

_GREY_MODES = ("1", "L", "LA", "I;16")
_MODE_NAMES = {"1": "1 bit", "L": "grey", "LA": "grey and alpha", "I;16": "16 bit grey", "P": "palette"}


def audit_dataset(roots, progress=iter):
    """Look over dataset folders of any shape that `busseg.data.find_samples` reads, without stopping at a fault.

    Args:
        roots: Path of a folder, or a sequence of them, among which copies are looked for, too.
        progress: Function that wraps an iteration, for progress bars: one over the images, then those of `find_copies`.

    Returns:
        Dict, fit for JSON. File names are relative to `data`, names of samples as `find_samples` gives them:

        - `data`, `images`, `masks`: the folder, of several the one that holds them all, and how many files there are.
        - `sources`: dict from each source to its number of `images` and of those of each class.
        - `classes`: dict from class to `images`, `share`, `judged` (images large enough to tell marks), `marked` (those
          of them with burned-in marks), and `lesion`: how large lesions are, as fractions of the image,
          `images, min, q1, median, q3, max`; None where there are none.
        - `width_px`, `height_px`: `min, median, max` of the images. None if none is readable.
        - `image_formats`, `mask_formats`: dict from format, such as `PNG grey`, to how many files have it.
        - `findings`: dict from each kind of `FINDINGS` to a list of `file, sample, detail`. An entry of `copies`,
          `copies_across` and `label_conflict` is a group.
        - `copies`: list of `first, second, similarity, exact`.
        - `groups`: list of the groups with two images or more, `files, labels`, most images first.
        - `published`: for BUSI, how its published groups compare with the groups by content, in counts; else None.
        - `files`: list of `file, path, source, label, group, width_px, height_px, format, marked, lesion_fraction`, one
          an image. What could not be told is None.

    Raises:
        FileNotFoundError: If a folder is missing, has no known shape or holds no image.
        ValueError: If one folder is given twice.
    """
    roots = [Path(roots)] if isinstance(roots, str | Path) else [Path(root) for root in roots]
    if len(roots) > 1:
        roots = [root.resolve() for root in roots]
    samples, faults, readers = _list_samples(roots)
    root = Path(os.path.commonpath(roots))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        look_at = partial(_look, scans={source for source, reader in readers.items() if reader is not breakhis})
        looks = [look for _, look in zip(progress(samples), map_in_turn(pool, look_at, samples, _count_pixels))]
    readable = [sample.image for sample, look in zip(samples, looks) if look["width_px"]]
    copies = find_copies(readable, progress)
    group_of = content_groups([sample.image for sample in samples], copies)
    files = [
        {"file": sample.name, "path": _relative(sample.image, root), "source": sample.source, "label": sample.label}
        | {"group": group_of[sample.image]}
        | {name: look[name] for name in ("width_px", "height_px", "format", "marked", "lesion_fraction")}
        for sample, look in zip(samples, looks)
    ]
    groups, source_of = _groups(files), {sample.name: sample.source for sample in samples}
    findings = {kind: [] for kind in FINDINGS}
    for kind, path, error in faults:
        findings[kind].append({"file": _relative(path, root), "sample": None, "detail": _reason(error, path)})
    for sample, look in zip(samples, looks):
        for kind, path, detail in look["found"]:
            findings[kind].append({"file": _relative(path, root), "sample": sample.name, "detail": detail})
    for group in groups:
        entry = {
            "file": group["files"][0],
            "sample": group["files"][0],
            "detail": f"and {list_few(group['files'][1:])}",
        }
        findings["copies"].append(entry)
        if len({source_of[name] for name in group["files"]}) > 1:
            findings["copies_across"].append(entry)
        if _in_conflict(group):
            told = (f"{file} is {label}" for file, label in zip(group["files"], group["labels"]))
            findings["label_conflict"].append(entry | {"detail": ", ".join(told)})
    name_of = {sample.image: sample.name for sample in samples}
    return {
        "data": str(root),
        "images": len(samples),
        "masks": sum(len(sample.masks) for sample in samples),
        "sources": _sources(files),
        "classes": _classes(files),
        "width_px": _range([file["width_px"] for file in files if file["width_px"]]),
        "height_px": _range([file["height_px"] for file in files if file["height_px"]]),
        "image_formats": _counted(file["format"] for file in files if file["format"]),
        "mask_formats": _counted(name for look in looks for name in look["mask_formats"]),
        "findings": findings,
        "copies": [
            {"first": name_of[copy.first], "second": name_of[copy.second]}
            | {"similarity": round(float(copy.similarity), 3), "exact": bool(copy.exact)}
            for copy in copies
        ],
        "groups": groups,
        "published": _published([sample for sample in samples if readers[sample.source] is busi], groups),
        "files": files,
    }


def _list_samples(roots):
    """The samples and faults of all folders, names as `find_samples` gives them; and the reader of each source."""
    samples, faults, readers = [], [], {}
    for source, root in zip(name_sources(roots), roots):
        readers[source], folder = find_reader(root)
        mine, amiss = readers[source].list_samples(folder)
        if not mine:
            raise amiss[0][2]
        prefix = f"{source}/" if len(roots) > 1 else ""
        samples += [
            replace(sample, name=prefix + sample.name, group=prefix + sample.group, source=source) for sample in mine
        ]
        faults += amiss
    return samples, faults, readers


# === One image ===
def _count_pixels(sample):
    """Of an image and its masks, which are in memory at once."""
    return sum(count_pixels(path) for path in (sample.image, *sample.masks))


def _look(sample, scans):
    """What one image and its masks are: a dict, with the `(kind, path, detail)` of what was found.

    Colour and marks are told of the sources `scans` alone; stained tissue is nothing but colour.
    """
    scans = sample.source in scans
    look = {"width_px": None, "height_px": None, "format": None, "marked": None, "lesion_fraction": None}
    look |= {"mask_formats": [], "found": []}
    shape = None
    try:
        image = read_image(sample.image)
    except (OSError, ValueError) as error:
        look["found"].append(("unreadable", sample.image, _reason(error, sample.image)))
    else:
        shape = image.shape
        look |= {"height_px": shape[0], "width_px": shape[1], "marked": scans and has_marks(image)}
        look["format"], colour = _format_and_colour(sample.image)
        if scans and colour >= COLOUR_SHARE:
            look["found"].append(("colour_overlay", sample.image, f"{colour:.2%} of the pixels"))
        if look["marked"]:
            look["found"].append(("burned_in", sample.image, ""))
    _look_at_masks(sample, shape, look)
    return look


def _format_and_colour(path):
    """The format of a readable image as text, and the share of its pixels that are coloured."""
    with Image.open(path) as image:
        name = _format(image)
        if image.mode in _GREY_MODES:
            return name, 0.0
        channels = cv2.split(np.asarray(image.convert("RGBA").convert("RGB")))  # else Pillow warns of some palettes
    spread = cv2.max(cv2.max(*channels[:2]), channels[2]) - cv2.min(cv2.min(*channels[:2]), channels[2])
    return name, np.count_nonzero(spread > COLOUR_LEVELS) / spread.size


def _format(image):
    return f"{image.format} {_MODE_NAMES.get(image.mode, image.mode)}"


def _look_at_masks(sample, shape, look):
    lesions = []
    for path in sample.masks:
        try:
            mask = read_mask_file(path)
        except (OSError, ValueError) as error:
            look["found"].append(("unreadable", path, _reason(error, path)))
            continue
        with Image.open(path) as opened:
            look["mask_formats"].append(_format(opened))
        soft = np.count_nonzero((mask > 0) & (mask < 255)) / mask.size
        if soft:
            look["found"].append(("soft_mask", path, f"{soft:.2%} of the pixels"))
        if shape and mask.shape != shape:
            sizes = [f"{width} x {height} px" for height, width in (mask.shape, shape)]
            look["found"].append(("misaligned_mask", path, f"{sizes[0]}, the image {sizes[1]}"))
        lesions.append(mask > 127)
    if len(sample.masks) > 1:
        look["found"].append(("several_masks", sample.image, f"{len(sample.masks)} masks"))
    drawn = any(lesion.any() for lesion in lesions)
    if len(lesions) == len(sample.masks) > 0:
        if not drawn and sample.label != "normal":
            look["found"].append(("empty_mask", sample.image, sample.label or UNLABELLED))
        if all(lesion.shape == shape for lesion in lesions):
            look["lesion_fraction"] = float(np.any(lesions, axis=0).mean())
    if drawn and sample.label == "normal":
        look["found"].append(("lesion_on_normal", sample.image, ""))


def _reason(error, path):
    """The words of an error without the path at their end, which stands beside them."""
    return str(error).removesuffix(f": {path}").removesuffix(f": {path.parent}")


def _relative(path, root):
    return path.relative_to(root).as_posix()


# === All images ===
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
    """How the published groups of BUSI's own images compare with those by content, counted in pairs of images."""
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
