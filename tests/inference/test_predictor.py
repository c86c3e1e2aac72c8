import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.data.task import Task
from busseg.data.tissue import draw_tissue
from busseg.export.formats import FORMATS
from busseg.imaging.images import write_image
from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import load_keras
from busseg.models.classifier import build_classifier
from busseg.models.serving import add_ood_score, add_uncertainty, average, texture_features


@pytest.fixture(scope="module")
def echo(echo_model):
    return Predictor(echo_model)


STORED = {"saved_model": "saved-model", "onnx": "model.onnx", "litert": "model.tflite", "openvino": "openvino"}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def assert_same(one, other, tolerance=1e-5):
    assert one.label == other.label
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=tolerance)
    np.testing.assert_allclose(one.probability_map, other.probability_map, atol=tolerance)


# === One face for every format ===
def test_every_format_answers_as_the_keras_model(tiny_run, tiny_exports):
    stored = [tiny_run, str(tiny_run), tiny_run / "model.keras"]
    stored += [*tiny_exports.values(), *map(str, tiny_exports.values())]
    source = Predictor(load_keras(tiny_run))
    images = [draw_phantom(label, seed=5)[0] for label in CLASSES]
    expected = source.predict_batch(images)
    for model in stored:
        predictor = Predictor(model)
        assert predictor.image_size == source.image_size == 32
        for one, other in zip(predictor.predict_batch(images), expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("format", ["onnx", "litert", "openvino"])
def test_runtimes_need_neither_tensorflow_nor_keras_and_keep_no_number_of_the_machine(tiny_exports, tmp_path, format):
    code = f"""
import sys
import numpy as np
from busseg.inference.predictor import Predictor

assert Predictor({str(tiny_exports[format])!r}).predict(np.zeros((40, 50), np.uint8)).mask.shape == (40, 50)
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    home = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []  # where OpenVINO's telemetry would keep an ID
    assert [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")] == []  # LiteRT prints a little


def test_path_and_pixels_answer_alike(echo, tmp_path):
    image = noise(40, 50)
    write_image(tmp_path / "a.png", image)
    for one in (echo.predict(tmp_path / "a.png"), echo.predict(str(tmp_path / "a.png"))):
        assert_same(one, echo.predict(image), tolerance=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # Keras, under NumPy 2
def test_uncertainty_and_ood_score_are_answered_by_every_format(tmp_path, tiny_run):
    network = load_keras(tiny_run)
    size = texture_features(network).output_shape[1]
    model = add_uncertainty(average(add_ood_score(network, np.zeros(size), np.eye(size)[:, :3]), flip_tta=True))
    model.save(tmp_path / "wrapped.keras")
    for format, name in STORED.items():
        FORMATS[format](tmp_path / "wrapped.keras", tmp_path / name)
    image = noise(40, 50)
    expected = Predictor(model).predict(image)
    assert expected.uncertainty > 0
    assert expected.ood_score > 0
    for name in ("wrapped.keras", *STORED.values()):
        prediction = Predictor(tmp_path / name).predict(image)
        assert_same(prediction, expected)
        assert prediction.uncertainty == pytest.approx(expected.uncertainty, abs=1e-5)
        assert prediction.ood_score == pytest.approx(expected.ood_score, rel=1e-5)


# === Tissue ===
@pytest.mark.slow
@pytest.mark.parametrize(("classes", "task", "formats"), [(2, "histology", list(FORMATS)), (8, "subtypes", ["onnx"])])
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # Keras, under NumPy 2
def test_histology_is_read_in_colour_and_has_no_mask(tmp_path, classes, task, formats):
    keras.utils.set_random_seed(0)
    build_classifier(32, classes, "plain", width=4, depth=2).save(tmp_path / "tissue.keras")
    for format in formats:
        FORMATS[format](tmp_path / "tissue.keras", tmp_path / STORED[format])
    image = draw_tissue("malignant", 200, patient=0, number=0)
    write_image(tmp_path / "a.png", image)
    expected = Predictor(tmp_path / "tissue.keras").predict(image)
    assert expected.label in Task(task).classes
    assert expected.probabilities.shape == (classes,)
    for name in ("mask", "probability_map", "lesion_px", "lesion_fraction", "contours", "box"):
        assert getattr(expected, name) is None
    for stored in ("tissue.keras", *(STORED[format] for format in formats)):
        predictor = Predictor(tmp_path / stored)
        assert (predictor.task, predictor.classes) == (task, Task(task).classes)
        prediction = predictor.predict(tmp_path / "a.png")
        np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-5)
        with pytest.raises(ValueError, match=r"^Expected colours .*, found grey values \(9, 9\) uint8;"):
            predictor.predict(np.zeros((9, 9), np.uint8))


# === Native size ===
@pytest.mark.parametrize("shape", [(32, 32), (320, 480), (64, 512), (512, 64), (20, 11), (1, 7), (1, 1)])
def test_maps_come_back_at_native_size(echo, shape):
    prediction = echo.predict(noise(*shape))
    assert prediction.mask.shape == prediction.probability_map.shape == shape
    assert prediction.mask.dtype == np.uint8
    assert prediction.probability_map.dtype == np.float32
    assert set(np.unique(prediction.mask)) <= {0, 1}
    assert 0 <= prediction.probability_map.min() <= prediction.probability_map.max() <= 1
    np.testing.assert_array_equal(prediction.mask, prediction.probability_map >= 0.5)


def test_image_of_the_square_comes_back_pixel_by_pixel(echo):
    image = noise(32, 32)
    prediction = echo.predict(image)
    np.testing.assert_allclose(prediction.probability_map, image / 255, atol=1e-6)
    np.testing.assert_array_equal(prediction.mask, image >= 128)  # 127 / 255 < 0.5 < 128 / 255


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (320, 320), (16, 8)])
def test_lesion_comes_back_where_it_lies(echo, shape):
    height, width = shape
    image = np.zeros(shape, np.uint8)
    image[height // 4 : height // 2, width // 2 : 3 * width // 4] = 200
    prediction = echo.predict(image)
    # Shrunk and grown again, the outline may shift by a pixel of the square, not more.
    margin = max(1, max(shape) // 32)
    inside, around = np.zeros(shape, bool), np.zeros(shape, bool)
    inside[height // 4 + margin : height // 2 - margin, width // 2 + margin : 3 * width // 4 - margin] = True
    around[height // 4 - margin : height // 2 + margin, width // 2 - margin : 3 * width // 4 + margin] = True
    assert prediction.mask[inside].all()
    assert not prediction.mask[~around].any()


# === Numbers ===
@pytest.mark.parametrize(
    ("grey", "label", "probabilities"),
    [
        (0, "normal", (1, 0, 0)),
        (51, "normal", (0.8, 0.2, 0)),
        (204, "benign", (0.2, 0.8, 0)),
    ],
)
def test_label_is_the_most_probable_class(echo, grey, label, probabilities):
    prediction = echo.predict(np.full((32, 32), grey, np.uint8))
    assert prediction.label == label
    np.testing.assert_allclose(prediction.probabilities, probabilities, atol=1e-6)


def test_what_is_not_the_image_counts_as_black(echo):
    # A white image of 64 x 32 fills half of the square, whose mean is then 1/2.
    np.testing.assert_allclose(echo.predict(np.full((64, 32), 255, np.uint8)).probabilities, (0.5, 0.5, 0), atol=1e-6)


def test_answer_that_is_no_number_is_an_error_of_its_image(torn_model):
    torn = Predictor(torn_model)
    fine, white = np.zeros((32, 32), np.uint8), np.full((32, 32), 255, np.uint8)
    message = "Expected finite numbers from the model torn, found an answer of others"
    first, error, last = torn.try_batch([fine, white, fine])
    assert (first.label, str(error), last.label) == ("normal", message, "normal")
    for ask in (lambda: torn.predict(white), lambda: torn.predict_batch([fine, white])):
        with pytest.raises(ValueError, match=f"^{message}$"):
            ask()


def test_lesion_area_counts_its_pixels(echo):
    image = np.zeros((32, 32), np.uint8)
    image[4:8, 10:20] = 255
    prediction = echo.predict(image)
    assert prediction.lesion_px == 4 * 10
    assert prediction.lesion_fraction == 40 / (32 * 32)
    assert type(prediction.lesion_px) is int


def test_batch_answers_as_one_by_one(tiny_run):
    predictor = Predictor(tiny_run)
    images = [noise(32, 32), noise(40, 90, 1), noise(200, 30, 2), draw_phantom("benign", 3)[0]]
    for one, image in zip(predictor.predict_batch(images), images, strict=True):
        assert one.mask.shape == image.shape
        assert_same(one, predictor.predict(image))


# === Refusing ===
@pytest.mark.parametrize("pixels", [np.zeros((8, 8), bool), np.zeros((3, 8, 8), np.uint8), b"text", 7, None])
def test_objects_that_are_no_image_are_refused(echo, pixels):
    for predict in (echo.predict, lambda image: echo.predict_batch([image])):
        with pytest.raises(ValueError, match=r"^Expected .*, found .*"):
            predict(pixels)
