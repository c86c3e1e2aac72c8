import numpy as np
import pytest

from busseg.inference.batch import predict_files
from busseg.inference.inputs import find_inputs
from busseg.inference.predictor import Predictor


@pytest.fixture(scope="session")
def predictor(echo_model):
    return Predictor(echo_model)


@pytest.fixture(scope="session")
def predict():
    """Function that returns the rows of the predictions of files and folders."""

    def predict(predictor, *paths, out, **options):
        return list(predict_files(predictor, find_inputs(paths), out, **options))

    return predict


@pytest.fixture(scope="session")
def region():
    """Left, top, width and height: the size of the model's square, so that nothing is resized."""
    return 20, 10, 32, 32


@pytest.fixture(scope="session")
def spacing_cm():
    """A pixel is 0.2 mm wide and 0.1 mm high: 0.02 mm2."""
    return 0.02, 0.01


@pytest.fixture(scope="session")
def frame_with(region):
    """Function that returns a frame of 50 x 60 pixels.

    In its region the first `white` rows are white, around it all is grey.
    """

    def frame_with(white, around=0):
        frame = np.full((50, 60), around, np.uint8)
        left, top, width, height = region
        frame[top : top + height, left : left + width] = 0
        frame[top : top + white, left : left + width] = 255
        return frame

    return frame_with


@pytest.fixture
def clip(tmp_path, write_scan, frame_with, region, spacing_cm):
    """A clip of three frames: 8, 24 and 32 of 32 rows are white, so that `echo_model` says normal, benign, benign."""
    pixels = np.stack([frame_with(8), frame_with(24), frame_with(32)])
    return write_scan(tmp_path / "s/clip.dcm", pixels, region, spacing_cm)
