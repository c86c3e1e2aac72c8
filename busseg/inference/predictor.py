"""One face for a trained model, whatever format it is stored in."""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import busseg
from busseg.data.sample import LABEL, MASK, TASKS
from busseg.imaging.clips import read_picture
from busseg.imaging.images import fit_to_native, fit_to_square
from busseg.inference.metadata import read_metadata
from busseg.inference.operating_point import find_operating_point
from busseg.inference.runtimes import load, run_keras

THRESHOLD = 0.5
# The models that come with the package; `weights/README.md` tells of them.
PACKAGED = {name: Path(__file__).parent / "weights" / f"{name}.onnx" for name in ("best", "small")}
OUT_OF_DISTRIBUTION = "not like breast ultrasound"
_DARK, _FLAT = 64, 16  # grey levels of 255; scans of three datasets have 103 or more, and a range of 127 or more
_TOLD = ("uncertainty", "ood_score")  # one number an image, of models that tell it


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image, at the image's native size.

    Args:
        label: The most probable of the classes of the model's task; see `TASKS`.
        probabilities: Array `(classes,)` float32, in their order.
        mask: Array `(height, width)` uint8, 1 where a lesion is seen, else 0; None of tissue, as all that is told of a
            lesion.
        probability_map: Array `(height, width)` float32, lesion probabilities in `[0, 1]`.
        uncertainty: How likely the class or the mask is wrong, in `[0, 1]`; None of a model that does not tell. See
            `models.serving.add_uncertainty`.
        ood_score: Distance of the image from those the model was trained with; above 1 the image is out of
            distribution. None for a model without an OOD score. See `models.serving.add_ood_score`.
        spacing_mm: `(row, column)`, millimetres from one row to the next, and from one column to the next; None where
            the image does not tell.
        faint: What is wrong with the image's grey levels, in words, or None; see `find_faint`.
        malignant: Whether the probability of malignant reaches the threshold for `sensitivity`, the one that the
            `Predictor` was asked for; both None where it was asked for none.
        regions: Tuple of `(left, top, width, height)` in pixels, the parts of a DICOM frame that were predicted; empty
            where that is the whole frame. None of other images.
        notes: Tuple of lines, what the answer leaves out; see `warnings`.
    """

    label: str
    probabilities: np.ndarray
    mask: np.ndarray | None = None
    probability_map: np.ndarray | None = None
    uncertainty: float | None = None
    ood_score: float | None = None
    spacing_mm: tuple[float, float] | None = None
    malignant: bool | None = None
    sensitivity: float | None = None
    faint: str | None = None
    regions: tuple[tuple[int, int, int, int], ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def warnings(self):
        """Reasons not to trust the answer: `OUT_OF_DISTRIBUTION`, what is wrong with the grey levels, and `notes`."""
        found = (None if self.in_distribution else OUT_OF_DISTRIBUTION, self.faint)
        return (*filter(None, found), *self.notes)

    @property
    def warning(self):
        """The `warnings` in one line, or None."""
        return "; ".join(self.warnings) or None

    @property
    def in_distribution(self):
        """Whether the image looks like those the model has learnt from, as far as it can tell."""
        return self.ood_score is None or self.ood_score <= 1

    @property
    def lesion_px(self):
        """Area of the lesion in pixels."""
        return None if self.mask is None else int(self.mask.sum())

    @property
    def lesion_mm2(self):
        """Area of the lesion in square millimetres; None where the image does not tell how large a pixel is."""
        return None if self.mask is None or self.spacing_mm is None else self.lesion_px * math.prod(self.spacing_mm)

    @property
    def lesion_mm(self):
        """Largest diameter of the lesion in millimetres, 0 without one: the longest way between two pixels of its
        outline, of the largest where there are several. None where the image does not tell how large a pixel is.
        """
        if self.mask is None or self.spacing_mm is None:
            return None
        hulls = [cv2.convexHull(outline)[:, 0] * self.spacing_mm[::-1] for outline in self.contours]
        return max((float(np.linalg.norm(hull[:, None] - hull, axis=2).max()) for hull in hulls), default=0.0)

    @property
    def lesion_fraction(self):
        """Area of the lesion as a fraction of the image."""
        return None if self.mask is None else self.lesion_px / self.mask.size

    @property
    def confidence(self):
        """Probability of the label, in `[1 / classes, 1]`."""
        return float(self.probabilities.max())

    @property
    def contours(self):
        """Outlines of the lesion: a list of arrays `(points, 2)` of x, y in pixels, one for each connected part."""
        if self.mask is None:
            return None
        outlines, _ = cv2.findContours(self.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return [outline[:, 0] for outline in outlines]

    @property
    def box(self):
        """The upright rectangle around the lesion, `(left, top, width, height)` in pixels; None without a lesion."""
        return tuple(cv2.boundingRect(self.mask)) if self.mask is not None and self.mask.any() else None


class Predictor:
    """A trained model that predicts images of any size.

    It tells its `name`; its `path`, None of a `keras.Model`; its `image_size`, the side of its square in pixels; its
    `task`, one of `TASKS`, and the task's `classes`; and the `sensitivity` that it was asked for and its
    `operating_point`, an `OperatingPoint`, or None.

    Args:
        model: Name of a model that comes with the package, "best" or "small", or the path of a run's folder, of a
            `.keras`, `.onnx` or `.tflite` file, or of a folder of SavedModel or OpenVINO, or a `keras.Model`.
        threads: Number of threads that ONNX Runtime computes by; one a core by default.
        sensitivity: Float in `(0, 1)`, the share of malignant images that `Prediction.malignant` is to find; its
            threshold is read from the model's file. None asks for no such answer.

    Raises:
        FileNotFoundError: If there is no model at the path.
        ValueError: If what is there is no model of busseg: one square image in, grey and `mask` and `label` out, or in
            colour and `label` out; or if it is asked for a sensitivity and carries no thresholds.
    """

    def __init__(self, model="best", threads=None, sensitivity=None):
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
        self.sensitivity = sensitivity
        self.operating_point = None if sensitivity is None else _operating_point(self.path, sensitivity, source)

    @property
    def description(self):
        """What a user of its file must know of a model, as JSON has it."""
        threshold = THRESHOLD if self.task == "ultrasound" else None
        about = {"busseg": busseg.__version__, "task": self.task, "classes": self.classes}
        return about | {"image_size": self.image_size, "threshold": threshold}

    def predict(self, image):
        """Predict one image.

        Args:
            image: Path of an image file, or array uint8: `(height, width)` of grey values, or for a model of tissue
                `(height, width, 3)`, RGB.

        Returns:
            A `Prediction`.

        Raises:
            ValueError: If it is no such image, or the model answers with values that are not finite numbers.
            OSError: If the file cannot be read.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images):
        """Predict several images, whose sizes may differ, in one pass of the network.

        Args:
            images: Sequence of paths or arrays; see `predict`.

        Returns:
            List of `Prediction`, one an image.

        Raises:
            OSError, ValueError: See `predict`.
        """
        predictions = self.try_batch(images)
        for prediction in predictions:
            if isinstance(prediction, ValueError):
                raise prediction
        return predictions

    def try_batch(self, images):
        """Predict several images, and go on past those that the model has no answer to.

        Args:
            images: Sequence of paths or arrays; see `predict`.

        Returns:
            List of `Prediction`, one an image; or of a `ValueError` where the model answers with values that are not
            finite numbers, as one does whose training diverged.

        Raises:
            OSError, ValueError: If one is no such image.
        """
        images = [self.read(image) if isinstance(image, (str, Path)) else self._checked(image) for image in images]
        squares = np.stack([fit_to_square(image, self.image_size) for image in images]).astype(np.float32)
        outputs = self._run(squares if self.colour else squares[..., None])
        return [
            self._prediction(image, {name: values[i] for name, values in outputs.items()})
            for i, image in enumerate(images)
        ]

    def read(self, path):
        """Read an image file as the model takes it, in grey or in colour; see `clips.read_picture`."""
        return read_picture(path, colour=self.colour)

    @property
    def colour(self):
        """Whether it takes colours."""
        return self.task != "ultrasound"

    def _checked(self, image):
        if image.dtype != np.uint8 or image.ndim != 2 + self.colour or image.shape[2:] not in ((), (3,)):
            expected = "colours, (height, width, 3)" if self.colour else "grey values, (height, width)"
            raise ValueError(f"Expected {expected} uint8, found {image.shape} {image.dtype}")
        return image

    def _prediction(self, image, outputs):
        if not all(np.isfinite(values).all() for values in outputs.values()):
            return ValueError(f"Expected finite numbers from the model {self.name}, found an answer of others")
        told = {name: float(outputs[name][0]) for name in _TOLD if name in outputs}
        if MASK in outputs:
            told["probability_map"] = fit_to_native(outputs[MASK][..., 0], image.shape)
            told["faint"] = find_faint(image)
            told["mask"] = (told["probability_map"] >= THRESHOLD).astype(np.uint8)
        if self.operating_point:
            p_malignant = float(outputs[LABEL][self.classes.index("malignant")])
            told["malignant"] = p_malignant >= self.operating_point.threshold
            told["sensitivity"] = self.operating_point.sensitivity
        label = self.classes[int(np.argmax(outputs[LABEL]))]
        return Prediction(label, outputs[LABEL], **told)


def find_faint(image):
    """What is wrong with the grey levels of a scan.

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
    """Side of the square of a model of busseg and its task, told by the shapes of its input and outputs."""
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
        scans = task == "ultrasound"
        expected = {LABEL: (None, len(classes))} | ({MASK: (None, size, size, 1)} if scans else {})
        if scans == (channels == 1) and found == expected | {name: (None, 1) for name in _TOLD if name in found}:
            return size, task
    tasks = ", ".join(TASKS)
    raise ValueError(f"Expected a model with the outputs of one of the tasks {tasks}, found {outputs}: {source}")
