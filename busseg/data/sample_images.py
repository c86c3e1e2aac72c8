"""Sample images that come with busseg, to try a model without a dataset."""

from dataclasses import dataclass
from pathlib import Path

from busseg.data.readers.pairs import find_samples

SAMPLES = Path(__file__).parent / "samples"  # a dataset folder; its NOTICE has the licence and the criteria


@dataclass(frozen=True)
class SampleImage:
    """A sample image with its ground truth.

    Args:
        path: Path of the image, a PNG file.
        label: Its class, "benign" or "malignant", by histology.
        mask: Path of its mask, a PNG file of the same size: 255 where the lesion is, else 0.
        source: Its dataset and the patient's case number there.
    """

    path: Path
    label: str
    mask: Path
    source: str


def samples() -> list[SampleImage]:
    """Sample images that come with busseg: two benign and two malignant lesions, of four patients of BUS-BRA.

    They show how busseg works, not how well: leave their patients out of trainings and scores shown beside them. The
    licence of BUS-BRA, which asks to cite its paper, and how the four were chosen stand in `NOTICE` beside them.

    Returns:
        List of `SampleImage`, sorted by case number.

    Example:
        >>> for sample in busseg.samples():
        ...     print(sample.label, Predictor().predict(sample.path))

        In a shell: `busseg predict $(python -c "import busseg; print(busseg.samples()[0].path)")`.
    """
    return [
        SampleImage(sample.image, str(sample.label), sample.masks[0], f"BUS-BRA, case {sample.group}")
        for sample in find_samples(SAMPLES)
    ]
