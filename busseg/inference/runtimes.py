"""Stored models, loaded as functions from a batch of images to a dict of outputs, each run by its own runtime."""

import os
import re
import zipfile
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from busseg.imaging.threads import count_cores
from busseg.inference.concurrency import Run, one_at_a_time, one_thread_an_image
from busseg.storage.extras import import_openvino
from busseg.storage.run_folder import MODEL

if TYPE_CHECKING:
    import keras

Shape = tuple[int | None, ...]
Loaded = tuple[Run, Shape | list[Shape] | None, dict[str, Shape] | None]  # see `load`

DEVICES = ("auto", "cpu", "gpu")  # the first is the default, here and of the precisions
PRECISIONS = ("float32", "bfloat16")
# Of ONNX Runtime's packages onnxruntime-gpu, onnxruntime-migraphx and onnxruntime-directml.
_GPU_PROVIDERS = ("CUDAExecutionProvider", "MIGraphXExecutionProvider", "DmlExecutionProvider")


def load(path: str | Path, threads: int | None = None, device: str = "auto", precision: str = "float32") -> Loaded:
    """Load a stored model of any format.

    Args:
        path: Path of a run's folder, a `.keras`, `.onnx` or `.tflite` file, or a folder of SavedModel or OpenVINO.
        threads: Number of threads of ONNX Runtime or OpenVINO, by default one for each core; see
            `one_thread_an_image`.
        device: "cpu" or "gpu", for ONNX and OpenVINO. "auto" takes a GPU for ONNX, if ONNX Runtime has one, and the
            processor for OpenVINO.
        precision: "float32"; or "bfloat16", in which OpenVINO computes ONNX, too, on processors that multiply it.

    Returns:
        `(run, inputs, outputs)`: a function from a float32 batch to a dict of arrays, which threads may share; the
        shape of its input (a list of shapes for several inputs); and a dict of the shapes of its outputs. Sides that
        may vary are None, and so are shapes that the model does not state.

    Raises:
        FileNotFoundError: If there is no model.
        ImportError: If its runtime is not installed.
        ValueError: If its runtime cannot load it, or does not compute on the device or in the precision.
    """
    path = Path(path)
    is_onnx, is_openvino = path.suffix == ".onnx" and path.is_file(), (path / "model.xml").is_file()
    check_choices(device, precision, path, fixed=path.exists() and not (is_onnx or is_openvino))
    if is_openvino or (is_onnx and precision == "bfloat16"):
        return _run_openvino(path, threads, device, precision)
    if is_onnx:
        return _run_onnx(path, threads, device)
    if (path / "saved_model.pb").is_file():
        return _run_saved_model(path)
    if path.suffix == ".tflite" and path.is_file():
        return _run_litert(path)
    return run_keras(load_keras(path))


def check_choices(device: str, precision: str, source: str | Path, *, fixed: bool) -> None:
    """Check the device and the precision that a model shall be computed on and in.

    Args:
        device: One of `DEVICES`.
        precision: One of `PRECISIONS`.
        source: Path or name of the model.
        fixed: Whether its runtime takes neither.

    Raises:
        ValueError: If one is unknown or fixed, or they do not go together.
    """
    for name, choice, choices in (("device", device, DEVICES), ("precision", precision, PRECISIONS)):
        if choice not in choices:
            raise ValueError(f"`{name}` must be one of {', '.join(choices)}. Received: {name}={choice!r}")
        if fixed and choice != choices[0]:
            raise ValueError(
                f"Expected an ONNX file or a folder of OpenVINO for {name} {choice}, found another: {source}"
            )
    if device == "gpu" and precision == "bfloat16":
        raise ValueError("Expected the processor for precision bfloat16, found device gpu")


