"""Export a trained model to formats that run without busseg. Each export is checked against its source."""

import importlib.util
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import keras

from busseg.export.check import check, check_raw
from busseg.export.onnx_file import enclose_onnx, finish_onnx, is_own_onnx, write_onnx
from busseg.export.raw_graph import functions_around, raw_function
from busseg.inference.metadata import read_metadata
from busseg.inference.predictor import PACKAGED, Predictor
from busseg.inference.runtimes import in_precision, load, load_keras
from busseg.storage.archives import METADATA
from busseg.storage.claims import claim
from busseg.storage.extras import import_openvino
from busseg.storage.files import replacing, write_text

_SIDES = {False: ("batch",), True: ("height", "width", "channels")}  # names of ONNX sides that may vary, by `raw`


def export_saved_model(model: str | Path, out: str | Path, raw: bool = False) -> float:
    """Export a model to TensorFlow's SavedModel.

    Its signature `serving_default` takes `image`, `(batch, size, size, 1)` float32 with values 0..255, and returns a
    dict of `mask`, `(batch, size, size, 1)`, and `label`, `(batch, 3)`: normal, benign, malignant. A histology model
    takes `(batch, size, size, 3)` and returns `label` alone, in the order of its task; see `Task`. A model trained in
    half precision is exported, and checked, in float32. Every format contains metadata as JSON: the version of busseg,
    the `task`, the `classes` in their order, the `image_size` in pixels, the `threshold` of the mask, and the
    `operating_points` of a source that has them; SavedModel in `assets.extra/busseg.json`.

    Args:
        model: Path of a run's folder or a `.keras` file.
        out: Path of the folder to write. A SavedModel of busseg there, without other files, is replaced.
        raw: Whether the export takes one uint8 image of any size instead, with outputs of that size; see
            `raw_graph.raw_function`.

    Returns:
        The largest difference between the outputs of the export and of the source, on phantoms.

    Raises:
        FileExistsError: If something else is at `out`.
        BlockingIOError: If another process writes there.
        OSError: If it cannot be written.
        ImportError: If TensorFlow is not installed; it alone writes and reads the format.
        ValueError: If the source is not a model of busseg, or the export's outputs differ from its outputs; nothing is
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
    with claim(out, "a SavedModel", _is_own_saved_model):
        source = _load_source(model, "SavedModel")
        with replacing(out) as temporary:
            with _naming(out, tf.errors.OpError):
                if raw:
                    module = tf.Module()
                    module.answer = raw_function(source)
                    # TensorFlow finds no variables in a Keras model by itself, and other readers then miss them.
                    module.weights = [weight.value for weight in source.weights]
                    tf.saved_model.save(module, str(temporary), signatures=module.answer)
                else:
                    source.export(temporary, format="tf_saved_model", input_signature=_signature(source), verbose=False)
            write_text(temporary / "assets.extra" / METADATA, _metadata(source, model))
            return (check_raw if raw else check)(temporary, source, out)


def export_onnx(
    model: str | Path, out: str | Path, raw: bool = False, weights: str = "float32", force: bool = False
) -> float:
    """Export a model to ONNX, one file for ONNX Runtime and others.

    Its input, outputs and precision are those of `export_saved_model`. Weights that are exact in half precision, such
    as those rounded by `busseg.experiments.release`, are stored in half precision and computed in float32.

    Args:
        model: Path of a run's folder or of a `.keras` or `.onnx` file, or the name of a model of the package. An ONNX
            source keeps its stored weights.
        out: Path of the `.onnx` file to write. One of busseg there is replaced.
        raw: Whether the export takes one uint8 image of any size instead, with outputs of that size; see
            `raw_graph.raw_function`.
        weights: How to store the weights: "float32"; "float16"; or "int8", for the kernels of convolutions alone, with
            one scale per filter. All are computed in float32.
        force: Whether to also replace any other file.

    Returns:
        The largest difference between the outputs of the export and of the source, on phantoms.

    Raises:
        FileExistsError: If something else is at `out`.
        BlockingIOError: If another process writes there.
        OSError: If it cannot be written.
        ImportError: If a package of the extra `onnx` is not installed.
        ValueError: If `out` does not end in `.onnx`, Keras does not run on TensorFlow, the source is not a model of
            busseg or has a layer that ONNX lacks, or the export's outputs differ from its outputs; nothing is written
            then.
    """
    out = Path(out)
    _need("onnx", "onnx", "tf2onnx")
    if not (stored := _stored_onnx(model)) or raw:
        _need_tensorflow("tf2onnx")
    _check_suffix(out, ".onnx")
    _check_weights(weights, "float32", "float16", "int8")
    if stored and weights != "float32":
        raise ValueError(
            f"Expected no --weights for ONNX, which keeps them as they are stored, found {weights}: {model}"
        )
    with claim(out, "an ONNX file", is_own_onnx, force):
        source = stored or _load_source(model, "ONNX")
        with replacing(out) as temporary:
            if stored:
                _copy_onnx(stored, temporary, raw)
            else:
                write_onnx(raw_function(source) if raw else _function(source), temporary, _SIDES[raw])
                finish_onnx(temporary, _metadata(source, model), weights)
            return (check_raw if raw else check)(temporary, source, out, weights)


def export_litert(
    model: str | Path, out: str | Path, weights: str = "float32", force: bool = False, batch: int | None = None
) -> float:
    """Export a model to LiteRT, formerly TensorFlow Lite: one file, for phones and small devices.

    Its signature, its input, outputs and precision are those of `export_saved_model`.

    Args:
        model: Path of a run's folder or a `.keras` file.
        out: Path of the `.tflite` file to write. One of busseg there is replaced.
        weights: How to store the weights: "float32"; "float16", computed in float32; or "int8", computed in integers
            where LiteRT can.
        force: Whether to also replace any other file.
        batch: 1 for a network of one image at a time, for LiteRT.js; None for batches of any length.

    Returns:
        The largest difference between the outputs of the export and of the source, on phantoms.

    Raises:
        FileExistsError: If something else is at `out`.
        BlockingIOError: If another process writes there.
        OSError: If it cannot be written.
        ImportError: If a package of the extra `litert` is not installed.
        ValueError: If `out` does not end in `.tflite`, Keras does not run on TensorFlow, the source is not a model of
            busseg or has a layer that LiteRT lacks, or the export's outputs differ from its outputs; nothing is written
            then.
    """
    out = Path(out)
    _need("litert", "ai_edge_litert")
    _need_tensorflow("LiteRT's converter")
    _check_suffix(out, ".tflite")
    import tensorflow as tf

    smaller: dict[str, dict] = {
        "float32": {},
        "float16": {"optimizations": [tf.lite.Optimize.DEFAULT], "target_spec": {"supported_types": [tf.float16]}},
        "int8": {"optimizations": [tf.lite.Optimize.DEFAULT]},
    }
    _check_weights(weights, *smaller)
    if batch not in (None, 1):
        raise ValueError(f"Expected a batch of 1, or none for any length, found {batch}")
    with claim(out, "a LiteRT file", _is_own_litert, force):
        source = _load_source(model, "LiteRT")
        signature = _signature(source, batch)
        with replacing(out) as temporary:
            with _naming(out, tf.errors.OpError):
                source.export(temporary, format="litert", input_signature=signature, verbose=False, **smaller[weights])
            with zipfile.ZipFile(temporary, "a") as associated:  # LiteRT keeps associated files after the network
                associated.writestr(METADATA, _metadata(source, model))
            return check(temporary, source, out, weights)


def export_openvino(model: str | Path, out: str | Path, weights: str = "float32") -> float:
    """Export a model to OpenVINO, a folder of `model.xml` and `model.bin`, fast on processors of Intel.

    Its input, outputs and precision are those of `export_saved_model`.

    Args:
        model: Path of a run's folder or of a `.keras` or `.onnx` file, or the name of a model of the package.
        out: Path of the folder to write. An OpenVINO model of busseg there, without other files, is replaced.
        weights: How to store the weights: "float32" or "float16". Both are computed in float32.

    Returns:
        The largest difference between the outputs of the export and of the source, on phantoms.

    Raises:
        FileExistsError: If something else is at `out`.
        BlockingIOError: If another process writes there.
        OSError: If it cannot be written.
        ImportError: If the package of the extra `openvino` is not installed.
        ValueError: If Keras does not run on TensorFlow, the source is not a model of busseg, or the export's outputs
            differ from its outputs; nothing is written then.
    """
    out = Path(out)
    _need("openvino", "openvino")
    if not (stored := _stored_onnx(model)):
        _need_tensorflow("OpenVINO's converter")
    _check_weights(weights, "float32", "float16")
    import tensorflow as tf

    openvino = import_openvino()
    with claim(out, "an OpenVINO model", _is_own_openvino):
        source = stored or _load_source(model, "OpenVINO")
        with replacing(out) as temporary:
            folder = temporary.with_name(f"{out.name} source")
            with _naming(out, tf.errors.OpError, RuntimeError):
                if not stored:
                    source.export(folder, format="tf_saved_model", input_signature=_signature(source), verbose=False)
                temporary.mkdir()
                network = openvino.convert_model(stored or folder)
                network.set_rt_info(_metadata(source, stored or model), "busseg")
                openvino.save_model(network, temporary / "model.xml", compress_to_fp16=weights == "float16")
            return check(temporary, source, out, weights)


# On the command line: `--format`.
FORMATS: dict[str, Callable[..., float]] = {
    "saved_model": export_saved_model,
    "onnx": export_onnx,
    "litert": export_litert,
    "openvino": export_openvino,
}


@contextmanager
def _naming(out, *errors):
    """Turn errors of TensorFlow and OpenVINO, which name a hidden file, into an `OSError`, such as for a full disk."""
    try:
        yield
    except errors as error:
        reason = " ".join(str(error).split()).rpartition("; ")[2]
        raise OSError(f"The model cannot be written ({reason}): {out}") from error


def _is_own_saved_model(folder):
    marker = f"assets.extra/{METADATA}"
    variables = (f"variables/variables.{end}" for end in ("index", "data-00000-of-00001"))
    return _holds_only(folder, marker, {"saved_model.pb", "fingerprint.pb", *variables})


def _is_own_openvino(folder):
    network = folder / "model.xml"
    return _holds_only(folder, network.name, {"model.bin"}) and (
        not network.exists() or b"<busseg" in network.read_bytes()
    )


def _holds_only(folder, marker, others):
    """Whether a folder is empty, or holds the file `marker` and no files but `others`."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return folder.is_dir() and (not found or marker in found <= {marker, *others})


