"""Grouped, stratified folds, written and read as CSV."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from busseg.data.files import read_csv, write_csv
from busseg.data.sample import Sample

PARTS = ("train", "validation", "test")
_FIELDS = ("fold", "file", "label", "group", "part")


@dataclass(frozen=True)
class Split:
    """One fold: what to learn from, what to choose the model by, and what to report on."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]


def grouped_splits(samples, folds=5, seed=0):
    """Split samples into stratified folds that never part a group.

    Groups whose images carry different labels are left out: no one knows their class. Training parts keep all the
    images of a group, validation and test parts the first one. The validation part is a fifth of the groups outside
    the test part; or one group of the rarest class, where that has fewer than five.

    Args:
        samples: Sequence of `Sample`.
        folds: Number of folds, at least 2. Every group is tested in exactly one.
        seed: Integer. The same seed gives the same folds.

    Returns:
        List of `Split`, one a fold.

    Raises:
        ValueError: If a class has fewer groups than there are folds, or fewer than four.
    """
    if folds < 2:
        raise ValueError(f"Expected at least 2 folds, found {folds}")
    labels_of = defaultdict(set)
    for sample in samples:
        labels_of[sample.group].add(str(sample.label))
    samples = [sample for sample in samples if len(labels_of[sample.group]) == 1]
    if not samples:
        raise ValueError("Expected samples to split, found none whose group has a single class")
    least = max(folds, 4)  # of two folds one is tested; the other holds one to validate by, one to learn from
    for label, count in _groups_a_class(samples).items():
        if count < least:
            raise ValueError(f"Expected at least {least} groups of images a class, found {count} of {label}")
    splits = []
    for rest, test in _folds(samples, folds, seed):
        fewest = min(_groups_a_class(rest).values())
        train, validation = next(_folds(rest, max(2, min(5, fewest)), seed))
        splits.append(Split(tuple(train), _one_a_group(validation), _one_a_group(test)))
    return splits


def _groups_a_class(samples):
    return Counter(label for label, _ in sorted({(str(sample.label), sample.group) for sample in samples}))


def _folds(samples, folds, seed):
    labels = [str(sample.label) for sample in samples]
    groups = [sample.group for sample in samples]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for inside, outside in splitter.split(np.zeros(len(samples)), labels, groups):
        yield [samples[i] for i in inside], [samples[i] for i in outside]


def _one_a_group(samples):
    first = {}
    for sample in samples:
        first.setdefault(sample.group, sample)
    return tuple(first.values())


def write_splits(path, splits, first_fold=0):
    """Write folds to a CSV file: one row for every image of every fold, `fold,file,label,group,part`.

    Args:
        path: Path of the file.
        splits: Sequence of `Split`.
        first_fold: Number of the first of them.
    """
    rows = [
        {"fold": fold, "file": sample.name, "label": sample.label or "", "group": sample.group, "part": part}
        for fold, split in enumerate(splits, first_fold)
        for part in PARTS
        for sample in getattr(split, part)
    ]
    write_csv(path, _FIELDS, rows)


def read_split(path, samples, fold=None):
    """Read one fold of a CSV file.

    Args:
        path: Path of a file with the columns `fold`, `file` and `part`. A column `group`, where it is there, says
            which images belong together; where not, the samples' own groups do.
        samples: The samples of the dataset, which the rows name.
        fold: Number of the fold to read. May be None if the file holds one only.

    Returns:
        A `Split`.

    Raises:
        ValueError: If the fold or an image is not there, an image is named twice, a part is unknown, or a group
            stands in two parts.
    """
    rows = read_csv(path, required=("fold", "file", "part"))
    found = sorted({row["fold"] for row in rows})
    if fold is None and len(found) == 1:
        fold = found[0]
    if str(fold) not in found:
        wanted = "one fold, or its number" if fold is None else f"fold {fold}"
        raise ValueError(f"Expected {wanted}, found the folds {', '.join(found) or 'of no row'}: {path}")
    by_name = {sample.name: sample for sample in samples}
    parts = {part: [] for part in PARTS}
    part_of, seen = {}, set()
    for row in rows:
        if row["fold"] != str(fold):
            continue
        name, part = row["file"], row["part"]
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