def load_keras(path: str | Path) -> "keras.Model":
    """Load a Keras model, not compiled: losses and optimizer are not needed to predict.

    Args:
        path: Path of a run's folder or a `.keras` file.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If Keras cannot load it.
    """
    path = Path(path)
    file = path / MODEL if path.is_dir() else path
    if file.suffix != ".keras" or not file.is_file():
        raise FileNotFoundError(
            "Expected a trained model (a run's folder, .keras, .onnx, .tflite, or a folder of SavedModel or OpenVINO), "
            f"found none: {path}"
        )
    if not zipfile.is_zipfile(file):
        raise ValueError(f"Expected a Keras model, found a broken file or something else: {file}")
    import keras

    try:
        return keras.models.load_model(file, compile=False)
    except Exception as error:  # zipfile, h5py and Keras raise anything for a broken archive
        raise ValueError(f"Expected a Keras model, found a file that Keras cannot load ({error}): {file}") from error


def in_precision(model: "keras.Model", dtype: str) -> "keras.Model":
    """The same network with the same weights, computed in another precision.

    Models trained in half precision are exported in float32: ONNX Runtime has no convolution in bfloat16, and there
    TensorFlow's outputs of a Keras model and its SavedModel differ by 1e-3.

    Args:
        model: `keras.Model`.
        dtype: "float32" or "float64".
    """
    import keras

    config = model.to_json()
    policies = r'"(mixed_b?float16|float32)"' if dtype == "float64" else r'"mixed_b?float16"'
    converted = re.sub(policies, f'"{dtype}"', config)
    if converted == config:
        return model
    network = keras.models.model_from_json(converted)
    network.set_weights(model.get_weights())
    return network


def run_keras(model: "keras.Model") -> Loaded:
    """As `load`, for a `keras.Model` in memory."""

    def run(batch):
        outputs = model.predict_on_batch(batch)
        return {name: np.asarray(values) for name, values in outputs.items()}

    outputs = getattr(model, "output", None)
    shapes = _shapes(outputs) if isinstance(outputs, dict) else getattr(model, "output_shape", None)
    return one_at_a_time(run), getattr(model, "input_shape", None), shapes


def _run_saved_model(path):
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow's errors share no base class
        raise ValueError(f"Expected a SavedModel, found one that cannot be loaded ({error}): {path}") from error
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise ValueError(f"Expected the signature serving_default, found {sorted(loaded.signatures)}: {path}")
    inputs = signature.structured_input_signature[1]

    def run(batch):
        # The reference to `loaded` keeps its variables alive as long as this function.
        outputs = loaded.signatures["serving_default"](**{name: tf.constant(batch) for name in inputs})
        return {name: values.numpy() for name, values in outputs.items()}

    return one_at_a_time(run), _only(_shapes(inputs).values()), _shapes(signature.structured_outputs)


