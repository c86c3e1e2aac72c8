"""Grouped, stratified folds, written and read as CSV."""

import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

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
    """One fold: what to learn from, what to choose the model by, and what to report on."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]


def grouped_splits(samples, folds=5, seed=0, keep_conflicts=False):
    """Split samples into stratified folds that never part a group.

    Groups whose images carry different labels are left out: no one knows their class. Training parts keep all the
    images of a group. Validation and test parts keep all the views of a patient, and of copies the first one. The
    validation part is a fifth of the groups outside the test part; or one group of the rarest class, where that has
    fewer than five.

    Every source is split by itself, so its folds are the ones that it has alone. Of several sources, one may have fewer
    groups of a class than there are folds. A group that crosses sources, as a file of groups may have it, is split with
    the source of its first image.

    Args:
        samples: Sequence of `Sample`.
        folds: Number of folds, at least 2. Every group is tested in exactly one.
        seed: Integer. The same seed gives the same folds.
        keep_conflicts: Whether to keep the groups whose images carry different labels.

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
    # Of two folds one is tested; the other holds one to validate by, one to learn from.
    least = max(folds, 4)
    sources = _by_home(samples)
    if len(sources) == 1:
        _check_classes(samples, least)
    splits = [_split(mine, folds, seed, least) for mine in sources]
    return [_join(of_one_fold) for of_one_fold in zip(*splits)]


def leave_one_source_out(samples, seed=0):
    """Split samples so that each source is tested by a model that has seen none of it.

    Which images are kept is decided as in `grouped_splits`. The validation part is a fifth of the groups of the other
    sources, from which groups that have an image in the tested source are left out.

    Args:
        samples: Sequence of `Sample` of at least two sources.
        seed: Integer. The same seed gives the same validation parts.

    Returns:
        List of `Split`, one a source, by the sources' names.

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


def by_source(samples):
    """The samples of each source: a dict by the sources' names, in their order."""
    return {
        name: [sample for sample in samples if sample.source == name]
        for name in sorted({sample.source for sample in samples})
    }


def _by_home(samples):
    """The samples of each source, by the sources' names; all of a group stand with its first one."""
    home = {}
    for sample in samples:
        home.setdefault(sample.group, sample.source)
    return [[sample for sample in samples if home[sample.group] == source] for source in sorted(set(home.values()))]


def _join(splits):
    return Split(*(tuple(sample for split in splits for sample in getattr(split, part)) for part in PARTS))


def patient_splits(samples, folds=5, seed=0):
    """Split the slides of BreaKHis into stratified folds that never part a patient, whose images are all scored.

    Arguments, the share of the parts and the patients left out are those of `grouped_splits`. Each part has its share
    of each magnification. A class of fewer patients than folds is not tested in all of them.

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
    """Splits of one source; those of a `stratum` are spread evenly over the folds."""
    common = [label for label, count in _groups_a_class(samples).items() if count >= least]
    splits = []
    for rest, test in _folds(samples, folds, seed, stratum):
        groups = _groups_a_class(rest)
        fewest = min([_commonest(rest, stratum)[1], *(groups[label] for label in common)])
        train, validation = next(_folds(rest, max(2, min(5, fewest)), seed, stratum))
        splits.append(Split(tuple(train), _scored(validation), _scored(test)))
    return splits


def train_on_all(samples):
    """The split of a model that is to be used, not scored: all is trained with.

    Groups whose images carry different labels are left out, as in `grouped_splits`.

    Args:
        samples: Sequence of `Sample`.

    Returns:
        A `Split` of `train` alone.
    """
    return Split(tuple(_of_one_class(samples)), (), ())


def random_splits(samples, folds=5, seed=0):
    """Split samples into stratified folds image by image, as if none were a copy of another: the field's habit.

    On a dataset with copies the scores reward remembering; see `leaked`. Arguments and folds are those of
    `grouped_splits`, with every image a group of its own.
    """
    return grouped_splits([replace(sample, group=sample.name) for sample in samples], folds, seed)


def learnt(split):
    """The samples that a fold's model is trained or chosen with. Without a test part, the validation part is scored."""
    return split.train + (split.validation if split.test else ())


