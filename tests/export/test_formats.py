import json
import os
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnx
import pytest

import busseg
from busseg.export.formats import FORMATS, export_litert, export_onnx, export_openvino
from busseg.inference.metadata import read_metadata
from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import load_keras
from busseg.models.unet import build_unet
from busseg.storage.extras import import_openvino

any_format = pytest.mark.parametrize(
    ("export", "name"),
    [
        pytest.param(FORMATS[format], name, id=format)
        for format, name in (
            ("saved_model", "export"),
            ("onnx", "export.onnx"),
            ("litert", "export.tflite"),
            ("openvino", "export"),
        )
    ],
)


# Run where busseg is not: load the export, answer the batches of an .npz file, report the signature.
SAVED_MODEL = """
import json, sys
import numpy as np
import tensorflow as tf

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = {}
for name, batch in np.load(sys.argv[2]).items():
    for output, values in serve(image=tf.constant(batch)).items():
        answers[f"{name} {output}"] = values.numpy()
np.savez(sys.argv[3], **answers)
describe = lambda specs: {name: [spec.shape.as_list(), spec.dtype.name] for name, spec in specs.items()}
signature = serve.structured_input_signature[1], serve.structured_outputs
print(json.dumps({"signature": [describe(specs) for specs in signature], "modules": list(sys.modules)}))
"""


ONNX = """
import json, sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
answers = {}
for name, batch in np.load(sys.argv[2]).items():
    for output, values in zip(session.get_outputs(), session.run(None, {"image": batch})):
        answers[f"{name} {output.name}"] = values
np.savez(sys.argv[3], **answers)
sides = lambda shape: [side if isinstance(side, int) else None for side in shape]
describe = lambda specs: {spec.name: [sides(spec.shape), {"tensor(float)": "float32"}[spec.type]] for spec in specs}
signature = session.get_inputs(), session.get_outputs()
print(json.dumps({"signature": [describe(specs) for specs in signature], "modules": list(sys.modules)}))
"""


LITERT = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

serve = Interpreter(sys.argv[1]).get_signature_runner()
answers = {}
for name, batch in np.load(sys.argv[2]).items():
    for output, values in serve(image=batch).items():
        answers[f"{name} {output}"] = values
np.savez(sys.argv[3], **answers)
sides = lambda shape: [int(side) if side >= 0 else None for side in shape]
describe = lambda ends: {
    name: [sides(end["shape_signature"]), np.dtype(end["dtype"]).name] for name, end in ends.items()
}
signature = serve.get_input_details(), serve.get_output_details()
print(json.dumps({"signature": [describe(ends) for ends in signature], "modules": list(sys.modules)}))
"""


OPENVINO = """
import json, sys
import numpy as np
sys.modules["openvino_telemetry"] = None  # a test reports nothing to its makers
import openvino

