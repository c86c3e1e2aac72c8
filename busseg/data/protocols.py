"""Named protocols of cross-validation: which images, which folds, and the size at which masks are scored."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from busseg.data.sample import Sample
from busseg.data.splits import PARTS, Split, grouped_splits, leave_one_source_out, patient_splits, random_splits
from busseg.storage.files import read_csv

PUBLISHED = Path(__file__).parent / "published"
PROTOCOLS = ("grouped", "leave-one-source-out", "random", "tang", "curated", "busbra5", "busbra10", "patient", "given")
# Side in pixels of the square at which masks are scored; the other protocols score at native size.
SCORED_SIZE = {"tang": 256}
# Their folds depend on the seed, so that they can be repeated with others.
REPEATABLE = ("grouped", "random", "patient", "curated")


def make_splits(protocol: str, samples: Sequence[Sample], folds: int = 5, seed: int = 0) -> list[Split]:
    """Split samples by a named protocol.

    - "grouped": `grouped_splits`. No model is trained on a copy of a test image. The protocol for reliable figures.
    - "leave-one-source-out": `leave_one_source_out`. Each fold tests a source that is new to its model.
    - "random": `random_splits`, the field's habit, for comparison.
    - "tang": `tang_splits`, three published splits of BUSI's lesion images.
    - "curated": `curated_splits`, four folds of a published selection of 450 images of BUSI.
    - "busbra5", "busbra10": `busbra_splits`, the published five or ten folds of BUS-BRA.
    - "patient": `patient_splits`, for BreaKHis. No model is trained on a patient of a test image.
    - "given": `given_splits`, those that the files of the dataset hold.

    Args:
        protocol: One of `PROTOCOLS`.
        samples: Sequence of `Sample`.
        folds: Number of folds of "grouped", "random" and "patient"; the other protocols fix it.
        seed: Integer. The same seed gives the same folds.

    Returns:
        List of `Split`.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Expected a protocol of {', '.join(PROTOCOLS)}, found {protocol!r}")
    if protocol == "grouped":
        return grouped_splits(samples, folds, seed)
    if protocol == "leave-one-source-out":
        return leave_one_source_out(samples, seed)
    if protocol == "random":
        return random_splits(samples, folds, seed)
    if protocol == "patient":
        return patient_splits(samples, folds, seed)
    if protocol == "given":
        return given_splits(samples)
    if protocol.startswith("busbra"):
        return busbra_splits(samples, int(protocol.removeprefix("busbra")), seed)
    return tang_splits(samples) if protocol == "tang" else curated_splits(samples, seed)


def repeat_splits(
    protocol: str, samples: Sequence[Sample], folds: int = 5, seed: int = 0, repeats: int = 1
) -> list[Split]:
    """The splits of `make_splits` with the seeds `seed`, `seed + 1`, ..., one after the other.

    A few patients can be split luckily or unluckily; repeats show by how much the scores depend on it. They show too
    little of it where groups differ in size: every fold also has its share of images, so another seed exchanges only a
    few groups. The intervals, which draw groups, do not have this fault.

    Args:
        protocol, samples, folds, seed: See `make_splits`.
        repeats: Number of seeds, at least 1. More than one is for `REPEATABLE` protocols.

    Returns:
        List of `Split`, of equally many folds for each seed.

    Raises:
        ValueError: If the folds of the protocol do not depend on the seed, or `make_splits` raises it.
    """
    if repeats > 1 and protocol not in REPEATABLE:
        raise ValueError(f"Expected a protocol of {', '.join(REPEATABLE)} to repeat, found {protocol!r}")
    return [split for number in range(repeats) for split in make_splits(protocol, samples, folds, seed + number)]


def given_splits(samples: Sequence[Sample]) -> list[Split]:
    """The splits that the files of a dataset hold, in the attribute `fold` or `split` of its samples.

    Args:
        samples: Sequence of `Sample`. Each fold tests its own samples, and the others are for training.

    Returns:
        List of `Split`, one a fold.

    Raises:
        ValueError: If a sample has neither attribute, or none is for training.
    """
    if missing := [sample.name for sample in samples if not {"fold", "split"} & sample.attributes.keys()]:
        raise ValueError(f"Expected a dataset that holds a split, found none for {missing[0]!r}")
    numbers = sorted({sample.attributes["fold"] for sample in samples if "fold" in sample.attributes}, key=int)
    if numbers:
        samples = [sample for sample in samples if "fold" in sample.attributes]
        splits = [
            Split(
                tuple(sample for sample in samples if sample.attributes["fold"] != number),
                (),
                tuple(sample for sample in samples if sample.attributes["fold"] == number),
            )
            for number in numbers
        ]
    else:
        splits = [Split(*(tuple(s for s in samples if s.attributes["split"] == part) for part in PARTS))]
    if not all(split.train for split in splits):
        raise ValueError(f"Expected samples for training, found none among {len(samples)}")
    return splits


