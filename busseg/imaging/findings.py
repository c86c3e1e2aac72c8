"""What busseg reports about an image or a frame of a clip, and its text."""

from collections.abc import Mapping
from dataclasses import dataclass

from busseg.imaging.lesions import Lesion

NOT_REPORTED = "Not like breast ultrasound: no finding is reported."


@dataclass(frozen=True)
class Finding:
    """The class of an image, and its lesions.

    Args:
        label: The most probable class: "normal", "benign" or "malignant".
        probabilities: Dict from each class to its probability.
        lesions: Tuple of `Lesion`, the largest first; () for a normal image, and for an empty mask.
        in_distribution: Whether the image is like those that the model was trained with. If not, nothing of it is
            reported.
        number: Number of the frame in its clip, from 1; None for a single image.
    """

    label: str
    probabilities: Mapping[str, float]
    lesions: tuple[Lesion, ...] = ()
    in_distribution: bool = True
    number: int | None = None


def describe(finding: Finding) -> str:
    """The report of a finding, in sentences. Sizes of lesions are in mm, or in pixels without a scale."""
    if not finding.in_distribution:
        return NOT_REPORTED
    others = ", ".join(f"{name} {100 * p:.1f} %" for name, p in finding.probabilities.items() if name != finding.label)
    result = f"{finding.label.capitalize()}, probability {100 * finding.probabilities[finding.label]:.1f} % ({others})."
    if finding.label == "normal":
        return f"No lesion found. {result}"
    if not finding.lesions:
        return f"{result} No pixel is marked as lesion."
    sizes = [_describe_lesion(lesion) for lesion in finding.lesions]
    if len(sizes) == 1:
        return f"{result} Lesion: {sizes[0]}."
    listed = " ".join(f"Lesion {number}: {size}." for number, size in enumerate(sizes, start=1))
    return f"{result} {len(sizes)} lesions. {listed}"


def _describe_lesion(lesion):
    (x, y), mm = lesion.center, lesion.diameters_mm
    area, unit = (f"{lesion.area_px} pixels", "pixels") if mm is None else (f"{lesion.area_mm2:.1f} mm²", "mm")
    largest, across = mm or lesion.diameters_px
    return (
        f"area {area}, largest diameter {largest:.1f} {unit}, across it {across:.1f} {unit}, "
        f"center at column {x:.0f}, row {y:.0f}"
    )
