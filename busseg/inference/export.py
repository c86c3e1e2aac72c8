"""A trained Keras model to a format that runs without busseg, checked against its source."""

from pathlib import Path

import keras
import numpy as np

from busseg.data.files import replacing
from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.inference.predictor import Predictor, load_keras

FORMATS = ("saved_model",)
TOLERANCE = 1e-5


def export_saved_model(model, out):
    """Export a model to TensorFlow's SavedModel.

    Its signature `serving_default` takes `image`, `(batch, size, size, 1)` float32 with values 0..255, and gives a
    dict of `mask`, `(batch, size, size, 1)`, and `label`, `(batch, 3)`: normal, benign, malignant.

    Args:
        model: Path of a run's folder or a `.keras` file.
        out: Path of the folder to write. A SavedModel there is replaced.

    Returns:
        The largest difference between the outputs of the export and of the source, on phantoms.

    Raises:
        FileExistsError: If `out` holds something else than a SavedModel.
        OSError: If it cannot be written.
        ImportError: If TensorFlow is not installed; it alone writes and reads the format.
        ValueError: If the source is no model of busseg, or the export answers otherwise than it does; nothing is
            written then.
    """
    out = Path(out)
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "Expected TensorFlow, which alone writes and reads the SavedModel format, found it is not installed: "
            'pip install "tensorflow"'
        ) from error
    if out.exists() and not (out / "saved_model.pb").is_file() and (out.is_file() or any(out.iterdir())):
        raise FileExistsError(f"Expected a new folder or a SavedModel to replace, found something else: {out}")
    source, predictor = load_keras(model), Predictor(model)
    with replacing(out) as temporary:
        signature = [keras.InputSpec(shape=(None, *source.input_shape[1:]), dtype="float32", name="image")]
        try:
            source.export(temporary, format="tf_saved_model", input_signature=signature, verbose=False)
        except tf.errors.OpError as error:  # TensorFlow's words for a full disk
            raise OSError(f"The SavedModel cannot be written ({error.message}): {out}") from error
        difference = _difference(predictor, Predictor(temporary))
        if difference > TOLERANCE:
            raise ValueError(
                f"Expected the export to answer as its source, found a difference of {difference:.1e}: {out}"
            )
    return difference


def _difference(source, export):
    """The largest difference between two predictors' probabilities, of pixels and classes, on a phantom a class."""
    images = [draw_phantom(label, seed=0)[0] for label in CLASSES]
    pairs = zip(source.predict_batch(images), export.predict_batch(images))
    return max(
        float(np.abs(getattr(a, name) - getattr(b, name)).max())
        for a, b in pairs
        for name in ("probability_map", "probabilities")
    )