def leaked(split, samples):
    """The images a fold is scored on that have a copy among those its model was trained or chosen with.

    Args:
        split: A `Split`. Without a test part, it is scored on the validation part.
        samples: The samples of the dataset, whose groups tell which are copies.

    Returns:
        List of `Sample` of the scored part.
    """
    group_of = {sample.name: sample.group for sample in samples}
    known = {group_of[sample.name] for sample in learnt(split)}
    return [sample for sample in split.test or split.validation if group_of[sample.name] in known]


def _of_one_class(samples):
    """The samples of the groups whose images all carry one label."""
    labels_of = defaultdict(set)
    for sample in samples:
        labels_of[sample.group].add(str(sample.label))
    return [sample for sample in samples if len(labels_of[sample.group]) == 1]


def _groups_a_class(samples):
    return Counter(label for label, _ in sorted({(str(sample.label), sample.group) for sample in samples}))


def _commonest(samples, stratum):
    """The stratum of the most samples, and how many they are."""
    return Counter(map(stratum, samples)).most_common(1)[0]


def _folds(samples, folds, seed, stratum):
    name, most = _commonest(samples, stratum)
    if most < folds:
        raise ValueError(f"Expected at least {folds} images to spread over {folds} folds, found {most} of {name}")
    strata = [stratum(sample) for sample in samples]
    groups = [sample.group for sample in samples]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a magnification of one image, say, cannot be spread, and need not be
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(splitter.split(np.zeros(len(samples)), strata, groups))
    for inside, outside in parts:
        yield [samples[i] for i in inside], [samples[i] for i in outside]


def _scored(samples):
    """What of some samples is scored: all views of a patient, and the first one of copies."""
    first = {}
    for sample in samples:
        first.setdefault(sample.name if "patient" in sample.attributes else sample.group, sample)
    return tuple(first.values())


def read_groups(path, samples):
    """Give samples the groups that a CSV file tells, as `busseg audit` writes it or as a hospital knows its patients.

    Args:
        path: Path of a file with the columns `file` and `group`, a row for every sample.
        samples: Sequence of `Sample`.

    Returns:
        List of `Sample`, the same with other groups.

    Raises:
        ValueError: If a sample has no row, or two that differ.
    """
    groups, spelt = {}, match_names(sample.name for sample in samples)
    for row in read_csv(path, required=("file", "group")):
        if groups.setdefault(spelt(row["file"]), row["group"]) != row["group"]:
            raise ValueError(f"Expected one group a file, found two for {row['file']!r}: {path}")
    for sample in samples:
        if not groups.get(sample.name):
            raise ValueError(f"Expected a group for every image, found none for {sample.name!r}: {path}")
    return [replace(sample, group=groups[sample.name]) for sample in samples]


def write_splits(path, splits, first_fold=0, force=False):
    """Write folds to a CSV file: one row for every image of every fold, `fold,file,label,group,part`.

    Args:
        path: Path of the file.
        splits: Sequence of `Split`.
        first_fold: Number of the first of them.
        force: Whether to replace a file that is no such table of busseg, too.

    Raises:
        FileExistsError: If a folder or another file stands there.
    """
    rows = [
        {"fold": fold, "file": sample.name, "label": sample.label or "", "group": sample.group, "part": part}
        for fold, split in enumerate(splits, first_fold)
        for part in PARTS
        for sample in getattr(split, part)
    ]
    with claim(path, "a splits file", lambda path: names_in(path) == list(_FIELDS), force):
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
    spelt = match_names(by_name)
    parts = {part: [] for part in PARTS}
    part_of, seen = {}, set()
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
