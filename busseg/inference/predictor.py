"""`Predictor`: a trained model of any format, for images of any size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

import busseg
from busseg.data.sample import LABEL, MASK, TASKS
from busseg.imaging.clips import read_picture
from busseg.imaging.images import fit_to_native, fit_to_square
from busseg.inference.metadata import read_metadata
from busseg.inference.operating_point import find_operating_point
from busseg.inference.runtimes import load, run_keras

if TYPE_CHECKING:
    import keras

THRESHOLD = 0.5
# The models of the package, described in `weights/README.md`.
PACKAGED = {name: Path(__file__).parent / "weights" / f"{name}.onnx" for name in ("best", "small")}
OUT_OF_DISTRIBUTION = "not like breast ultrasound"
_DARK, _FLAT = 64, 16  # grey levels of 255; images of three datasets have 103 or more, and a range of 127 or more
_EXTRA_OUTPUTS = ("uncertainty", "ood_score")  # of some models, one number per image


@dataclass(frozen=True)
class Prediction:
    """The prediction of one image, at its native size.

    Args:
        label: The most probable of the classes of the model's task; see `TASKS`.
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
        return None if self.mask is None or self.spacing_mm is None else self.lesion_px * math.prod(self.spacing_mm)

    @property
    def lesion_mm(self) -> float | None:
        """Largest diameter of the lesion in millimetres: the largest distance between two pixels of one outline, 0
        without a lesion. None without a scale.
        """
        if self.mask is None or self.spacing_mm is None:
            return None
        hulls = [cv2.convexHull(outline)[:, 0] * self.spacing_mm[::-1] for outline in self.contours]
        return max((float(np.linalg.norm(hull[:, None] - hull, axis=2).max()) for hull in hulls), default=0.0)

    @property
    def lesion_fraction(self) -> float | None:
        """Area of the lesion as a fraction of the image."""
        return None if self.mask is None else self.lesion_px / self.mask.size

    @property
    def confidence(self) -> float:
        """Probability of the label, in `[1 / classes, 1]`."""
        return float(self.probabilities.max())

    @property
    def contours(self) -> list[NDArray] | None:
        """Outlines of the lesion: a list of arrays `(points, 2)` of x, y in pixels, one for each connected part."""
        if self.mask is None:
            return None
        outlines, _ = cv2.findContours(self.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return [outline[:, 0] for outline in outlines]

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The upright rectangle around the lesion, `(left, top, width, height)` in pixels; None without a lesion."""
        return tuple(cv2.boundingRect(self.mask)) if self.mask is not None and self.mask.any() else None


class Predictor:
    """A trained model that predicts images of any size.

    Attributes: `name`; `path`, None for a `keras.Model`; `image_size`, the side of the model's square input in pixels;
    `task`, one of `TASKS`; `classes` of the task; `sensitivity`; `threshold`; and `operating_point`, an
    `OperatingPoint`, None without a sensitivity.

    Args:
        model: Name of a model of the package, "best" or "small"; path of a run's folder, of a `.keras`, `.onnx` or
            `.tflite` file, or of a folder of SavedModel or OpenVINO; or a `keras.Model`.
        threads: Number of threads of ONNX Runtime; one per core by default.
        sensitivity: Float in `(0, 1)`, the share of malignant images that `Prediction.malignant` should find; the
            threshold is read from the model's file. None for no decision.
        threshold: Float in `(0, 1)`: pixels with at least this lesion probability are the mask.

    Raises:
        FileNotFoundError: If there is no model at the path.
        ValueError: If it is not a model of busseg (input: one square image; outputs: `mask` and `label` for grey
            images, `label` for RGB), it has no thresholds for a sensitivity, or `threshold` is out of its range.

    Example:
        >>> prediction = Predictor("best").predict("scan.png")
        >>> prediction.label, prediction.lesion_fraction
    """

    def __init__(
        self,
        model: "str | Path | keras.Model" = "best",
        threads: int | None = None,
        sensitivity: float | None = None,
        threshold: float = THRESHOLD,
    ):
        if isinstance(model, (str, Path)):
            source = model
            self.name, self.path = Path(model).name, PACKAGED.get(str(model)) or Path(model)
            self._run, inputs, outputs = load(self.path, threads)
        else:
            source = self.name = getattr(model, "name", type(model).__name__)
            self.path = None
            self._run, inputs, outputs = run_keras(model)
        self.image_size, self.task = _size_and_task(inputs, outputs, source)
        self.classes = TASKS[self.task]
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must be in (0, 1). Received: threshold={threshold}")
        if threshold != THRESHOLD and self.task != "ultrasound":
            raise ValueError(
                f"Expected a model that predicts masks for a threshold, found one of {self.task}: {source}"
            )
        self.sensitivity, self.threshold = sensitivity, threshold
        self.operating_point = None if sensitivity is None else _operating_point(self.path, sensitivity, source)

    @property
    def description(self) -> dict:
        """What a user of the model's file must know, for JSON: busseg's version, task, classes, size, threshold."""
        threshold = self.threshold if self.task == "ultrasound" else None
        about = {"busseg": busseg.__version__, "task": self.task, "classes": self.classes}
        return about | {"image_size": self.image_size, "threshold": threshold}

    def predict(self, image: str | Path | NDArray) -> Prediction:
        """Predict one image.

        Args:
            image: Path of an image file, or array uint8: `(height, width)` of grey values, or for a histology model
                `(height, width, 3)`, RGB.

        Returns:
            A `Prediction`.

        Raises:
            ValueError: If the image is another one, or the model's outputs are not finite numbers.
            OSError: If the file cannot be read.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[str | Path | NDArray]) -> list[Prediction]:
        """Predict several images in one pass of the network. Their sizes may differ.

        Args:
            images: Sequence of paths or arrays; see `predict`.

        Returns:
            List of `Prediction`, one per image.

        Raises:
            OSError, ValueError: See `predict`.
        """
        predictions = self.try_batch(images)
        for prediction in predictions:
            if isinstance(prediction, ValueError):
                raise prediction
        return predictions

    def try_batch(self, images: Sequence[str | Path | NDArray]) -> list[Prediction | ValueError]:
        """Predict several images, and return an error for those whose outputs are not finite numbers.

        Args:
            images: Sequence of paths or arrays; see `predict`.

        Returns:
            List of `Prediction`, one per image; or of `ValueError`, where the model's outputs are not finite numbers,
            such as after a training that diverged.

        Raises:
            OSError, ValueError: If an image cannot be read, or an array has another shape or type.
        """
        images = [self.read(image) if isinstance(image, (str, Path)) else self._checked(image) for image in images]
        squares = np.stack([fit_to_square(image, self.image_size) for image in images]).astype(np.float32)
        outputs = self._run(squares if self.colour else squares[..., None])
        return [
            self._prediction(image, {name: values[i] for name, values in outputs.items()})
            for i, image in enumerate(images)
        ]

    def read(self, path: str | Path) -> NDArray:
        """Read an image file as the model takes it, grey or RGB; see `clips.read_picture`."""
        return read_picture(path, colour=self.colour)

    @property
    def colour(self) -> bool:
        """Whether the model takes RGB images."""
        return self.task != "ultrasound"

    def _checked(self, image):
        if image.dtype != np.uint8 or image.ndim != 2 + self.colour or image.shape[2:] not in ((), (3,)):
            expected = "colours, (height, width, 3)" if self.colour else "grey values, (height, width)"
            raise ValueError(f"Expected {expected} uint8, found {image.shape} {image.dtype}")
        return image

    def _prediction(self, image, outputs):
        if not all(np.isfinite(values).all() for values in outputs.values()):
            return ValueError(f"Expected finite numbers from the model {self.name}, found an answer of others")
        fields = {name: float(outputs[name][0]) for name in _EXTRA_OUTPUTS if name in outputs}
        if MASK in outputs:
            fields["probability_map"] = fit_to_native(outputs[MASK][..., 0], image.shape)
            fields["faint"] = find_faint(image)
            fields["mask"] = (fields["probability_map"] >= self.threshold).astype(np.uint8)
            fields["threshold"] = self.threshold
        if self.operating_point:
            p_malignant = float(outputs[LABEL][self.classes.index("malignant")])
            fields["malignant"] = p_malignant >= self.operating_point.threshold
            fields["sensitivity"] = self.operating_point.sensitivity
        label = self.classes[int(np.argmax(outputs[LABEL]))]
        return Prediction(label, outputs[LABEL], **fields)


