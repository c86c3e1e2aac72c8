import numpy as np
import pytest

from busseg.inference.occlusion import occlusion
from busseg.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(echo_model):
    return Predictor(echo_model)


def lit(height, width, rows, columns):
    """A dark image with one bright rectangle."""
    image = np.zeros((height, width), np.uint8)
    image[slice(*rows), slice(*columns)] = 200
    return image


def test_one_patch_tells_how_far_the_mean_grey_is_from_what_it_covers(predictor):
    # A single bell in the middle of the square, half as strong 16 px from it. The model's benign is mean / 255.
    image = lit(32, 32, (8, 24), (8, 24))
    bell = 0.5 ** np.square((np.arange(32) + 0.5 - 16) / 16)
    expected = np.mean(np.outer(bell, bell) * (image - 50.0)) / 255  # 200 on a quarter of the image: mean 50
    found = occlusion(predictor, image, "benign", patch=1, steps=1)
    np.testing.assert_allclose(found, expected, atol=1e-3)  # what is covered is rounded to grey levels
    np.testing.assert_allclose(occlusion(predictor, image, "normal", patch=1, steps=1), -expected, atol=1e-3)
    assert expected > 0.04


def test_heat_peaks_where_the_class_is_told_by(predictor):
    heat = occlusion(predictor, lit(60, 80, (10, 20), (50, 60)), "benign")
    assert (heat.shape, heat.dtype) == ((60, 80), np.float32)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 10 <= row < 20
    assert 50 <= column < 60


def test_predicted_class_is_asked_for_unless_told(predictor):
    image = lit(32, 32, (8, 16), (8, 16))
    assert predictor.predict(image).label == "normal"
    np.testing.assert_array_equal(occlusion(predictor, image), occlusion(predictor, image, "normal"))


@pytest.mark.parametrize(("height", "width", "passes"), [(60, 80, 9 * 12), (80, 80, 12 * 12), (3, 400, 12)])
def test_network_is_passed_once_a_patch(predictor, monkeypatch, height, width, passes):
    batches = []
    whole = predictor.predict_batch
    monkeypatch.setattr(predictor, "predict_batch", lambda images: batches.append(len(images)) or whole(images))
    occlusion(predictor, lit(height, width, (0, 2), (0, 2)))
    assert sum(batches) == 1 + passes  # and once for the image as it is


@pytest.mark.parametrize("wrong", [{"label": "cyst"}, {"patch": 0}, {"patch": 1.5}, {"patch": 0.05, "steps": 10}])
def test_wrong_arguments_are_refused(predictor, wrong):
    with pytest.raises(ValueError, match=r"^Expected a (label|patch) "):
        occlusion(predictor, lit(32, 32, (0, 9), (0, 9)), **wrong)
