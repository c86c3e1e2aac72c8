"""Split datasets into grouped, stratified folds; write and read folds as CSV."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from busseg.data.sample import Sample
from busseg.storage.claims import claim
from busseg.storage.escaping import match_names
from busseg.storage.files import names_in, read_csv, write_csv

PARTS = ("train", "validation", "test")
_FIELDS = ("fold", "file", "label", "group", "part")


@dataclass(frozen=True)
class Split:
    """One fold: samples to train on, to choose the model with, and to report scores on."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]


def grouped_splits(
    samples: Sequence[Sample], folds: int = 5, seed: int = 0, *, keep_conflicts: bool = False
) -> list[Split]:
    """Split samples into stratified folds that keep each group in one part.

    Groups whose images have different labels are left out, because their class is unknown. Training parts keep all
    images of a group. Validation and test parts keep all views of a patient, but only the first of several copies. The
    validation part is a fifth of the groups outside the test part; or one group of the rarest class, if it has fewer
    than five.

    Every source is split separately, so its folds do not depend on the other sources. With several sources, one may
    have fewer groups of a class than there are folds. A group that spans sources, as a file of groups may define, is
    split with the source of its first image.

    Args:
        samples: Sequence of `Sample`.
        folds: Number of folds, at least 2. Every group is tested in exactly one.
        seed: Integer. The same seed gives the same folds.
        keep_conflicts: Whether to keep the groups whose images have different labels.

    Returns:
        List of `Split`, one a fold.

    Raises:
        ValueError: If a class of the only source has fewer groups than there are folds, or fewer than four.
    """
    if folds < 2:
        raise ValueError(f"Expected at least 2 folds, found {folds}")
    if not keep_conflicts:
        samples = _of_one_class(samples)
    if not samples:
        raise ValueError("Expected samples to split, found none whose group has a single class")
    # With two folds, one is for testing; the other needs a group for validation and one for training.
    least = max(folds, 4)
    sources = _by_home(samples)
    if len(sources) == 1:
        _check_classes(samples, least)
    splits = [_split(mine, folds, seed, least) for mine in sources]
    return [_join(of_one_fold) for of_one_fold in zip(*splits)]


def leave_one_source_out(samples: Sequence[Sample], seed: int = 0) -> list[Split]:
    """Split samples so that each source tests a model that was trained without it.

    The parts keep the same images as in `grouped_splits`. The validation part is a fifth of the groups of the other
    sources; groups that have an image in the tested source are left out.

    Args:
        samples: Sequence of `Sample` of at least two sources.
        seed: Integer. The same seed gives the same validation parts.

    Returns:
        List of `Split`, one a source, in the order of the sources' names.

    Raises:
        ValueError: If there are fewer than two sources, or the others cannot be split.
    """
    samples = _of_one_class(samples)
    sources = by_source(samples)
    if len(sources) < 2:
        raise ValueError(f"Expected at least two sources to leave one out, found {len(sources)}")
    splits = []
    for tested in sources.values():
        known = {sample.group for sample in tested}
        others = [sample for sample in samples if sample.group not in known]
        validation = grouped_splits(others, seed=seed)[0].test
        held_out = {sample.group for sample in validation}
        train = tuple(sample for sample in others if sample.group not in held_out)
        splits.append(Split(train, validation, _scored(tested)))
    return splits


