"""Folds as lines of text: how many images of each class are in each part, and which are left out."""

from collections import Counter
from collections.abc import Sequence

from busseg.data.sample import CLASSES, Sample
from busseg.data.splits import PARTS, Split

_NAMED = 3  # of the images left out


def format_splits(splits: Sequence[Split], samples: Sequence[Sample]) -> str:
    """Where all images went, as lines of text: a table of images by fold, part and class; then why some are left out.

    In each fold, the images of the parts and those left out add up to all samples.

    Args:
        splits: Sequence of `Split`, one a fold.
        samples: Sequence of `Sample`, from which the folds were made.
    """
    found = {sample.label for sample in samples}
    labels = [label for label in (*CLASSES, None) if label in found]
    table: list[tuple] = [("fold", "", "images", *(label or "no class" for label in labels))]
    for number, split in enumerate(splits):
        for part, some in {**vars(split), "left out": _left_out(split, samples)}.items():
            counts = Counter(sample.label for sample in some)
            table.append((number, part, len(some), *(counts[label] for label in labels)))
    lines = [f"{fold:>4}  {part:10}" + "".join(f"{cell:>11}" for cell in cells) for fold, part, *cells in table]
    return "\n".join([f"{len(samples)} images", *lines, *_reasons(splits, samples)])


def _left_out(split, samples):
    used = {sample.name for part in PARTS for sample in getattr(split, part)}
    return [sample for sample in samples if sample.name not in used]


def _reasons(splits, samples):
    """Lines that say why images are left out: a class that is unknown, or a copy in a part that is scored."""
    labels = {}
    for sample in samples:
        labels.setdefault(sample.group, set()).add(sample.label)
    left_out = [{sample.name for sample in _left_out(split, samples)} for split in splits]
    always = set.intersection(*left_out)
    unclear = [sample.name for sample in samples if sample.name in always and len(labels[sample.group]) > 1]
    lines = []
    if unclear:
        named = ", ".join(unclear[:_NAMED]) + (", ..." if len(unclear) > _NAMED else "")
        lines.append(f"Left out of every fold: {len(unclear)} images in groups with different classes: {named}")
    if any(names - set(unclear) for names in left_out):
        lines.append("Left out of a validation or test part: all copies of an image but the first")
    return lines
