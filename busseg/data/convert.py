"""Convert datasets and predictions to the formats of other programs."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from busseg.data import list_samples
from busseg.data.readers import predictions
from busseg.data.sample import Sample
from busseg.data.splits import PARTS, read_split
from busseg.data.writers import coco, cvat, imagefolder, item, label_studio, medmnist, nnunet, pairs, yolo
from busseg.storage.claims import claim
from busseg.storage.files import hidden_folder, read_csv, replacing

FORMATS: dict[str, ModuleType] = {
    "nnunet": nnunet,
    "coco": coco,
    "yolo": yolo,
    "medmnist": medmnist,
    "imagefolder": imagefolder,
    "label-studio": label_studio,
    "cvat": cvat,
    "busseg": pairs,
}
_WITHOUT_MASKS = (imagefolder, medmnist)  # formats that hold images without masks, too
_FORGIVEN = ("missing_class", "missing_mask", "two_subtypes")


class Conversion(NamedTuple):
    """The result of a conversion: the number of `images` written, the `notes` on what the format does not carry, one
    line each, and the errors of the images that `failed`.
    """

    images: int
    notes: list[str]
    failed: list[str]


def convert_dataset(
    sources: Sequence[str | Path],
    out: str | Path,
    to: str,
    *,
    splits: str | Path | None = None,
    fold: int | None = None,
    size: int = 256,
    arrange: Callable[[Sequence[Sample]], Sequence[Sample]] = list,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Conversion:
    """Convert datasets, or the predictions of `busseg predict --json-lines`, to another format.

    Images are written as PNG, 8 bits a channel, with the pixels that `read_image` gives. Only images that cannot be
    read are left out. The folder appears whole or not at all.

    Args:
        sources: Paths of dataset folders, see `find_samples`, or of one output folder of `busseg predict`.
        out: Path of the folder to write, which is new or empty.
        to: Key of `FORMATS`.
        splits: Path of a CSV file of folds. By default, the splits of the sources are kept.
        fold: Number of the fold. Without it, nnU-Net gets all folds; other formats hold one.
        size: Side in pixels of the squares to which "medmnist" fits images of different sizes.
        arrange: Function from the samples of the sources to those to write, in their order.
        progress: Function that wraps an iteration over the images, for a progress bar.

    Raises:
        FileExistsError: If the folder holds files, or is a file.
        FileNotFoundError: If a source is missing or has an unknown layout, or a mask is missing that the format needs.
        ValueError: If a source is faulty, no image can be read, the folder lies in a source, or there is a fold but no
            splits file.
    """
    if to not in FORMATS:
        raise ValueError(f"Expected a format of {', '.join(FORMATS)}, found {to!r}")
    if fold is not None and splits is None:
        raise ValueError(f"Expected a splits file to read fold {fold} from, found none; name it by --splits")
    out, written = Path(out), FORMATS[to]
    _check_folder(out, sources)
    samples, failed = _list(sources)
    samples = arrange(samples)
    notes = []
    if splits:
        named = _with_parts(samples, splits, fold, folds=written is nnunet)
        if len(named) < len(samples):
            notes.append(f"{len(samples) - len(named)} images are left out, because {splits} does not name them.")
        samples = named
    _check_masks(samples, written, to)
    with claim(out, "an empty folder", _is_empty), hidden_folder(out.parent) as place, replacing(out) as folder:
        done, records = [], []
        for one in progress(_name(samples, place)):
            try:
                image, mask = one.read()
            except (OSError, ValueError) as error:
                failed.append(str(error))
                continue
            records.append(written.add(folder, one, image, mask))
            done.append(one)
        if not done:
            raise ValueError(failed[0] if failed else f"Expected images, found none: {sources[0]}")
        notes += written.finish(folder, done, records, size)
    if lost := _lost([one.sample for one in done], written.CARRIES):
        notes.insert(0, f"Not carried by {written.TITLE}: {lost}.")
    return Conversion(len(done), notes, failed)


def _check_folder(out, sources):
    if os.path.lexists(out) and not _is_empty(out):
        found = "other files" if out.is_dir() else "a file"
        raise FileExistsError(f"Expected a new or empty folder for the dataset, found {found}: {out}")
    for source in sources:
        if out.resolve().is_relative_to(Path(source).resolve()):
            raise ValueError(f"Expected a folder outside of {source}, which is read, found one inside: {out}")


def _is_empty(path):
    return path.is_dir() and not any(path.iterdir())


def _list(sources):
    """The samples of the sources, and the errors of those that no format holds."""
    if predicted := [source for source in sources if predictions.recognises(source)]:
        if len(sources) > 1:
            raise ValueError(f"Expected one folder of predictions, found {len(sources)} folders: {predicted[0]}")
        samples, faults = predictions.list_samples(predicted[0])
        return samples, [str(error) for _, _, error in faults]
    samples, faults, _ = list_samples(sources)
    for kind, _, error in faults:
        if kind not in _FORGIVEN:
            raise error
    return sorted(samples, key=lambda sample: sample.name), []


def _check_masks(samples, written, to):
    without = [sample for sample in samples if not sample.masks and not item.is_lesion_free(sample)]
    if without and written not in _WITHOUT_MASKS:
        found = f"none for {len(without)} of {len(samples)}"
        raise FileNotFoundError(f"Expected a mask of every lesion for {to}, found {found}: {without[0].image}")


def _with_parts(samples, path, fold, *, folds):
    """The samples that a file of folds names, with their `split`; or, with `folds` and no `fold`, with the number of
    the fold that tests each.
    """
    samples = [replace(one, attributes=_without(one.attributes, "split", "fold")) for one in samples]
    numbers = sorted({row["fold"] for row in read_csv(path, required=("fold",))}) if folds and fold is None else []
    if len(numbers) > 1:
        tested = {one.name: number for number in numbers for one in read_split(path, samples, number).test}
        return [_with(one, fold=tested[one.name]) for one in samples if one.name in tested]
    split = read_split(path, samples, fold)
    part_of = {one.name: part for part in PARTS for one in getattr(split, part)}
    return [_with(one, split=part_of[one.name]) for one in samples if one.name in part_of]


def _with(sample, **attributes):
    return replace(sample, attributes={**sample.attributes, **attributes})


def _without(attributes, *names):
    return {name: value for name, value in attributes.items() if name not in names}


def _name(samples: Sequence[Sample], place: Path) -> list[item.Item]:
    """The items of the samples: `benign/a.png` becomes `benign_a`; a name that is taken gets a number."""
    taken, items = set(), []
    for sample in samples:
        path = Path(sample.name)
        stem = name = "_".join((*path.parent.parts, path.stem if path.suffix else path.name))
        number = 1
        while name.lower() in taken:  # some systems do not distinguish case
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        items.append(item.Item(sample, name, place))
    return items


def _lost(samples, carried):
    """The kinds of facts that the samples have and the format does not carry, as text."""
    facts = {
        "classes": sum(sample.label is not None for sample in samples),
        "groups": sum(sample.group != sample.name for sample in samples),
        "scales": sum(sample.pixel_mm is not None for sample in samples),
        "attributes": sum(bool(_without(sample.attributes, "split", "fold", "score")) for sample in samples),
        "splits": sum("split" in sample.attributes for sample in samples),
        "folds": sum("fold" in sample.attributes for sample in samples),
    }
    lost = [f"{name} of {count} images" for name, count in facts.items() if count and name not in carried]
    return ", ".join(lost)
