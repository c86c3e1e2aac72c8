"""Reader of nnU-Net raw dataset folders, version 2, of 2D images.

Layout: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

import json
from pathlib import Path

import numpy as np

from busseg.data.facts import check_categories, find_label, label_by_areas, with_facts
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.images import SUFFIXES, read_image
from busseg.storage.files import blaming, read_json

DATASET = "dataset.json"
SPLITS = "splits_final.json"
CASES = "cases"  # key of busseg's own in `DATASET`; nnU-Net ignores it
FOLDERS = (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))


def recognises(root: str | Path) -> bool:
    """Whether a folder holds a raw dataset of nnU-Net."""
    return (Path(root) / DATASET).is_file() and (Path(root) / FOLDERS[0][0]).is_dir()


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of an nnU-Net dataset and pair them with their label maps.

    Layout: `root/dataset.json`, `imagesTr/CASE_0000.png`, `labelsTr/CASE.png`, and optionally `imagesTs`, `labelsTs`
    and `splits_final.json`. There is one channel. The lesion is all that is not background; the class is that of the
    label map's values, if `labels` names benign and malignant.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name. `imagesTs` are of the split "test". If `splits_final.json` has one fold, it
        gives the split of the others; if it has more, the fold that tests each, if there is exactly one.

    Raises:
        FileNotFoundError: If an image, a mask or a file of the layout is missing.
        ValueError: If there are several channels, regions, an ignored label or labels of other areas, or the files are
            not 2D images.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """List the samples of an nnU-Net folder as `find_samples` does, and all faults instead of raising the first one.

    Args:
        root: Path of the folder.

    Returns:
        `(samples, faults)`: the list of `Sample`; and a list of `(kind, path, error)`, the kind being one of
        "missing_folder", "missing_mask", "orphan_mask", "bad_label".
    """
    root = Path(root)
    try:
        content = read_json(root / DATASET)
        with blaming(root / DATASET, "a dataset of nnU-Net"):
            names = _read_labels(content, root)
            end, cases = content["file_ending"], content.get(CASES, {})
        parts = _read_parts(root / SPLITS)
    except (OSError, ValueError) as error:
        return [], [("bad_label", root / DATASET, error)]
    samples: list[Sample] = []
    faults: list[Fault] = []
    for images, labels in FOLDERS:
        found = {path.name: path for path in (root / labels).glob(f"*{end}")}
        for image in sorted((root / images).glob(f"*_0000{end}")):
            case = image.name.removesuffix(f"_0000{end}")
            label_map = found.pop(f"{case}{end}", None)
            if not label_map:
                line = f"Expected {case}{end} in {root / labels}, found no label map: {image}"
                faults.append(("missing_mask", image, FileNotFoundError(line)))
            name = f"{images}/{image.name}"
            sample = Sample(name=name, image=image, masks=(label_map,) if label_map else (), label=None, group=name)
            split = {"split": "test"} if images == FOLDERS[1][0] else parts.get(case, {})
            try:
                samples.append(_with_case(sample, cases.get(case), split, names))
            except (OSError, ValueError) as error:
                faults.append(("bad_label", image, error))
        for label_map in sorted(found.values()):
            line = f"Expected {label_map.name.removesuffix(end)}_0000{end} in {root / images}, found none: {label_map}"
            faults.append(("orphan_mask", label_map, FileNotFoundError(line)))
    if not samples and not faults:
        line = f"Expected images such as CASE_0000{end}, found none: {root / FOLDERS[0][0]}"
        faults.append(("missing_folder", root / FOLDERS[0][0], FileNotFoundError(line)))
    return sorted(samples, key=lambda sample: sample.name), faults


def _read_labels(content, root):
    """Dict from the value of each label but the background to its name."""
    if (end := content["file_ending"]).lower() not in SUFFIXES:
        raise ValueError(f"Expected 2D images, {', '.join(SUFFIXES)}, found {end!r}: {root / DATASET}")
    if len(content["channel_names"]) != 1:
        raise ValueError(f"Expected one channel, found {len(content['channel_names'])}: {root / DATASET}")
    labels = {name: value for name, value in content["labels"].items() if name != "background"}
    if "ignore" in labels or any(isinstance(value, list) for value in labels.values()):
        raise ValueError(f"Expected labels without regions and ignored pixels, found {labels}: {root / DATASET}")
    check_categories(labels, root / DATASET)
    return {int(value): name for name, value in labels.items()}


def _with_case(sample, facts, split, names):
    """The sample with its facts. A class that `CASES` lacks is read from the pixels, if the label names it."""
    if facts is not None:
        return with_facts(Sample(**{**vars(sample), "label": find_label(facts.get("label"))}), {**facts, **split})
    label = None
    if sample.masks and any(find_label(name) for name in names.values()):
        values = np.unique(read_image(sample.masks[0]))
        label = label_by_areas([names[value] for value in values.tolist() if value in names], names.values())
    return with_facts(Sample(**{**vars(sample), "label": label}), split)


def _read_parts(path):
    """Dict from each case to its `split` or its `fold`, of the folds in `splits_final.json`."""
    if not path.is_file():
        return {}
    with blaming(path, "folds of nnU-Net"):
        folds = json.loads(path.read_text(encoding="utf-8"))
        if len(folds) == 1:
            names = {"train": "train", "val": "validation"}
            return {case: {"split": names[part]} for part in names for case in folds[0][part]}
        tested = [case for fold in folds for case in fold["val"]]
        if len(tested) != len(set(tested)):
            raise ValueError(f"Expected folds that test each case once, found a case in two: {path}")
        return {case: {"fold": str(number)} for number, fold in enumerate(folds) for case in fold["val"]}
