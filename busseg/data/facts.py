"""Facts of samples in the tables and JSON files of other formats: classes, groups, scale, attributes and splits."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from busseg.data.sample import ATTRIBUTES, Sample
from busseg.data.task import Task

# Attributes that are written and read. `split` is a part of `splits.PARTS`, `fold` the number of the fold that a sample
# tests, `score` the probability of a predicted class.
KEPT = (*ATTRIBUTES, "magnification", "split", "fold", "score")
FACTS = ("group", "pixel_mm", *KEPT)
LESION = "lesion"  # the name of a lesion without a class
_SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "dev": "validation"}
_SPLITS |= {"validation": "validation", "test": "test", "testing": "test"}


def facts_of(sample: Sample) -> dict[str, str | float]:
    """The facts of a sample, by their names in `FACTS`; those that it lacks are missing."""
    values = {"group": sample.group, "pixel_mm": sample.pixel_mm} | dict(sample.attributes)
    return {name: value for name in FACTS if (value := values.get(name)) is not None and value != ""}


def with_facts(sample: Sample, values: Mapping[str, str | float | None]) -> Sample:
    """A sample with the facts that a row or a JSON object holds.

    Raises:
        ValueError: If `pixel_mm` is no number.
    """
    known = {name: value for name in FACTS if (value := values.get(name)) is not None and value != ""}
    try:
        pixel_mm = float(known["pixel_mm"]) if "pixel_mm" in known else sample.pixel_mm
    except (TypeError, ValueError):
        raise ValueError(f"Expected a number in pixel_mm, found {known['pixel_mm']!r} for {sample.name!r}") from None
    return replace(
        sample,
        group=str(known.get("group", sample.group)),
        pixel_mm=pixel_mm,
        attributes={**sample.attributes, **{name: str(known[name]) for name in KEPT if name in known}},
    )


def find_split(name: str) -> str | None:
    """The part of a split that a name means, such as "validation" for "val"; None for any other name."""
    return _SPLITS.get(name.lower())


def find_label(text: object) -> str | None:
    """The class that a text names, in any case; None for any other text."""
    name = str(text).strip().lower()
    return name if any(name in task.classes for task in Task) else None


def check_categories(names: Iterable[str], path: Path) -> None:
    """Check that the areas of a file mark lesions: its categories are classes, or "lesion", or there is just one.

    Raises:
        ValueError: If not, since an area of a gland or of fat would become a lesion.
    """
    found = {str(name).strip().lower() for name in names}
    if len(found) > 1 and not found <= {*Task.ULTRASOUND.classes, LESION}:
        raise ValueError(
            f"Expected one category, or {', '.join(Task.ULTRASOUND.classes)}, found {', '.join(sorted(found))}: {path}"
        )


def label_by_areas(areas: Iterable[str], categories: Iterable[str]) -> str | None:
    """The class of an image, by the categories of its areas.

    Args:
        areas: Names of the categories of the areas drawn in the image.
        categories: Names of all categories of the file.

    Returns:
        "malignant" if one area is, else "benign" if one is. Without an area "normal", if the file distinguishes benign
        from malignant. Otherwise None.
    """
    found, known = ({find_label(name) for name in names} for names in (areas, categories))
    for label in ("malignant", "benign", "normal"):
        if label in found:
            return label
    return "normal" if not found and {"benign", "malignant"} <= known else None