def find_faint(image: NDArray) -> str | None:
    """Describe what is wrong with the grey levels of an image.

    Args:
        image: Array `(height, width)` uint8.

    Returns:
        "nearly one grey" where all but half a percent at either end lie within 16 of 255 levels; "very dark" where all
        but half a percent are below a quarter of white; else None.
    """
    counts = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().cumsum(dtype=np.float64)
    low, high = np.searchsorted(counts, [0.005 * image.size, 0.995 * image.size])
    if high - low < _FLAT:
        return "nearly one grey"
    return "very dark" if high < _DARK else None


def _operating_point(path, sensitivity, source):
    table = read_metadata(path).get("operating_points") if path else None
    if table is None:
        raise ValueError(
            f"Expected a model that carries a threshold for each sensitivity, found none: {source}; "
            "make one with your own labelled scans: busseg calibrate MODEL DATA --out NEW"
        )
    return find_operating_point(table, sensitivity)


def _size_and_task(inputs, outputs, source):
    """`(image_size, task)` of a model of busseg, by the shapes of its input and outputs."""
    if isinstance(outputs, dict) and "probabilities" in outputs:
        raise ValueError(
            "Expected a model of one square image, found a raw export, which takes an image as it is and needs no "
            f"busseg to run; export without --raw for busseg: {source}"
        )
    size, channels = inputs[1::2] if isinstance(inputs, tuple) and len(inputs) == 4 else (None, None)
    if not isinstance(size, int) or channels not in (1, 3) or inputs[1:] != (size, size, channels):
        raise ValueError(f"Expected a model of one square image, grey or in colour, found the input {inputs}: {source}")
    found = {name: (None, *shape[1:]) for name, shape in outputs.items()} if isinstance(outputs, dict) else {}
    for task, classes in TASKS.items():
        ultrasound = task == "ultrasound"
        expected = {LABEL: (None, len(classes))} | ({MASK: (None, size, size, 1)} if ultrasound else {})
        if ultrasound == (channels == 1) and found == expected | {
            name: (None, 1) for name in _EXTRA_OUTPUTS if name in found
        }:
            return size, task
    tasks = ", ".join(TASKS)
    raise ValueError(f"Expected a model with the outputs of one of the tasks {tasks}, found {outputs}: {source}")
