import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from busseg.data.phantom import draw_phantom
from busseg.export.formats import export_onnx, export_saved_model
from busseg.export.raw_graph import raw_function
from busseg.inference.predictor import Predictor

# Larger than the square and smaller, upright and lying, a row of pixels, and the square itself.
SHAPES = [(471, 562), (700, 90), (20, 13), (5, 300), (1, 40), (32, 32), (33, 32), (64, 64)]


def noise(*shape):
    """Smooth noise, uint8: white noise would be all grey once it is shrunk."""
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return cv2.GaussianBlur(pixels, (0, 0), 2).reshape(shape)


@pytest.fixture(scope="module")
def raw(told_model):
    return raw_function(told_model)


# Where an area's mean lies between two grey levels, the one or the other may be taken: 1 / 255 in the map.
@pytest.mark.parametrize("shape", SHAPES)
def test_raw_answers_as_the_predictor(told_model, raw, shape):
    image = noise(*shape)
    expected, found = Predictor(told_model).predict(image), raw(image[..., None])
    assert found["mask"].dtype == np.uint8
    assert found["mask"].shape == shape
    np.testing.assert_allclose(found["probability_map"], expected.probability_map, atol=1.01 / 255)
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1 / 255)
    np.testing.assert_array_equal(found["mask"], found["probability_map"].numpy() >= 0.5)
    assert abs(found["uncertainty"] - expected.uncertainty) <= 1 / 255
    assert abs(found["ood_score"] - expected.ood_score) <= 2 / 255


def test_colours_are_turned_to_luma_as_in_image_files(raw):
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    expected = np.rint(255 * raw(grey[..., None])["probability_map"].numpy())
    np.testing.assert_array_equal(expected, grey)
    np.testing.assert_array_equal(np.rint(255 * raw(colours)["probability_map"].numpy()), grey)


def test_transparency_is_passed_over(raw):
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    np.testing.assert_array_equal(raw(colours)["probability_map"], raw(colours[..., :3])["probability_map"])


@pytest.fixture(scope="module")
def tissue_model():
    """A histology classifier of how red an image is: (1 - red, red), `red` of 0..1 in the mean."""
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    label = keras.layers.Dense(2, name="label")
    model = keras.Model(image, {"label": label(x)})
    label.set_weights([np.float32([[-1, 1], [0, 0], [0, 0]]), np.float32([1, 0])])
    return model


def test_histology_model_takes_colour(tissue_model):
    image = noise(40, 40, 3)
    found = raw_function(tissue_model)(image)
    assert list(found) == ["probabilities"]
    np.testing.assert_allclose(found["probabilities"], Predictor(tissue_model).predict(image).probabilities, atol=2e-3)
    assert abs(found["probabilities"][1] - image[..., 0].mean() / 255) < 5e-3


def test_histology_model_refuses_grey(tissue_model):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[40,40,1\]"):
        raw_function(tissue_model)(noise(40, 40, 1))


# Run where busseg is not.
SAVED_MODEL = """
import sys, numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
found = serve(image=tf.constant(np.load(sys.argv[2])))
np.savez(sys.argv[3], **{name: values.numpy() for name, values in found.items()})
assert "busseg" not in sys.modules
"""
ONNX = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
found = session.run(None, {"image": np.load(sys.argv[2])})
np.savez(sys.argv[3], **{one.name: values for one, values in zip(session.get_outputs(), found)})
assert not {"busseg", "keras", "tensorflow"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("export", "name", "script"), [(export_saved_model, "raw", SAVED_MODEL), (export_onnx, "raw.onnx", ONNX)]
)
def test_a_server_needs_nothing_of_ours_and_the_predictor_says_so(tmp_path, tiny_run, export, name, script):
    assert export(tiny_run, tmp_path / name, raw=True) <= 1e-3
    image, _ = draw_phantom("malignant", seed=1)
    np.save(tmp_path / "image.npy", image[..., None])
    done = subprocess.run(
        [sys.executable, "-c", script, name, "image.npy", "found.npz"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with pytest.raises(ValueError, match=rf"^Expected a model of one square .* a raw export, .*: .*{name}$"):
        Predictor(tmp_path / name)
    expected = Predictor(tiny_run).predict(image)
    with np.load(tmp_path / "found.npz") as found:
        assert sorted(found) == ["mask", "probabilities", "probability_map"]
        np.testing.assert_allclose(found["probability_map"], expected.probability_map, atol=1e-3)
        np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-3)
        assert (found["mask"] == expected.mask).mean() >= 0.999


# === Readers of the SavedModel other than `tf.saved_model.load`, which know the variables by their table alone ===
@pytest.fixture(scope="module")
def raw_saved_model(tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("raw") / "raw"
    export_saved_model(tiny_run, folder, raw=True)
    return folder


@pytest.fixture(scope="module")
def malignant(tiny_run):
    """A phantom, `(height, width, 1)`, and its map of probabilities by the source."""
    image, _ = draw_phantom("malignant", seed=1)
    return image[..., None], Predictor(tiny_run).predict(image).probability_map


def test_loader_of_tensorflow_1_answers(raw_saved_model, malignant):
    image, expected = malignant
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(raw_saved_model))
        ends = graph.signature_def["serving_default"]
        found = session.run(ends.outputs["probability_map"].name, {ends.inputs["image"].name: image})
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_saved_model_cli_answers(tmp_path, raw_saved_model, malignant):
    image, expected = malignant
    np.save(tmp_path / "image.npy", image)
    program = shutil.which("saved_model_cli", path=Path(sys.executable).parent) or pytest.skip("needs saved_model_cli")
    command = [program, "run", "--dir", raw_saved_model, "--tag_set", "serve", "--signature_def", "serving_default"]
    command += ["--inputs", f"image={tmp_path / 'image.npy'}", "--outdir", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "probability_map.npy"), expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_c_api_answers(tmp_path, raw_saved_model, malignant):
    image, expected = malignant
    image.tofile(tmp_path / "pixels")
    home, source = Path(tf.__file__).parent, Path(__file__).with_name("c_api.c")
    build = ["gcc", source, "-o", tmp_path / "c_api", f"-I{home / 'include'}", *home.glob("libtensorflow_*.so.2")]
    subprocess.run([*build, f"-Wl,-rpath,{home},--allow-shlib-undefined"], check=True)
    sides = map(str, image.shape[:2])
    subprocess.run([tmp_path / "c_api", raw_saved_model, tmp_path / "pixels", *sides, tmp_path / "map"], check=True)
    found = np.fromfile(tmp_path / "map", np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-3)