model = openvino.Core().compile_model(sys.argv[1] + "/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
answers = {}
for name, batch in np.load(sys.argv[2]).items():
    for output, values in model({"image": batch}).items():
        answers[f"{name} {output.any_name}"] = values
np.savez(sys.argv[3], **answers)
sides = lambda shape: [None if side.is_dynamic else side.get_length() for side in shape]
describe = lambda ends: {end.any_name: [sides(end.partial_shape), {"f32": "float32"}[end.element_type.get_type_name()]]
                         for end in ends}
print(json.dumps({"signature": [describe(model.inputs), describe(model.outputs)], "modules": list(sys.modules)}))
"""


@pytest.mark.parametrize(
    ("script", "format", "absent"),
    [
        (SAVED_MODEL, "saved_model", {"busseg"}),
        (ONNX, "onnx", {"busseg", "keras", "tensorflow"}),
        (LITERT, "litert", {"busseg", "keras", "tensorflow"}),
        (OPENVINO, "openvino", {"busseg", "keras", "tensorflow"}),
    ],
)  # fmt: skip
def test_export_answers_as_its_source_where_there_is_no_busseg(
    tmp_path, tiny_run, tiny_exports, script, format, absent
):
    random = np.random.default_rng(0)
    batches = {str(n): random.uniform(0, 255, (n, 32, 32, 1)).astype(np.float32) for n in (1, 3)}
    np.savez(tmp_path / "batches.npz", **batches)
    paths = tiny_exports[format], tmp_path / "batches.npz", tmp_path / "answers.npz"
    done = subprocess.run(
        [sys.executable, "-c", script, *paths],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert not absent & set(report["modules"])
    assert report["signature"] == [
        {"image": [[None, 32, 32, 1], "float32"]},
        {"mask": [[None, 32, 32, 1], "float32"], "label": [[None, 3], "float32"]},
    ]
    model = load_keras(tiny_run)
    with np.load(tmp_path / "answers.npz") as answers:
        for name, batch in batches.items():
            for output, expected in model.predict_on_batch(batch).items():
                np.testing.assert_allclose(answers[f"{name} {output}"], expected, atol=1e-5)


# Half precision rounds to 8 bits: 1 / 256. What it is rounded from is what is exported.
@any_format
def test_model_of_half_precision_is_exported_in_float32(tmp_path, export, name):
    image = keras.Input((32, 32, 1), name="image")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", dtype="mixed_bfloat16")(x)
    mask = keras.layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x)
    label = keras.layers.Dense(3, activation="softmax", name="label")(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(image, {"mask": mask, "label": label}).save(tmp_path / "half.keras")
    assert export(tmp_path / "half.keras", tmp_path / name) <= 1e-6
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    source, exported = Predictor(tmp_path / "half.keras").predict(pixels), Predictor(tmp_path / name).predict(pixels)
    difference = np.abs(exported.probability_map - source.probability_map).max()
    assert 1e-6 < difference < 1 / 64  # another precision, the same weights


@any_format
def test_missing_source_leaves_nothing(names, tmp_path, export, name):
    with pytest.raises(FileNotFoundError, match=r"found none: .*gone\.keras$"):
        export(tmp_path / "gone.keras", tmp_path / name)
    assert names(tmp_path) == []


@any_format
def test_source_of_another_program_leaves_nothing(names, tmp_path, export, name):
    keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Flatten()]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"^Expected a model with the outputs .*: .*other\.keras$"):
        export(tmp_path / "other.keras", tmp_path / name)
    assert names(tmp_path) == ["other.keras"]


@keras.saving.register_keras_serializable(package="test_export")
class Drifting(keras.layers.Layer):
    """Adds another number each time the network is compiled, so that no export answers as its source."""

    compiled = 0

    def call(self, x):
        Drifting.compiled += 1
        return x + 0.5 * Drifting.compiled


@any_format
def test_export_that_answers_otherwise_leaves_nothing(names, tmp_path, export, name):
    image = keras.Input((32, 32, 1), name="image")
    mask = keras.layers.Rescaling(1 / 255, name="mask")(image)
    label = Drifting(name="label")(keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(mask)))
    keras.Model(image, {"mask": mask, "label": label}).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=rf"^Expected the export to answer as its source, .* of \d\.\de.*: .*{name}$"):
        export(tmp_path / "model.keras", tmp_path / name)
    assert names(tmp_path) == ["model.keras"]


def test_model_whose_answers_are_no_numbers_leaves_nothing(names, tmp_path, echo_file):
    model = load_keras(echo_file)
    model.get_layer("label").bias.assign([1, 0, np.nan])
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"^Expected finite numbers from the model export\.onnx, found "):
        export_onnx(tmp_path / "model.keras", tmp_path / "export.onnx")
    assert names(tmp_path) == ["model.keras"]


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        ("saved_model", "export", r"The model cannot be written .*too large.*\): .*export"),
        ("onnx", "export.onnx", r"\[Errno 27\] File too large: '.*export\.onnx'"),
        ("litert", "export.tflite", r"The model cannot be written .*too large.*\): .*export\.tflite"),
        ("openvino", "export", r"The model cannot be written .*\): .*export"),
    ],
)
def test_full_disk_leaves_the_old_export(tmp_path, echo_file, tiny_exports, format, name, message):
    resource = pytest.importorskip("resource")
    old = tiny_exports[format]
    (shutil.copytree if old.is_dir() else shutil.copy)(old, tmp_path / name)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # Like a disk that is full after 500 bytes. Python ignores the signal that comes with it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        with pytest.raises(OSError, match=rf"^{message}$"):
            FORMATS[format](echo_file, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_every_format_has_its_metadata(tiny_run, tiny_exports):
    network = import_openvino().Core().read_model(tiny_exports["openvino"] / "model.xml")
    metadata = {
        "saved_model": (tiny_exports["saved_model"] / "assets.extra/busseg.json").read_text(),
        "onnx": {one.key: one.value for one in onnx.load(tiny_exports["onnx"]).metadata_props}["busseg"],
        "litert": zipfile.ZipFile(tiny_exports["litert"]).read("busseg.json"),
        "openvino": network.get_rt_info("busseg").astype(str),
    }
    expected = {"task": "ultrasound", "classes": ["normal", "benign", "malignant"], "image_size": 32, "threshold": 0.5}
    for format in FORMATS:
        assert json.loads(metadata[format]) == {"busseg": busseg.__version__, **expected, **read_metadata(tiny_run)}


def test_tensors_that_a_network_holds_are_exported(tmp_path):
    """As those of `keras.applications`' preprocessing: here `image / [1, 3, 5] - [2, 4, 6]`, a mean a channel."""
    image = keras.Input((32, 32, 1), name="image")
    x = keras.layers.Concatenate()([image] * 3) / keras.ops.convert_to_tensor([1.0, 3.0, 5.0])
    x = keras.layers.Normalization(mean=[2.0, 4.0, 6.0], variance=[1.0, 1.0, 1.0])(x)
    mask = keras.layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x)
    label = keras.layers.Identity(name="label")(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(image, {"mask": mask, "label": label}).save(tmp_path / "model.keras")
    export_onnx(tmp_path / "model.keras", tmp_path / "export.onnx")
    found = Predictor(tmp_path / "export.onnx").predict(np.full((32, 32), 15, np.uint8)).probabilities
    np.testing.assert_allclose(found, (15 / 1 - 2, 15 / 3 - 4, 15 / 5 - 6), atol=1e-5)


def test_layer_that_onnx_does_not_know_leaves_nothing(names, tmp_path):
    image = keras.Input((32, 32, 1), name="image")
    mask = keras.layers.Identity(name="mask")(keras.ops.erfinv(keras.layers.Rescaling(1 / 512)(image)))
    label = keras.layers.Dense(3, name="label")(keras.layers.GlobalAveragePooling2D()(mask))
    keras.Model(image, {"mask": mask, "label": label}).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"^Expected an export that runs, .*Erfinv.*: .*export\.onnx$") as caught:
        export_onnx(tmp_path / "model.keras", tmp_path / "export.onnx")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["model.keras"]


