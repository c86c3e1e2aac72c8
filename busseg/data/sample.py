"""A labelled image, as paths, and names that all rooms share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CLASSES = ("normal", "benign", "malignant")  # of ultrasound
# Attributes that tables of scores report. `patient` pools the views of one patient in the scores.
ATTRIBUTES = ("patient", "birads", "histology", "device", "side")
MASK = "mask"
THRESHOLD = 0.5  # of the lesion probability: a pixel with at least this one belongs to the predicted mask
LABEL = "label"
# A fault of a dataset: its kind, one of `findings.FINDINGS`; the path; and the error to raise.
Fault = tuple[str, Path, Exception]


@dataclass(frozen=True)
class Sample:
    """One image with its ground truth, as paths. Pixels are read on demand.

    Args:
        name: Path of the image relative to its dataset's root, with forward slashes. Identifies the sample in every
            CSV file.
        image: Path of the image file.
        masks: Paths of the mask files. The lesion is their union.
        label: One of the classes of its task, see `task.Task`; None if the dataset gives no class.
        group: Samples of one group (copies of one scan, scans of one patient) must stay in one part of a split.
        source: Name of the dataset that the sample comes from.
        pixel_mm: Side of a pixel in mm; None if the dataset gives no scale.
        attributes: Further facts from the dataset, name to text: those of `ATTRIBUTES`, `slide` and `magnification`
            ("40" to "400") of BreaKHis images, and `split` or `fold` if the dataset's files hold one; see `facts.KEPT`.
    """

    name: str
    image: Path
    masks: tuple[Path, ...]
    label: str | None
    group: str
    source: str = ""
    pixel_mm: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


def without_faults(samples: list[Sample], faults: list[Fault]) -> list[Sample]:
    """The samples of a dataset that has no faults.

    Args:
        samples: List of `Sample`.
        faults: List of `(kind, path, error)`, of the same dataset.

    Raises:
        OSError, ValueError: The first fault's error.
    """
    if faults:
        raise faults[0][2]
    return samples
