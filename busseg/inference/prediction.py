"""`Prediction`: what a model predicts of one image, and `Failure`, the reason why there is none."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
from numpy.typing import NDArray

from busseg.data.sample import THRESHOLD
from busseg.data.task import Task
from busseg.imaging.dicom import Uids
from busseg.imaging.findings import Finding
from busseg.imaging.images import encode_image
from busseg.imaging.lesions import find_lesions
from busseg.imaging.polygons import outline_mask
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.storage.escaping import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LESION = "#ffbe00"  # `overlay.LESION_RGB`


@dataclass(frozen=True, repr=False)
class Prediction:
    """The prediction of one image, at its native size. In a notebook it is shown as its overlay.

    Args:
        label: The most probable of the classes of the model's task; see `data.task.Task`.
        probabilities: Array `(classes,)` float32, in their order.
        mask: Array `(height, width)` uint8, 1 where the lesion is, else 0. None for histology, like every lesion field.
        probability_map: Array `(height, width)` float32, lesion probabilities in `[0, 1]`.
        uncertainty: How likely the class or the mask is wrong, in `[0, 1]`; None for a model without this output. See
            `models.serving.add_uncertainty`.
        ood_score: Distance of the image from those the model was trained with; above 1 the image is out of
            distribution. None for a model without an OOD score. See `models.serving.add_ood_score`.
        spacing_mm: `(row, column)`, millimetres from one row to the next, and from one column to the next; None without
            a scale.
        malignant: Whether the probability of malignant reaches the threshold for `sensitivity`; None without one.
        sensitivity: The sensitivity of the `Predictor`, or None.
        threshold: The threshold of the `Predictor`.
        faint: What is wrong with the image's grey levels, in words, or None; see `find_faint`.
        regions: Tuple of `(left, top, width, height)` in pixels, the predicted parts of a DICOM frame; () for the whole
            frame. None for other images.
        notes: Tuple of lines on what the prediction leaves out; see `warnings`.
        task: The task of the model, a `data.task.Task`.
        image: Array of the pixels that were predicted: `(height, width)` uint8, grey; for histology `(height, width,
            3)`, RGB. DICOM is black outside its regions. None for a prediction that no `Predictor` made.
        path: Path of the image's file; None for an image given as an array, Pillow image or bytes.
        frame: Number of the frame in a clip, from 1; None for a single image.
        uids: Identifiers of the DICOM file; empty for other images.
    """

    label: str
    probabilities: NDArray
    mask: NDArray | None = None
    probability_map: NDArray | None = None
    uncertainty: float | None = None
    ood_score: float | None = None
    spacing_mm: tuple[float, float] | None = None
    malignant: bool | None = None
    sensitivity: float | None = None
    threshold: float = THRESHOLD
    faint: str | None = None
    regions: tuple[tuple[int, int, int, int], ...] | None = None
    notes: tuple[str, ...] = ()
    task: Task = Task.ULTRASOUND
    image: NDArray | None = None
    path: Path | None = None
    frame: int | None = None
    uids: Uids = field(default_factory=Uids)

    @property
    def error(self) -> None:
        """None; a `Failure` has the reason."""
        return None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.task.classes

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons not to trust the prediction: `OUT_OF_DISTRIBUTION`, wrong grey levels, and `notes`."""
        found = (None if self.in_distribution else OUT_OF_DISTRIBUTION, self.faint)
        return (*filter(None, found), *self.notes)

    @property
    def warning(self) -> str | None:
        """The `warnings` in one line, or None."""
        return "; ".join(self.warnings) or None

    @property
    def in_distribution(self) -> bool:
        """Whether the OOD score is at most 1. True without a score."""
        return self.ood_score is None or self.ood_score <= 1

    @property
    def lesion_px(self) -> int | None:
        """Area of the lesion in pixels."""
        return None if self.mask is None else int(self.mask.sum())

    @property
    def lesion_mm2(self) -> float | None:
        """Area of the lesion in square millimetres; None without a scale."""
        area = self.lesion_px
        return None if area is None or self.spacing_mm is None else area * math.prod(self.spacing_mm)

    @property
    def lesion_mm(self) -> float | None:
        """Largest diameter of the lesion in millimetres: the largest distance between two pixels of one outline, 0
        without a lesion. None without a scale.
        """
        return None if self._diameters_mm is None else self._diameters_mm[0]

    @property
    def lesion_across_mm(self) -> float | None:
        """Extent of the same lesion perpendicular to its largest diameter, in millimetres; see `measure_diameters`."""
        return None if self._diameters_mm is None else self._diameters_mm[1]

    @property
    def _diameters_mm(self):
        if self.mask is None or self.spacing_mm is None:
            return None
        lesions = find_lesions(self.mask, self.spacing_mm)
        return max((lesion.diameters_mm for lesion in lesions if lesion.diameters_mm), default=(0.0, 0.0))

    @property
    def finding(self) -> Finding | None:
        """What is reported of an ultrasound image: its class, and its lesions one by one; see `findings.describe`."""
        if self.mask is None:
            return None
        lesions = () if self.label == "normal" else find_lesions(self.mask, self.spacing_mm)
        probabilities = dict(zip(self.classes, map(float, self.probabilities)))
        return Finding(self.label, probabilities, lesions, self.in_distribution)

    @property
    def lesion_fraction(self) -> float | None:
        """Area of the lesion as a fraction of the image."""
        return None if self.mask is None else int(self.mask.sum()) / self.mask.size

    @property
    def confidence(self) -> float:
        """Probability of the label, in `[1 / classes, 1]`."""
        return float(self.probabilities.max())

    @property
    def contours(self) -> list[NDArray] | None:
        """Outlines of the lesion along pixel edges: a list of arrays `(points, 2)` of x, y in pixels, one polygon for
        each connected part; see `outline_mask`. `fill_polygons` makes the mask of them.
        """
        return None if self.mask is None else outline_mask(self.mask)

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The upright rectangle around the lesion, `(left, top, width, height)` in pixels; None without a lesion."""
        if self.mask is None or not self.mask.any():
            return None
        left, top, width, height = cv2.boundingRect(self.mask)
        return left, top, width, height

    # === Show, save ===

    @property
    def headline(self) -> str:
        """Class, confidence and lesion in one line; only `OUT_OF_DISTRIBUTION` where they mean nothing."""
        if not self.in_distribution:
            return OUT_OF_DISTRIBUTION
        area = "" if self.lesion_mm2 is None else f" ({self.lesion_mm2:.0f} mm²)"
        lesion = "" if self.mask is None else f", lesion {self.lesion_fraction:.1%} of the image{area}"
        return f"{self.label} {self.confidence:.2f}{lesion}"

    def __repr__(self) -> str:
        warnings = (warning for warning in self.warnings if warning != OUT_OF_DISTRIBUTION)
        return f"Prediction({_named(self, '; '.join((self.headline, *warnings)))})"

    def _repr_png_(self) -> bytes | None:
        """The overlay as a PNG file, for notebooks."""
        from busseg.inference.overlay import draw_overlay

        return None if self.image is None else encode_image(draw_overlay(self.image, self))

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the image, the outline of the lesion and the `headline` with matplotlib.

        Args:
            axes: Matplotlib axes to draw on; new ones by default.

        Returns:
            The axes. `axes.figure.savefig("scan.png")` saves them.

        Raises:
            ValueError: If the prediction has no image.
        """
        import matplotlib.pyplot as plt

        axes = plt.subplots()[1] if axes is None else axes
        # Matplotlib draws the first pixel from -0.5 to 0.5, contours count it from 0 to 1.
        axes.imshow(self._pixels(), cmap="gray", vmin=0, vmax=255)
        for outline in self.contours or ():
            axes.fill(*(outline.T - 0.5), fill=False, edgecolor=_LESION, linewidth=1.5)
        axes.set_title(self.headline)
        axes.axis("off")
        return axes

    def save(self, folder: str | Path, name: str | None = None) -> Path:
        """Write mask, overlay, CSV row and JSON line to a folder, as `busseg predict --json-lines` does.

        A folder holds the results of any number of images, and `busseg predict --resume` continues it. Former results
        of the same image are replaced. Of DICOM, no DICOM SEG is written, since it needs all frames.

        Args:
            folder: Path of the output folder: a new or empty one, or one of `busseg predict` or of this function.
            name: Name of the results, without suffix; by default that of the file. An image without a file needs one.

        Returns:
            The folder.

        Raises:
            FileExistsError: If the folder holds other files, or those that would be replaced are other files or the
                results of another image.
            BlockingIOError: If another process writes there.
            ValueError: If the prediction has no image or no name, or the folder holds predictions of another task or
                sensitivity.
        """
        from busseg.inference.saving import save_prediction

        return save_prediction(self, self._pixels(), folder, name)

    def to_dict(self) -> dict:
        """The prediction as a dict for JSON: `file`, for ultrasound `frame`, and those of `records.facts`."""
        from busseg.inference.records import to_record

        return to_record(self, self.path, self.frame, self.classes)

    def _pixels(self):
        if self.image is None:
            raise ValueError("Expected a prediction with its image, found one without; let a Predictor make it")
        return self.image


@dataclass(frozen=True, repr=False)
class Failure:
    """An image that has no prediction, in its place among the predictions of several images.

    Args:
        error: Why, in one line that names the file.
        path: Path of the file; None for an image given as an array, Pillow image or bytes.
        frame: Number of the frame in a clip, from 1; None for a single image.
    """

    error: str
    path: Path | None = None
    frame: int | None = None

    def __repr__(self) -> str:
        return f"Failure({_named(self, printable(self.error))})"

    def to_dict(self) -> dict:
        """The failure as a dict for JSON: `file`, for a clip `frame`, and `error`."""
        from busseg.inference.records import to_failure_record

        return to_failure_record(self.path, self.frame, self.error)


def _named(one, text):
    """A text after the name of the image's file and the number of its frame, if it has them."""
    frame = f", frame {one.frame}" if one.frame else ""
    return f"{printable(one.path.name)}{frame}: {text}" if one.path else text
