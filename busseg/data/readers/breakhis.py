"""Reader of BreaKHis folders.

BreaKHis: Spanhol et al., "A Dataset for Breast Cancer Histopathological Image Classification", IEEE Transactions on
Biomedical Engineering 63(7):1455-1462 (2016), https://doi.org/10.1109/TBME.2015.2496264
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from busseg.data.sample import Fault, Sample
from busseg.data.task import Task
from busseg.imaging.images import is_image

CLASSES = Task.HISTOLOGY.classes
SUBTYPES = dict(zip(("A", "F", "PT", "TA", "DC", "LC", "MC", "PC"), Task.SUBTYPES.classes))  # by the letters in a name
MAGNIFICATIONS = (40, 100, 200, 400)

_NAME = re.compile(
    r"SOB_(?:B_(?P<benign>A|F|PT|TA)|M_(?P<malignant>DC|LC|MC|PC))"
    r"-(?P<slide>(?P<case>\d+-\d+)[A-Z]*)-(?P<magnification>40|100|200|400)-(?P<number>\d+)"
)


@dataclass(frozen=True)
class Tissue:
    """The facts in the file name of a BreaKHis image, such as `SOB_M_DC-14-2523-40-010`.

    Args:
        label: One of `CLASSES`.
        subtype: One of the values of `SUBTYPES`.
        slide: The slide, such as "14-2523" or "14-22549AB". BreaKHis counts it as a patient.
        case: The slide without its letters, "14-22549": 14-22549AB and 14-22549CD may belong to one woman.
        magnification: One of `MAGNIFICATIONS`.
        number: Number of the image among those of its slide and magnification.
    """

    label: str
    subtype: str
    slide: str
    case: str
    magnification: int
    number: int


def parse_name(name: str | Path) -> Tissue:
    """Parse the file name of a BreaKHis image.

    Args:
        name: Name or path of the file.

    Returns:
        A `Tissue`.

    Raises:
        ValueError: If it is not such a name.
    """
    found = _NAME.fullmatch(Path(name).stem)
    if not found:
        raise ValueError(f"Expected a name such as SOB_M_DC-14-2523-40-010.png, found another: {name}")
    return Tissue(
        label="benign" if found["benign"] else "malignant",
        subtype=SUBTYPES[found["benign"] or found["malignant"]],
        slide=found["slide"],
        case=found["case"],
        magnification=int(found["magnification"]),
        number=int(found["number"]),
    )


def is_breakhis(root: str | Path) -> bool:
    """Whether a folder holds files or folders named as in BreaKHis."""
    return next(Path(root).rglob("SOB_*"), None) is not None


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of BreaKHis in a folder of any structure: the file names contain all facts.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name, without masks. The label is one of `CLASSES`; see `label_by_subtype`. The
        group is the case, so that a patient's images stay in one part of a split.

    Raises:
        FileNotFoundError: If there is no image.
        ValueError: If an image is not named as in BreaKHis, or lies in the folder of the other class.
    """
    samples, faults = list_samples(root)
    for kind, _, error in faults:
        if kind != "two_subtypes":  # the dataset itself has such a slide
            raise error
    return samples


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """List the samples of a BreaKHis folder as `find_samples` does, and all faults instead of raising the first one.

    Args:
        root: Path of the folder.

    Returns:
        `(samples, faults)`: the list of `Sample`; and a list of `(kind, path, error)`, the kind being one of
        "missing_folder" (there are no images), "wrong_name", "two_subtypes" (a slide with two subtypes; the path is its
        first image).
    """
    root = Path(root)
    samples = []
    faults: list[Fault] = []
    first: dict[str, dict[str, Path]] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and is_image(path)):
        try:
            tissue = parse_name(path)
            folders = {part.lower() for part in path.relative_to(root).parts[:-1]} & set(CLASSES)
            if folders - {tissue.label}:
                raise ValueError(f"Expected a {tissue.label} image under {tissue.label}, found it elsewhere: {path}")
        except ValueError as error:
            faults.append(("wrong_name", path, error))
            continue
        first.setdefault(tissue.slide, {}).setdefault(tissue.subtype, path)
        name = path.relative_to(root).as_posix()
        attributes = {
            "patient": tissue.case,
            "slide": tissue.slide,
            "histology": tissue.subtype,
            "magnification": str(tissue.magnification),
        }
        samples.append(
            Sample(name=name, image=path, masks=(), label=tissue.label, group=tissue.case, attributes=attributes)
        )
    for slide, subtypes in first.items():
        if len(subtypes) > 1:
            path = next(iter(subtypes.values()))
            wrong = f"Expected one subtype of slide {slide}, found {' and '.join(sorted(subtypes))}: {path}"
            faults.append(("two_subtypes", path, ValueError(wrong)))
    if not samples and not faults:
        faults.append(("missing_folder", root, FileNotFoundError(f"Expected images of BreaKHis, found none: {root}")))
    return sorted(samples, key=lambda sample: sample.name), faults


def group_by_slide(samples: Iterable[Sample]) -> list[Sample]:
    """The same samples of BreaKHis, grouped by slide instead of by patient."""
    return [replace(sample, group=sample.attributes["slide"]) for sample in samples]


def label_by_subtype(samples: Iterable[Sample]) -> list[Sample]:
    """The same samples of BreaKHis, labelled with their subtypes instead of their classes."""
    return [replace(sample, label=sample.attributes["histology"]) for sample in samples]