@pytest.mark.parametrize(
    ("export", "packages", "extra"),
    [
        (export_onnx, ("onnx", "tf2onnx"), "onnx"),
        (export_litert, ("ai_edge_litert",), "litert"),
        (export_openvino, ("openvino",), "openvino"),
    ],
)
def test_missing_packages_are_named_with_the_fix(tmp_path, echo_file, monkeypatch, export, packages, extra):
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    found = rf'found {", ".join(packages)} not installed: pip install "busseg\[{extra}\]"$'
    with pytest.raises(ImportError, match=found):
        export(echo_file, tmp_path / "export.onnx")


@pytest.mark.parametrize("export", [export_onnx, export_litert, export_openvino])
def test_other_backend_is_named_with_the_fix(tmp_path, echo_file, monkeypatch, export):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"^Expected Keras on TensorFlow, .* found it on jax: set KERAS_BACKEND="):
        export(echo_file, tmp_path / "export.onnx")


# === Weights stored smaller ===
@pytest.mark.parametrize(
    ("format", "weights", "bytes_a_weight"),
    [
        ("onnx", "float16", 2),
        ("onnx", "int8", 1),
        ("litert", "float16", 2),
        ("litert", "int8", 1),
        ("openvino", "float16", 2),
    ],
)
def test_smaller_weights_answer_nearly_as_their_source(tmp_path, wide_model, format, weights, bytes_a_weight):
    model, path = wide_model
    out = tmp_path / ("out" + {"onnx": ".onnx", "litert": ".tflite", "openvino": ""}[format])
    difference = FORMATS[format](path, out, weights=weights)
    assert 0 < difference < {"float16": 0.005, "int8": 0.05}[weights]
    written = sum(file.stat().st_size for file in (out.rglob("*.bin") if out.is_dir() else [out]))
    # The file holds more than weights; a few of them are folded away.
    assert 0.9 * bytes_a_weight < written / model.count_params() < bytes_a_weight + 1


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """A network of which most is kernels, and its path."""
    path = tmp_path_factory.mktemp("wide") / "wide.keras"
    keras.utils.set_random_seed(0)
    model = build_unet(image_size=32, width=32, depth=1, normalization="none")
    model.save(path)
    return model, path


def test_unknown_weights_are_refused_by_name(names, tmp_path, echo_file):
    with pytest.raises(ValueError, match=r"^Expected weights of float32, float16 for this format, found 'int8'$"):
        export_openvino(echo_file, tmp_path / "export", weights="int8")
    assert names(tmp_path) == []


# === Fixed batches ===
def test_litert_of_one_image_at_a_time_answers_several(tmp_path, tiny_run, tiny_exports):
    from ai_edge_litert.interpreter import Interpreter

    export_litert(tiny_run, tmp_path / "one.tflite", batch=1)
    (one,) = Interpreter(str(tmp_path / "one.tflite")).get_input_details()
    assert (list(one["shape"]), list(one["shape_signature"])) == ([1, 32, 32, 1], [1, 32, 32, 1])
    images = list(np.random.default_rng(0).integers(0, 256, (3, 40, 50), np.uint8))
    found, expected = (
        Predictor(path).predict_batch(images) for path in (tmp_path / "one.tflite", tiny_exports["litert"])
    )
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.probability_map, other.probability_map, atol=1e-5)
        np.testing.assert_allclose(mine.probabilities, other.probabilities, atol=1e-5)


def test_other_fixed_batches_are_refused(names, tmp_path, echo_file):
    with pytest.raises(ValueError, match=r"^Expected a batch of 1, or none for any length, found 8$"):
        export_litert(echo_file, tmp_path / "eight.tflite", batch=8)
    assert names(tmp_path) == []
