import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import load


# === Shared ===
@pytest.mark.parametrize("format", ["keras", "saved_model", "onnx", "litert", "openvino"])
def test_threads_that_share_a_model_get_its_answers(tiny_run, tiny_exports, format):
    run, shape, _ = load({"keras": tiny_run, **tiny_exports}[format])
    numbers = np.random.default_rng(0)
    batches = [numbers.uniform(0, 255, (2, *shape[1:])).astype(np.float32) for _ in range(12)]
    alone = [run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, batches))
    for one, other in zip(alone, together, strict=True):
        for name in one:
            np.testing.assert_allclose(other[name], one[name], atol=1e-6)


# === Broken ===
@pytest.mark.parametrize("name", ["gone", "gone.keras", "gone.onnx", "empty", "notes.txt"])
def test_missing_model_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FileNotFoundError, match=rf"^Expected a trained model .* found none: .*{name}$"):
        Predictor(tmp_path / name)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path):
    """Overwrite the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)


def lose_end(path):
    os.truncate(path, path.stat().st_size - 100)


BREAKING = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "truncated": truncate,
    "lost end": lose_end,
    "damaged": damage,
}


@pytest.mark.parametrize("break_it", BREAKING.values(), ids=BREAKING)
def test_broken_keras_file_is_named(tmp_path, tiny_run, break_it):
    path = shutil.copy(tiny_run / "model.keras", tmp_path / "broken.keras")
    break_it(path)
    with pytest.raises(ValueError, match=rf"^Expected a Keras model, found .*: {re.escape(str(path))}$") as caught:
        Predictor(path)
    assert "\n" not in str(caught.value)


# A LiteRT file has no sums to check: with its end lost or other bytes in its midst it may still be a network.
BROKEN = [("onnx", "an ONNX", how) for how in BREAKING]


BROKEN += [("litert", "a LiteRT", how) for how in ("empty", "text", "truncated")]


@pytest.mark.parametrize(("format", "kind", "how"), BROKEN)
def test_broken_file_is_named(tmp_path, tiny_exports, format, kind, how):
    path = Path(shutil.copy(tiny_exports[format], tmp_path))
    BREAKING[how](path)
    with pytest.raises(ValueError, match=rf"^Expected {kind} model, found .*: {re.escape(str(path))}$") as caught:
        Predictor(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "break_it"), [("model.xml", truncate), ("model.bin", os.remove), ("model.bin", truncate)]
)
def test_broken_openvino_model_is_named(tmp_path, tiny_exports, name, break_it):
    folder = shutil.copytree(tiny_exports["openvino"], tmp_path / "broken")
    break_it(folder / name)
    with pytest.raises(
        ValueError, match=rf"^Expected an OpenVINO model, found .*: {re.escape(str(folder))}$"
    ) as caught:
        Predictor(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("saved_model.pb", BREAKING["empty"]),
        ("saved_model.pb", BREAKING["text"]),
        ("saved_model.pb", truncate),
        ("variables/variables.index", os.remove),
        ("variables/variables.data-00000-of-00001", BREAKING["empty"]),
    ],
)
def test_broken_saved_model_is_named(tmp_path, tiny_exports, name, break_it):
    folder = shutil.copytree(tiny_exports["saved_model"], tmp_path / "broken")
    break_it(folder / name)
    with pytest.raises(ValueError, match=rf"(?s)^Expected a SavedModel, found .*: {re.escape(str(folder))}$"):
        Predictor(folder)


# === Of another program ===
def network(shape=(32, 32, 1), classes=3, mask="mask", label="label"):
    """A network between a busseg model and another."""
    image = keras.Input(shape, name="image")
    square = layers.Conv2D(1, 1, activation="sigmoid", name=mask)(image)
    probabilities = layers.Dense(classes, activation="softmax", name=label)(layers.GlobalAveragePooling2D()(image))
    return keras.Model(image, {mask: square, label: probabilities}, name="other")


def sequential():
    return keras.Sequential([keras.Input((32, 32, 1)), layers.Flatten(), layers.Dense(7)], name="other")


def listing():
    model = network()
    return keras.Model(model.input, list(model.output.values()), name="other")


def half_mask():
    image = keras.Input((32, 32, 1), name="image")
    mask = layers.MaxPooling2D(name="mask")(image)
    label = layers.Dense(3, name="label")(layers.GlobalAveragePooling2D()(image))
    return keras.Model(image, {"mask": mask, "label": label}, name="other")


FOREIGN = {
    "other outputs": (lambda: network(mask="depth", label="score"), "the outputs .*found .*'depth'.*'score'.*"),
    "more classes": (lambda: network(classes=4), r"the outputs .*found .*'label': \(None, 4\)}"),
    "half a mask": (half_mask, r"the outputs .*found .*'mask': \(None, 16, 16, 1\), .*"),
    "one output": (sequential, r"the outputs .*found \(None, 7\)"),
    "outputs without names": (listing, r"the outputs .*found \[\(None, .*\)\]"),
    "not square": (lambda: network((32, 48, 1)), r"one square image, .*found the input \(None, 32, 48, 1\)"),
    "colour": (lambda: network((32, 32, 3)), r"the outputs .*found .*'mask': \(None, 32, 32, 1\).*"),
    "two channels": (lambda: network((32, 32, 2)), r"one square image, .*found the input \(None, 32, 32, 2\)"),
    "any size": (lambda: network((None, None, 1)), r"one square image, .*found the input \(None, None, None, 1\)"),
}


def test_model_of_no_numbers_answers_nothing():
    model = network()
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(ValueError, match=r"^Expected finite numbers from the model "):
        Predictor(model).predict(np.zeros((40, 50), np.uint8))


@pytest.mark.parametrize(("build", "message"), FOREIGN.values(), ids=FOREIGN)
def test_model_of_another_program_is_named_with_its_outputs(tmp_path, build, message):
    model = build()
    path = tmp_path / "other.keras"
    model.save(path)
    with pytest.raises(ValueError, match=rf"^Expected a model (of|with) {message}: other$"):
        Predictor(model)
    with pytest.raises(ValueError, match=rf"^Expected a model (of|with) {message}: {re.escape(str(path))}$"):
        Predictor(path)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: network(classes=4), r"Expected a model with the outputs .*found .*'label': \(None, 4\)"),
        (lambda: network((32, 32, 2)), r"Expected a model of one square .* \(None, 32, 32, 2\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # Keras, under NumPy 2
@pytest.mark.parametrize(("name", "format"), [("other", "tf_saved_model"), ("other.onnx", "onnx")])
def test_export_of_another_program_is_named_with_its_outputs(tmp_path, build, message, name, format):
    model = build()
    signature = [keras.InputSpec(shape=model.input_shape, dtype="float32", name="image")]
    model.export(tmp_path / name, format=format, input_signature=signature, verbose=False)
    with pytest.raises(ValueError, match=f"^{message}.*: {re.escape(str(tmp_path / name))}$"):
        Predictor(tmp_path / name)


def test_saved_model_without_a_signature_is_named(tmp_path):
    tf = pytest.importorskip("tensorflow")
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"^Expected the signature serving_default, found \[\]: .*other$"):
        Predictor(tmp_path / "other")


def test_model_with_layers_of_ours_loads_in_a_process_that_has_built_none(tmp_path):
    from busseg.models.unet import build_unet

    build_unet(16, width=1, depth=1, attention_gates=True, cbam=True).save(tmp_path / "attentive.keras")
    code = "import sys; from busseg.inference.predictor import Predictor; print(Predictor(sys.argv[1]).image_size)"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "attentive.keras"],
        env=os.environ | {"KERAS_BACKEND": "numpy"},  # any will do; this one starts in a third of the time
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("16\n", 0), done.stderr