def tang_splits(samples: Sequence[Sample], folder: Path = PUBLISHED / "tang") -> list[Split]:
    """Read the three splits of BUSI's 647 lesion images behind a much used table of U-shaped networks.

    They have no test part: the table's authors chose each model's epoch on the part that they report. 28 to 30 % of
    that part's images have a copy in the training part, so every image is its own group, as in `random_splits`.

    Args:
        samples: The samples of BUSI.
        folder: Path of a folder with `train1.txt`, `val1.txt`, ... `val3.txt`, each a list of image stems.

    Returns:
        List of three `Split`, of `train` and `validation` alone.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file names an image that the samples lack, or an image stands in both parts.

    Reference:
        Tang et al., https://github.com/FengheTan9/Medical-Image-Segmentation-Benchmarks
    """
    by_stem = _by_stem([replace(sample, group=sample.name) for sample in samples])
    splits = []
    for number in (1, 2, 3):
        train, validation = (_read_stems(folder / f"{part}{number}.txt", by_stem) for part in ("train", "val"))
        for sample in set(train) & set(validation):
            raise ValueError(f"Expected {sample.name} in one part, found it in both: {folder / f'val{number}.txt'}")
        splits.append(Split(train, validation, test=()))
    return splits


def curated_splits(
    samples: Sequence[Sample], seed: int = 0, path: Path = PUBLISHED / "curated_busi.csv"
) -> list[Split]:
    """Split Curated BUSI, 450 images without artefacts (222 benign, 164 malignant, 64 normal), into four folds.

    The authors published the list, but not their folds. These are `grouped_splits`, so they score no image of the ten
    copies that the list still contains.

    Args:
        samples: The samples of BUSI.
        seed: Integer. The same seed gives the same folds.
        path: Path of the list, `class;id`.

    Returns:
        List of four `Split`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it names an image that the samples lack.

    Reference:
        Aumente-Maestro, Díez and Remeseiro, "A multi-task framework for breast cancer segmentation and classification
        in ultrasound imaging", Computer Methods and Programs in Biomedicine (2025).
    """
    by_stem = _by_stem(samples)
    with Path(path).open(encoding="utf-8", newline="") as lines:
        stems = [f"{row['class']} ({row['id']})" for row in csv.DictReader(lines, delimiter=";")]
    return grouped_splits(_chosen(stems, by_stem, path), folds=4, seed=seed)


def busbra_splits(samples: Sequence[Sample], folds: int = 5, seed: int = 0) -> list[Split]:
    """Split BUS-BRA into the five or ten folds of its authors, from the files in its folder.

    Fold 0 tests all images of the patients in the authors' fold 1, and so on. The validation part is a fifth of the
    other patients, as `grouped_splits` draws it. The authors' own (`valid_1`, ...) separates the two views of 111 to
    127 patients of 620 into training and validation. No model is trained on an image of a tested group: the authors'
    folds separate cases 853 and 854, which show one lesion. Rows without an image, as in a part of the dataset, are
    ignored.

    Args:
        samples: The samples of BUS-BRA, or of some of its patients.
        folds: 5 or 10.
        seed: Integer. The same seed gives the same validation parts.

    Returns:
        List of `Split`, one a fold.

    Raises:
        FileNotFoundError: If the samples' folder has no `5-fold-cv.csv` or `10-fold-cv.csv`.
        ValueError: If that file lacks an image, or all images of a fold are missing.

    Reference:
        Gómez-Flores et al., Medical Physics 51:3110-3123 (2024), https://doi.org/10.1002/mp.16812
    """
    fold_of: dict[Path, str] = {}
    for path in sorted({sample.image.parents[1] / f"{folds}-fold-cv.csv" for sample in samples}):
        if not path.is_file():
            raise FileNotFoundError(f"Expected the folds of BUS-BRA beside its images, found none: {path}")
        fold_of |= {
            path.parent / "Images" / f"{row['ID']}.png": row["kFold"] for row in read_csv(path, ("ID", "kFold"))
        }
    for sample in samples:
        if sample.image not in fold_of:
            raise ValueError(f"Expected a fold for every image in {folds}-fold-cv.csv, found none: {sample.image}")
    splits = []
    for fold in map(str, range(1, folds + 1)):
        test = tuple(sample for sample in samples if fold_of[sample.image] == fold)
        if not test:
            raise ValueError(f"Expected images of all {folds} folds of BUS-BRA, found none of fold {fold}")
        tested = {sample.group for sample in test}
        rest = [sample for sample in samples if sample.group not in tested]
        held_out = {sample.group for sample in grouped_splits(rest, 5, seed)[0].test}
        train, validation = (
            tuple(sample for sample in rest if (sample.group in held_out) == held) for held in (False, True)
        )
        splits.append(Split(train, validation, test))
    return splits


def _by_stem(samples):
    return {sample.image.stem: sample for sample in samples}


def _read_stems(path, by_stem):
    return _chosen(Path(path).read_text(encoding="utf-8").split("\n"), by_stem, path)


def _chosen(stems, by_stem, path):
    stems = [stem.strip() for stem in stems if stem.strip()]
    for stem in stems:
        if stem not in by_stem:
            raise ValueError(f"Expected the images of BUSI, found none named {stem!r}, which is in the list {path}")
    return tuple(by_stem[stem] for stem in stems)
