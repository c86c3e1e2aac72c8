import shutil

import numpy as np
import pytest

from busseg.data.fingerprints import describe_fingerprints, read_fingerprints
from busseg.export.formats import FORMATS
from busseg.inference.metadata import read_metadata
from busseg.inference.operating_point import tabulate_thresholds
from busseg.inference.predictor import PACKAGED, Predictor
from busseg.inference.runtimes import load_keras
from busseg.storage.archives import add_metadata

FINGERPRINTS = np.arange(32, dtype=np.uint8).reshape(2, 16)
TABLE = tabulate_thresholds([0.0, 0.25, 0.5, 0.75])  # the echo model finds every image 0 malignant


@pytest.fixture(scope="module")
def marked(echo_file, tmp_path_factory):
    """The path of a Keras file that carries thresholds."""
    path = shutil.copy(echo_file, tmp_path_factory.mktemp("marked") / "marked.keras")
    add_metadata(path, {"operating_points": TABLE} | describe_fingerprints(FINGERPRINTS))
    return path


def test_keras_loads_a_file_that_carries_metadata(marked, echo_file):
    assert read_metadata(marked) == {"operating_points": TABLE} | describe_fingerprints(FINGERPRINTS)
    for one, other in zip(load_keras(marked).get_weights(), load_keras(echo_file).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_run_carries_what_its_model_does(marked, tmp_path):
    shutil.copy(marked, tmp_path / "model.keras")
    assert read_metadata(tmp_path) == read_metadata(marked)


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # tf2onnx, under NumPy 2
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_carries_the_thresholds_and_fingerprints_of_its_source(marked, tmp_path, format):
    out = tmp_path / f"marked{ {'onnx': '.onnx', 'litert': '.tflite'}.get(format, '') }"
    FORMATS[format](marked, out)
    metadata = read_metadata(out)
    assert metadata["operating_points"] == TABLE
    np.testing.assert_array_equal(read_fingerprints(metadata, out), FINGERPRINTS)
    assert metadata["task"] == "ultrasound"
    half = Predictor(out, sensitivity=0.5)  # 0.5 is reached by two of four
    assert half.operating_point.threshold == 0.5
    assert half.predict(np.zeros((32, 32), np.uint8)).malignant is False
    assert Predictor(out, sensitivity=0.9).predict(np.zeros((32, 32), np.uint8)).malignant is True  # 0 reaches 0


@pytest.mark.parametrize("format", FORMATS)
def test_export_of_a_model_without_thresholds_carries_none(tiny_exports, format):
    assert "operating_points" not in read_metadata(tiny_exports[format])


def test_model_without_metadata_gives_an_empty_dict(echo_file):
    assert read_metadata(echo_file) == {}


def test_shipped_models_tell_what_they_carry():
    for path in PACKAGED.values():
        assert isinstance(read_metadata(path), dict)


def test_model_without_thresholds_is_refused_by_its_name_with_what_to_do(echo_file, echo_model):
    for model, name in ((echo_file, echo_file), (echo_model, "echo")):
        with pytest.raises(ValueError, match=rf"found none: {name}; make one .*: busseg calibrate MODEL DATA --out"):
            Predictor(model, sensitivity=0.9)


def test_prediction_without_a_sensitivity_has_no_decision(marked):
    prediction = Predictor(marked).predict(np.zeros((32, 32), np.uint8))
    assert (prediction.malignant, prediction.sensitivity) == (None, None)
