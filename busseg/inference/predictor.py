"""One face for a trained model, whatever format it is stored in."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from busseg.data.images import fit_to_native, fit_to_square, read_image
from busseg.data.sample import CLASSES, LABEL, MASK

THRESHOLD = 0.5


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image, at the image's native size.

    Args:
        label: The most probable of `CLASSES`.
        probabilities: Array `(3,)` float32, in the order of `CLASSES`.
        mask: Array `(height, width)` uint8, 1 where a lesion is seen, else 0.
        probability_map: Array `(height, width)` float32, lesion probabilities in `[0, 1]`.
    """

    label: str
    probabilities: np.ndarray
    mask: np.ndarray
    probability_map: np.ndarray

    @property
    def lesion_px(self):
        """Area of the lesion in pixels."""
        return int(self.mask.sum())

    @property
    def lesion_fraction(self):
        """Area of the lesion as a fraction of the image."""
        return self.lesion_px / self.mask.size


class Predictor:
    """A trained model that predicts images of any size.

    Args:
        model: A `keras.Model`, or the path of a run's folder, a `.keras` file or a SavedModel folder.

    Raises:
        FileNotFoundError: If there is no model at the path.
        ValueError: If what is there is no model of busseg: one square grey image in, `mask` and `label` out.
    """

    def __init__(self, model):
        source = model if isinstance(model, (str, Path)) else getattr(model, "name", type(model).__name__)
        if isinstance(model, (str, Path)):
            self._run, input_shape = _load(Path(model))
        else:
            self._run, input_shape = _from_keras(model)
        _, height, width, channels = input_shape if len(input_shape) == 4 else (None,) * 4
        if height is None or height != width or channels != 1:
            raise ValueError(f"Expected a model of one square grey image, found the input {input_shape}: {source}")
        self.image_size = height

    def predict(self, image):
        """Predict one image.

        Args:
            image: Path of an image file, or array `(height, width)` uint8 of grey values.

        Returns:
            A `Prediction`.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images):
        """Predict several images, whose sizes may differ, in one pass of the network.

        Args:
            images: Sequence of paths or arrays; see `predict`.

        Returns:
            List of `Prediction`, one an image.
        """
        images = [read_image(image) if isinstance(image, (str, Path)) else image for image in images]
        squares = np.stack([fit_to_square(image, self.image_size) for image in images])
        outputs = self._run(squares[..., None].astype(np.float32))
        return [
            _prediction(image.shape, mask[..., 0], probabilities)
            for image, mask, probabilities in zip(images, outputs[MASK], outputs[LABEL])
        ]


def _prediction(shape, square_map, probabilities):
    probability_map = fit_to_native(square_map, shape)
    return Prediction(
        label=CLASSES[int(np.argmax(probabilities))],
        probabilities=probabilities,
        mask=(probability_map >= THRESHOLD).astype(np.uint8),
        probability_map=probability_map,
    )


def _load(path):
    """`(run, input_shape)` of a stored model; `run` maps a float32 batch to a dict of arrays."""
    if (path / "saved_model.pb").is_file():
        return _from_saved_model(path)
    return _from_keras(load_keras(path), path)


def load_keras(path):
    """Load a Keras model, not compiled: what it was trained with is not needed to predict.

    Args:
        path: Path of a run's folder or a `.keras` file.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If Keras cannot load it.
    """
    path = Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if file.suffix != ".keras" or not file.is_file():
        raise FileNotFoundError(f"Expected a trained model (a run's folder, .keras or SavedModel), found none: {path}")
    import keras

    try:
        return keras.models.load_model(file, compile=False)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"Expected a Keras model, found a file that Keras cannot load ({error}): {file}") from error


def _from_keras(model, source="the model"):
    _check_outputs(model.output_names, source)

    def run(batch):
        outputs = model.predict_on_batch(batch)
        return {name: np.asarray(values) for name, values in outputs.items()}

    return run, tuple(model.input_shape)


def _from_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures.get("serving_default")
    _check_outputs(signature.structured_outputs if signature else (), path)
    (name, spec), *_ = signature.structured_input_signature[1].items()

    def run(batch):
        # `loaded` stands here so that its variables live as long as the function that reads them.
        outputs = loaded.signatures["serving_default"](**{name: tf.constant(batch)})
        return {name: values.numpy() for name, values in outputs.items()}

    return run, tuple(spec.shape)


def _check_outputs(names, source):
    if set(names) != {MASK, LABEL}:
        raise ValueError(f"Expected a model with the outputs {MASK} and {LABEL}, found {sorted(names)}: {source}")
