"""`Predictor`: a trained model of any format, for images of any size."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

import busseg
from busseg.data.sample import LABEL, MASK, THRESHOLD
from busseg.data.task import Task
from busseg.imaging.clips import read_picture
from busseg.imaging.images import fit_to_native, fit_to_square
from busseg.imaging.in_memory import InMemory, to_pixels
from busseg.inference.metadata import read_metadata
from busseg.inference.operating_point import find_operating_point
from busseg.inference.prediction import Failure, Prediction
from busseg.inference.quality import find_faint
from busseg.inference.runtimes import check_choices, load, run_keras
from busseg.storage.run_folder import MODEL

if TYPE_CHECKING:
    import keras

Source = str | os.PathLike | InMemory  # one image, in any form
# The models of the package, described in `docs/model-card.md`.
PACKAGED = {name: Path(__file__).parent / "weights" / f"{name}.onnx" for name in ("best", "small")}
_EXTRA_OUTPUTS = ("uncertainty", "ood_score")  # of some models, one number per image


class Predictor:
    """A trained model that predicts images of any size.

    Attributes: `name`; `path`, None for a `keras.Model`; `image_size`, the side of the model's square input in pixels;
    `task`, a `data.task.Task`; `classes` of the task; `sensitivity`; `threshold`; and `operating_point`, an
    `OperatingPoint`, None without a sensitivity.

    Args:
        model: Name of a model of the package, "best" or "small"; path of a run's folder, of a `.keras`, `.onnx` or
            `.tflite` file, or of a folder of SavedModel or OpenVINO; or a `keras.Model`.
        threads: Number of threads of ONNX Runtime or OpenVINO, by default one for each core. Each computes an image, if
            there are several.
        sensitivity: Float in `(0, 1)`, the share of malignant images that `Prediction.malignant` should find; the
            threshold is read from the model's file. None for no decision.
        threshold: Float in `(0, 1)`: pixels with at least this lesion probability are the mask.
        device: "auto", "cpu" or "gpu", for ONNX and OpenVINO; see `runtimes.load`. Devices round differently.
        precision: "float32" or "bfloat16", for ONNX and OpenVINO; see `runtimes.load`. bfloat16 is faster on processors
            that have it; it is compared with float32 on phantoms first, see `precision.check_precision`.

    Raises:
        FileNotFoundError: If there is no model at the path.
        ValueError: If it is not a model of busseg (input: one square image; outputs: `mask` and `label` for grey
            images, `label` for RGB), it has no thresholds for a sensitivity, `threshold` is out of its range, or it
            answers differently in `precision`.

    Example:
        >>> prediction = Predictor("best").predict("scan.png")
        >>> prediction.label, prediction.lesion_fraction
        >>> prediction.save("predictions")
    """

    def __init__(
        self,
        model: "str | Path | keras.Model" = "best",
        threads: int | None = None,
        sensitivity: float | None = None,
        threshold: float = THRESHOLD,
        device: str = "auto",
        precision: str = "float32",
    ):
        self.device, self.precision = device, precision
        self.path: Path | None = None
        if isinstance(model, (str, Path)):
            source = model
            self.name, self.path = Path(model).name, PACKAGED.get(str(model)) or Path(model)
            self._run, inputs, outputs = load(self.path, threads, device, precision)
        else:
            source = self.name = getattr(model, "name", type(model).__name__)
            check_choices(device, precision, source, fixed=True)
            self._run, inputs, outputs = run_keras(model)
        self.image_size, self.task = _size_and_task(inputs, outputs, source)
        self.classes = self.task.classes
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must be in (0, 1). Received: threshold={threshold}")
        if threshold != THRESHOLD and not self.task.has_mask:
            raise ValueError(
                f"Expected a model that predicts masks for a threshold, found one of {self.task}: {source}"
            )
        self.sensitivity, self.threshold = sensitivity, threshold
        self.operating_point = None if sensitivity is None else _operating_point(self.path, sensitivity, source)
        if self.path and precision != "float32":
            from busseg.inference.precision import check_precision

            check_precision(self, Predictor(self.path, threads, threshold=threshold, device="cpu"))

    @cached_property
    def sha256(self) -> str | None:
        """SHA-256 of the model's file, in hex; None for a model in memory or in a folder of several files."""
        file = self.path and (self.path / MODEL if (self.path / MODEL).is_file() else self.path)
        if not file or not file.is_file():
            return None
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    @property
    def identity(self) -> str | None:
        """Text that changes if answers may: busseg's version, SHA-256 of the model's file, threshold and precision.

        The UIDs of DICOM results are derived from it. None for a model without a SHA-256.
        """
        if self.sha256 is None:
            return None
        precision = "" if self.precision == "float32" else f" {self.precision}"
        return f"busseg {busseg.__version__} {self.sha256} {self.threshold:g}{precision}"

    @property
    def description(self) -> dict:
        """What a user of the model's file must know, for JSON: busseg's version, task, classes, size, threshold."""
        threshold = self.threshold if self.task.has_mask else None
        about = {"busseg": busseg.__version__, "task": str(self.task), "classes": self.classes}
        return about | {"image_size": self.image_size, "threshold": threshold}

    @overload
    def predict(self, source: InMemory) -> Prediction: ...  # type: ignore[overload-overlap]  # arrays are iterable, too
    @overload
    def predict(self, source: str | os.PathLike) -> Any: ...  # type: ignore[overload-overlap]  # text is iterable, too
    @overload
    def predict(self, source: Iterable[Source]) -> Iterator[Prediction | Failure]: ...
    def predict(self, source):
        """Predict one image, or several.

        Args:
            source: One image: the path of an image file or of ultrasound DICOM; an array of grey values, RGB or RGBA,
                of uint8, uint16 or floats; a Pillow image; or the bytes of an image file (`in_memory.to_pixels` says
                how each is converted, and which arrays are ambiguous). Or several: a folder with its subfolders, a
                pattern such as "scans/*.png", a clip (video, animation, pages, or DICOM with frames), or an iterable,
                such as a list, of all of these.

        Returns:
            A `Prediction` for one image. For several an iterator, which reads, predicts and yields them in their order,
            with only a few in memory: a `Prediction` for each image and each frame of a clip, and a `Failure`, which
            names the file and the reason, for one that cannot be predicted. Frames are judged one by one; `busseg
            predict` also judges a clip as a whole.

        Raises:
            FileNotFoundError: If there is no such file, or no image in the folder.
            ValueError: If a single image cannot be read, its prediction is not finite, or the source has another type.
            ImportError: If the file is DICOM, and a package that reads it is not installed.

        Example:
            >>> for prediction in predictor.predict("scans/"):
            ...     print(prediction.path, prediction.error or prediction.headline)
        """
        from busseg.inference.sources import predict_source

        return predict_source(self, source)

    def predict_batch(self, images: Sequence[Source]) -> list[Prediction]:
        """Predict several images in one pass of the network. Their sizes may differ.

        Args:
            images: Sequence of images, each one as `read` takes it.

        Returns:
            List of `Prediction`, one per image.

        Raises:
            OSError, ValueError: If an image cannot be read, or its prediction is not finite.
        """
        predictions = []
        for prediction in self.try_batch(images):
            if isinstance(prediction, ValueError):
                raise prediction
            predictions.append(prediction)
        return predictions

    def try_batch(self, images: Sequence[Source]) -> list[Prediction | ValueError]:
        """Predict several images, and return an error for those whose outputs are not finite numbers.

        Args:
            images: Sequence of images, each one as `read` takes it.

        Returns:
            List of `Prediction`, one per image; or of `ValueError`, where the model's outputs are not finite numbers,
            such as after a training that diverged.

        Raises:
            OSError, ValueError: If an image cannot be read.
        """
        pixels = [self.read(image) for image in images]
        squares = np.stack([fit_to_square(image, self.image_size) for image in pixels]).astype(np.float32)
        outputs = self._run(squares if self.colour else squares[..., None])
        return [
            self._prediction(image, {name: values[i] for name, values in outputs.items()})
            for i, image in enumerate(pixels)
        ]

    def read(self, source: Source) -> NDArray:
        """Read an image as the model takes it, grey or RGB: an image file (not DICOM), see `clips.read_picture`; or an
        array, a Pillow image or bytes, see `in_memory.to_pixels`.
        """
        if isinstance(source, str | os.PathLike):
            return read_picture(Path(source), colour=self.colour)
        return to_pixels(source, colour=self.colour)

    @property
    def colour(self) -> bool:
        """Whether the model takes RGB images."""
        return self.task.channels == 3

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
        return Prediction(label, outputs[LABEL], **fields, task=self.task, image=image)


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
    for task in Task:
        expected = {LABEL: (None, len(task.classes))} | ({MASK: (None, size, size, 1)} if task.has_mask else {})
        if channels == task.channels and found == expected | {
            name: (None, 1) for name in _EXTRA_OUTPUTS if name in found
        }:
            return size, task
    tasks = ", ".join(Task)
    raise ValueError(f"Expected a model with the outputs of one of the tasks {tasks}, found {outputs}: {source}")
