"""The model that comes with the package."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest

import busseg
from busseg.data.fingerprints import FINGERPRINTS, knows, read_fingerprints
from busseg.data.phantom import draw_phantom
from busseg.data.readers.busi import find_samples
from busseg.data.splits import train_on_all
from busseg.imaging.images import fit_to_square, read_image, read_mask, write_image
from busseg.inference.metadata import read_metadata
from busseg.inference.predictor import PACKAGED, Predictor
from busseg.inference.runtimes import load


@pytest.fixture(scope="module", params=PACKAGED)
def predictor(request):
    return Predictor(request.param)


@pytest.mark.parametrize(("name", "most"), [("best", 16 * 2**20), ("small", 2_000_000)])
def test_model_is_small_enough_to_ship(name, most):
    assert PACKAGED[name].stat().st_size <= most


@pytest.mark.parametrize("engine", [cv2.dnn.ENGINE_CLASSIC, cv2.dnn.ENGINE_NEW], ids=["classic", "new"])
def test_opencv_answers_as_onnx_runtime_does(predictor, engine):
    network = cv2.dnn.readNetFromONNX(str(PACKAGED[predictor.name]), engine)
    for label in predictor.classes:
        image, _ = draw_phantom(label, seed=0)
        square = fit_to_square(image, predictor.image_size).astype(np.float32)[None, ..., None]
        network.setInput(square)
        expected, _, _ = load(PACKAGED[predictor.name])
        for name, values in expected(square).items():
            np.testing.assert_allclose(network.forward(name).reshape(values.shape), values, atol=1e-5, err_msg=name)


def test_file_has_its_metadata_and_names_its_batch(predictor):
    model = onnx.load(PACKAGED[predictor.name])
    metadata = json.loads({one.key: one.value for one in model.metadata_props}["busseg"])
    assert len(read_fingerprints(metadata, "model")) == 2042  # images: 761 of BUSI, 1,089, 192
    metadata.pop("operating_points", None)
    del metadata[FINGERPRINTS]
    expected = {"task": "ultrasound", "classes": ["normal", "benign", "malignant"], "threshold": 0.5}
    assert metadata == {"busseg": busseg.__version__, "image_size": predictor.image_size, **expected}
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.shape.dim[0].dim_param for end in ends} == {"batch"}


def test_best_answers_where_no_other_is_named():
    image, _ = draw_phantom("benign", seed=0)
    expected = Predictor("best").predict(image)
    np.testing.assert_array_equal(Predictor().predict(image).probability_map, expected.probability_map)
    np.testing.assert_array_equal(Predictor(PACKAGED["best"]).predict(image).probability_map, expected.probability_map)


def test_answers_are_whole(predictor):
    image, _ = draw_phantom("benign", seed=0)
    prediction = predictor.predict(image)
    assert prediction.mask.shape == image.shape
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert 0 <= prediction.uncertainty <= 1
    assert prediction.mask.any() == (prediction.label != "normal")


def test_mirrored_image_has_the_mirrored_answer(predictor):
    image, _ = draw_phantom("malignant", seed=1)
    here, there = predictor.predict_batch([image, np.ascontiguousarray(image[:, ::-1])])
    np.testing.assert_allclose(there.probability_map[:, ::-1], here.probability_map, atol=1e-3)
    np.testing.assert_allclose(there.probabilities, here.probabilities, atol=1e-4)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "page", "text", "brick", "moon"])
def test_photographs_and_pages_are_flagged(predictor, tmp_path, name):
    data = pytest.importorskip("skimage.data")
    write_image(tmp_path / "photograph.png", getattr(data, name)())
    assert not predictor.predict(tmp_path / "photograph.png").in_distribution


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_blank_frames_and_noise_are_flagged(predictor, grey):
    blank = np.full((400, 500), grey, np.uint8)
    noise = np.random.default_rng(grey).integers(0, 256, (400, 500), np.uint8)
    assert not any(prediction.in_distribution for prediction in predictor.predict_batch([blank, noise]))


def test_busi_is_read_and_mostly_right(predictor, busi_folder):
    """It was trained on these; an error here would be a fault of the export, not of the training."""
    samples = find_samples(busi_folder)[::26]
    predictions = predictor.predict_batch([sample.image for sample in samples])
    assert np.mean([p.label == sample.label for p, sample in zip(predictions, samples, strict=True)]) > 0.9
    assert all(prediction.in_distribution for prediction in predictions)
    overlaps = []
    for prediction, sample in zip(predictions, samples, strict=True):
        lesion = read_mask(sample.masks, read_image(sample.image).shape)
        if lesion.any():
            overlaps.append(2 * (lesion & prediction.mask).sum() / (lesion.sum() + prediction.mask.sum()))
    assert np.mean(overlaps) > 0.8


def test_busi_but_the_groups_of_several_classes_is_known(predictor, busi_folder):
    samples = find_samples(busi_folder)
    trained = {sample.name for sample in train_on_all(samples).train}
    fingerprints = read_fingerprints(read_metadata(predictor.path), predictor.path)
    chosen = [*samples[::26], *(sample for sample in samples if sample.name not in trained)]
    found = [knows(fingerprints, read_image(sample.image)) for sample in chosen]
    assert found == [sample.name in trained for sample in chosen]


def test_command_answers_without_tensorflow_or_keras(tmp_path):
    image, _ = draw_phantom("malignant", seed=2)
    write_image(tmp_path / "scan.png", image)
    code = (
        "import sys\n"
        "from busseg.cli import app\n"
        f"app(['predict', {str(tmp_path / 'scan.png')!r}, '--out', {str(tmp_path / 'out')!r}], standalone_mode=False)\n"
        "print('heavy:', sorted({'tensorflow', 'keras', 'torch', 'sklearn', 'albumentations'} & sys.modules.keys()))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")
    assert (tmp_path / "out/scan_mask.png").is_file()


def test_nothing_is_reported_and_no_number_of_the_machine_is_kept(tmp_path):
    """ONNX Runtime would do both; where it is kept from it, it leaves no file."""
    code = "from busseg.inference.predictor import Predictor; Predictor()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME"), str(tmp_path))
    del environment["ORT_DISABLE_TELEMETRY"]
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
