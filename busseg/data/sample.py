"""One labelled image, as paths, and the names every room agrees on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CLASSES = ("normal", "benign", "malignant")
# What is asked of an image, and the answers in the order of a model's outputs. Lesions are marked in ultrasound only.
TASKS = {
    "ultrasound": CLASSES,
    "histology": ("benign", "malignant"),
    "subtypes": (
        "adenosis",
        "fibroadenoma",
        "phyllodes_tumor",
        "tubular_adenoma",
        "ductal_carcinoma",
        "lobular_carcinoma",
        "mucinous_carcinoma",
        "papillary_carcinoma",
    ),
}
# What a dataset may know of an image beside its class. `patient` pools the views of one patient in the scores.
ATTRIBUTES = ("patient", "birads", "histology", "device", "side")
MASK = "mask"
LABEL = "label"


@dataclass(frozen=True)
class Sample:
    """One image with its ground truth. Holds paths only; pixels are read when they are needed.

    Args:
        name: Path of the image relative to its dataset's root, with forward slashes. Names a sample in every CSV.
        image: Path of the image file.
        masks: Paths of the mask files. The lesion is their union.
        label: One of the classes of its task, see `TASKS`, or None where the dataset tells no class.
        group: Samples of one group (copies of one scan, scans of one patient) must stay in one part of a split.
        source: Name of the dataset that the sample comes from.
        pixel_mm: Side of a pixel in mm, or None where the dataset gives no scale.
        attributes: What the dataset knows beside the class, by name, as text: see `ATTRIBUTES`.
    """

    name: str
    image: Path
    masks: tuple[Path, ...]
    label: str | None
    group: str
    source: str = ""
    pixel_mm: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