def _run_onnx(path, threads, device):
    # ONNX Runtime >= 1.29 sends reports with a device id unless disabled.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    providers = _providers(device, onnxruntime.get_available_providers())

    def load_session(threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: ONNX Runtime chooses
        # Threads that wait would take the cores from those that read and write.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ValueError(f"Expected an ONNX model, found a file that cannot be loaded ({error}): {path}") from error

    def run(session, batch):
        return dict(zip(outputs, session.run(list(outputs), dict.fromkeys(inputs, batch))))

    session = load_session(threads)
    inputs, outputs = (
        {one.name: _numbers(one.shape) for one in ends} for ends in (session.get_inputs(), session.get_outputs())
    )
    run_all, shape = partial(run, session), _only(inputs.values())
    if len(providers) == 1 and _has_batch(shape):
        run_all = one_thread_an_image(
            run_all, lambda _: partial(run, session if threads == 1 else load_session(1)), threads
        )
    return run_all, shape, outputs


def _providers(device, available):
    """ONNX Runtime's providers for a device, the preferred one first."""
    gpus = [name for name in available if name in _GPU_PROVIDERS]
    if device == "gpu" and not gpus:
        raise ValueError(
            "Expected an ONNX Runtime that computes on a GPU, such as onnxruntime-gpu, "
            f"found one with {', '.join(available)}"
        )
    return [*(gpus if device != "cpu" else ()), "CPUExecutionProvider"]


def _run_openvino(path, threads, device, precision):
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise _missing("OpenVINO", "openvino", path) from error
    core = openvino.Core()
    if device == "gpu" and not any(name.startswith("GPU") for name in core.available_devices):
        raise ValueError(f"Expected a GPU that OpenVINO can use, found {', '.join(core.available_devices)}")
    types = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bfloat16" and "BF16" not in types:
        raise ValueError(
            "Expected a processor with AMX or AVX512-BF16 for precision bfloat16, "
            f"found one whose fast types are {', '.join(types)}"
        )
    # Otherwise it computes in bfloat16 where the processor can, and its outputs differ slightly.
    options = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads

    def compile_for(callers):
        compiled = core.compile_model(model, "GPU" if device == "gpu" else "CPU", options | {"NUM_STREAMS": callers})
        return _share(compiled, callers, inputs, outputs)

    try:
        model = core.read_model(path if path.is_file() else path / "model.xml")
        inputs, outputs = (
            {one.any_name: _sides(one.partial_shape) for one in ends} for ends in (model.inputs, model.outputs)
        )
        shape = _only(inputs.values())
        one_by_one = device != "gpu" and _has_batch(shape)
        if one_by_one:
            model.reshape([1, *shape[1:]])  # a fixed shape is faster by a third
        run = compile_for(1)
        if one_by_one:  # OpenVINO 2026.4 hangs if the first calls of a process come at once, so one comes before
            run(np.zeros((1, *shape[1:]), np.float32))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Expected an OpenVINO model, found one that cannot be loaded ({reason}): {path}") from error
    return one_thread_an_image(run, compile_for, threads) if one_by_one else run, shape, outputs


def _share(compiled, callers, inputs, outputs):
    """The function of a batch of OpenVINO, for so many threads that call it at once; others wait."""
    free = SimpleQueue()
    for _ in range(callers):
        free.put(compiled.create_infer_request())

    def run(batch):
        request = free.get()
        try:
            answers = request.infer(dict.fromkeys(inputs, batch))
        finally:
            free.put(request)
        return {name: answers[name] for name in outputs}

    return run


def _run_litert(path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise _missing("LiteRT", "litert", path) from error
    try:
        interpreter = Interpreter(str(path), num_threads=count_cores())
        signature = interpreter.get_signature_runner()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"Expected a LiteRT model, found a file that cannot be loaded ({error}): {path}") from error
    ends = signature.get_input_details(), signature.get_output_details()
    inputs, outputs = ({name: _numbers(one["shape_signature"]) for name, one in end.items()} for end in ends)
    single = all(shape[:1] == (1,) for shape in inputs.values())  # an export of `--batch 1`

    def run(batch):
        parts = np.split(batch, len(batch)) if single else [batch]
        answers = [signature(**dict.fromkeys(inputs, part)) for part in parts]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in outputs}

    return one_at_a_time(run), _only(inputs.values()), outputs


def _missing(runtime, extra, path):
    return ImportError(
        f'Expected {runtime}, which runs this model, found it not installed: pip install "busseg[{extra}]": {path}'
    )


def _only(shapes):
    shapes = list(shapes)
    return shapes[0] if len(shapes) == 1 else shapes


def _has_batch(shape):
    """Whether it is that of a batch of images of one size. Raw exports take an image without one."""
    return isinstance(shape, tuple) and len(shape) == 4 and None not in shape[1:]


def _numbers(shape):
    """A shape with None for a side that may vary, as in Keras; ONNX has a name there, LiteRT -1."""
    return tuple(int(side) if isinstance(side, (int, np.integer)) and side >= 0 else None for side in shape)


def _sides(shape):
    return tuple(None if side.is_dynamic else side.get_length() for side in shape)


def _shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