def _is_own_litert(path):
    try:
        with zipfile.ZipFile(path) as associated:
            return METADATA in associated.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _need(extra, *packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Expected {' and '.join(packages)}, which write the format, found {', '.join(missing)} not installed: "
            f'pip install "busseg[{extra}]"'
        )


def _need_tensorflow(reader):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Expected Keras on TensorFlow, which {reader} reads, found it on {keras.backend.backend()}: "
            "set KERAS_BACKEND=tensorflow"
        )


def _metadata(source, model):
    """The metadata of an export as JSON; `model` is the path of the source."""
    return json.dumps(read_metadata(model) | Predictor(source).description)


def _check_suffix(out, suffix):
    if out.suffix != suffix:
        raise ValueError(f"Expected the name of a file that ends in {suffix}, found another: {out}")


def _check_weights(weights, *known):
    if weights not in known:
        raise ValueError(f"Expected weights of {', '.join(known)} for this format, found {weights!r}")


def _function(source):
    import tensorflow as tf

    image = tf.TensorSpec((None, *source.input_shape[1:]), tf.float32, name="image")
    return tf.function(lambda image: source(image, training=False), input_signature=[image])


def _signature(source, batch=None):
    return [keras.InputSpec(shape=(batch, *source.input_shape[1:]), dtype="float32", name="image")]


def _load_source(path, format):
    if _stored_onnx(path):
        raise ValueError(
            f"Expected a Keras model, the only kind that can be turned into {format}, found ONNX: {path}; "
            "--format onnx and --format openvino take it"
        )
    Predictor(path)  # refuses a model that busseg did not write, by the name of its file
    return in_precision(load_keras(path), "float32")


def _stored_onnx(model):
    """Path of a source that is an ONNX file, such as those of the package; else None."""
    path = PACKAGED.get(str(model), Path(model))
    if path.suffix != ".onnx" or not path.is_file():
        return None
    Predictor(path)
    return path


def _copy_onnx(path, out, raw):
    if raw:
        _, inputs, outputs = load(path)
        enclose_onnx(path, out, *functions_around(*inputs[2:], outputs), _SIDES[True])
    else:
        shutil.copyfile(path, out)
    finish_onnx(out, _metadata(path, path))