def by_source(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Dict from each source's name, in alphabetical order, to its samples."""
    return {
        name: [sample for sample in samples if sample.source == name]
        for name in sorted({sample.source for sample in samples})
    }


def _by_home(samples):
    """The samples of each source, in the order of the sources' names. A whole group goes to its first one's source."""
    home = {}
    for sample in samples:
        home.setdefault(sample.group, sample.source)
    return [[sample for sample in samples if home[sample.group] == source] for source in sorted(set(home.values()))]


def _join(splits):
    return Split(*(tuple(sample for split in splits for sample in getattr(split, part)) for part in PARTS))


def patient_splits(samples: Sequence[Sample], folds: int = 5, seed: int = 0) -> list[Split]:
    """Split the images of BreaKHis into stratified folds that keep each patient in one part. All images are scored.

    The sizes of the parts and the patients left out are those of `grouped_splits`. Each part has its share of each
    magnification. A class with fewer patients than folds is missing from the test part of some folds.

    Args:
        samples: Sequence of `Sample` of BreaKHis, whose groups are the patients.
        folds: Number of folds, at least 2. Every patient is tested in exactly one.
        seed: Integer. The same seed gives the same folds.

    Returns:
        List of `Split`, one a fold.

    Raises:
        ValueError: If a class has fewer than three patients, or a sample has no magnification.
    """
    if folds < 2:
        raise ValueError(f"Expected at least 2 folds, found {folds}")
    samples = _of_one_class(samples)
    if not samples:
        raise ValueError("Expected samples to split, found none whose patient has a single class")
    _check_classes(samples, least=3)
    return _split(samples, folds, seed, 3, _class_and_magnification)


def _class_and_magnification(sample):
    if "magnification" not in sample.attributes:
        raise ValueError(f"Expected the magnification of a BreaKHis image, found none: {sample.name}")
    return f"{sample.label} at {sample.attributes['magnification']}X"


def _check_classes(samples, least):
    for label, count in _groups_a_class(samples).items():
        if count < least:
            raise ValueError(f"Expected at least {least} groups of images a class, found {count} of {label}")


def _split(samples, folds, seed, least, stratum=lambda sample: str(sample.label)):
    """Splits of one source. The samples of each `stratum` are spread evenly over the folds."""
    common = [label for label, count in _groups_a_class(samples).items() if count >= least]
    splits = []
    for rest, test in _folds(samples, folds, seed, stratum):
        groups = _groups_a_class(rest)
        fewest = min([_commonest(rest, stratum)[1], *(groups[label] for label in common)])
        train, validation = next(_folds(rest, max(2, min(5, fewest)), seed, stratum))
        splits.append(Split(tuple(train), _scored(validation), _scored(test)))
    return splits


def train_on_all(samples: Sequence[Sample]) -> Split:
    """The split of a model for use that is not scored: all samples are for training.

    Groups whose images have different labels are left out, as in `grouped_splits`.

    Args:
        samples: Sequence of `Sample`.

    Returns:
        A `Split` whose other parts are empty.
    """
    return Split(tuple(_of_one_class(samples)), (), ())


def random_splits(samples: Sequence[Sample], folds: int = 5, seed: int = 0) -> list[Split]:
    """Split samples into stratified folds image by image, without regard to copies and patients: the field's habit.

    On a dataset with copies, or with several images of a patient, the scores reward memorising; see `leaked`. Arguments
    and folds are those of `grouped_splits`, with every image as its own group.
    """
    return grouped_splits([replace(sample, group=sample.name) for sample in samples], folds, seed)


def learnt(split: Split) -> tuple[Sample, ...]:
    """The samples that a fold's model is trained or chosen with. Without a test part, the validation part is scored."""
    return split.train + (split.validation if split.test else ())


def leaked(split: Split, samples: Sequence[Sample]) -> list[Sample]:
    """The scored images of a fold with another image of their group among those its model was trained or chosen with.

    Args:
        split: A `Split`. Without a test part, the validation part is scored.
        samples: The samples of the dataset. Copies share a group, and so do the images of a patient.

    Returns:
        List of `Sample` of the scored part.
    """
    group_of = {sample.name: sample.group for sample in samples}
    known = {group_of[sample.name] for sample in learnt(split)}
    return [sample for sample in split.test or split.validation if group_of[sample.name] in known]


def _of_one_class(samples):
    """The samples of the groups whose images all have the same label."""
    labels_of = defaultdict(set)
    for sample in samples:
        labels_of[sample.group].add(str(sample.label))
    return [sample for sample in samples if len(labels_of[sample.group]) == 1]


def _groups_a_class(samples):
    return Counter(label for label, _ in sorted({(str(sample.label), sample.group) for sample in samples}))


def _commonest(samples, stratum):
    """The stratum with the most samples, and their number."""
    return Counter(map(stratum, samples)).most_common(1)[0]


def _folds(samples, folds, seed, stratum):
    name, most = _commonest(samples, stratum)
    if most < folds:
        raise ValueError(f"Expected at least {folds} images to spread over {folds} folds, found {most} of {name}")
    strata = [stratum(sample) for sample in samples]
    groups = [sample.group for sample in samples]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a stratum of one image, for example, cannot be spread and need not be
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(splitter.split(np.zeros(len(samples)), strata, groups))
    for inside, outside in parts:
        yield [samples[i] for i in inside], [samples[i] for i in outside]


def _scored(samples):
    """The samples that are scored: all views of a patient, and the first of several copies."""
    first = {}
    for sample in samples:
        first.setdefault(sample.name if "patient" in sample.attributes else sample.group, sample)
    return tuple(first.values())


def read_groups(path: str | Path, samples: Sequence[Sample]) -> list[Sample]:
    """Give samples the groups in a CSV file, which `busseg audit` writes or a hospital makes from its patient list.

    Args:
        path: Path of a file with the columns `file` and `group`, a row for every sample.
        samples: Sequence of `Sample`.

    Returns:
        List of `Sample`, the same samples with other groups.

    Raises:
        ValueError: If a sample has no row, or two rows that differ.
    """
    groups: dict[str, str] = {}
    spelt = match_names(sample.name for sample in samples)
    for row in read_csv(path, required=("file", "group")):
        if groups.setdefault(spelt(row["file"]), row["group"]) != row["group"]:
            raise ValueError(f"Expected one group a file, found two for {row['file']!r}: {path}")
    for sample in samples:
        if not groups.get(sample.name):
            raise ValueError(f"Expected a group for every image, found none for {sample.name!r}: {path}")
    return [replace(sample, group=groups[sample.name]) for sample in samples]


def write_splits(path: str | Path, splits: Sequence[Split], first_fold: int = 0, *, force: bool = False) -> None:
    """Write folds to a CSV file: one row for every image of every fold, `fold,file,label,group,part`.

    Args:
        path: Path of the file.
        splits: Sequence of `Split`.
        first_fold: Number of the first fold.
        force: Whether to replace any other file, too.

    Raises:
        FileExistsError: If a folder is there, or another file and `force` is False.
    """
    rows = [
        {"fold": fold, "file": sample.name, "label": sample.label or "", "group": sample.group, "part": part}
        for fold, split in enumerate(splits, first_fold)
        for part in PARTS
        for sample in getattr(split, part)
    ]
    with claim(path, "a splits file", lambda path: names_in(path) == list(_FIELDS), force):
        write_csv(path, _FIELDS, rows)


def read_split(path: str | Path, samples: Sequence[Sample], fold: int | str | None = None) -> Split:
    """Read one fold of a CSV file.

    Args:
        path: Path of a file with the columns `fold`, `file` and `part`. A column `group`, if there is one, replaces the
            samples' own groups.
        samples: The samples of the dataset, which the rows name.
        fold: Number of the fold to read. May be None if the file holds a single fold.

    Returns:
        A `Split`.

    Raises:
        ValueError: If the fold or an image is missing, an image is named twice, a part is unknown, or a group is in two
            parts.
    """
    rows = read_csv(path, required=("fold", "file", "part"))
    found = sorted({row["fold"] for row in rows})
    if fold is None and len(found) == 1:
        fold = found[0]
    if str(fold) not in found:
        wanted = "one fold, or its number" if fold is None else f"fold {fold}"
        raise ValueError(f"Expected {wanted}, found the folds {', '.join(found) or 'of no row'}: {path}")
    by_name = {sample.name: sample for sample in samples}
    spelt = match_names(by_name)
    parts: dict[str, list[Sample]] = {part: [] for part in PARTS}
    part_of: dict[str, str] = {}
    seen = set()
    for row in rows:
        if row["fold"] != str(fold):
            continue
        name, part = spelt(row["file"]), row["part"]
        if name in seen:
            raise ValueError(f"Expected one row a file in fold {fold}, found two for {name!r}: {path}")
        seen.add(name)
        if name not in by_name:
            raise ValueError(f"Expected the files of the dataset, found {name!r}, which it lacks: {path}")
        if part not in PARTS:
            raise ValueError(f"Expected a part of {', '.join(PARTS)}, found {part!r} for {name!r}: {path}")
        group = row.get("group") or by_name[name].group
        if part_of.setdefault(group, part) != part:
            raise ValueError(f"Expected group {group} in one part, found it in {part_of[group]} and {part}: {path}")
        parts[part].append(by_name[name])
    if not parts["train"]:
        raise ValueError(f"Expected a train part in fold {fold}, found none: {path}")
    return Split(*(tuple(parts[part]) for part in PARTS))
