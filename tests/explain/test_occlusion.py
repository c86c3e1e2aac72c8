import numpy as np
import pytest

from busseg.explain.occlusion import occlusion
from busseg.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(echo_model):
    return Predictor(echo_model)


def lit(height, width, rows, columns):
    """A dark image with one bright rectangle."""
    image = np.zeros((height, width), np.uint8)
    image[slice(*rows), slice(*columns)] = 200
    return image


def test_one_patch_has_the_drop_of_blurring_it(predictor):
    # A single bell in the middle of the square, half as strong 16 px from it. The model's benign is mean / 255.
    profile = np.repeat([0, 1, 0], [12, 8, 12])
    blurred = np.convolve(profile, np.ones(11) / 11, "same")  # 2 * (32 // 6) + 1
    bell = 0.5 ** np.square((np.arange(32) + 0.5 - 16) / 16)
    change = 200 * (np.outer(profile, profile) - np.outer(blurred, blurred))
    expected = np.mean(np.outer(bell, bell) * change) / 255
    image = lit(32, 32, (12, 20), (12, 20))
    for label, drop in (("benign", expected), ("normal", -expected)):
        found = occlusion(predictor, image, label, patch=1, steps=1)
        np.testing.assert_allclose(found, drop, atol=3e-4)  # what is covered is rounded to grey levels
    assert expected > 2e-3


def test_heat_peaks_where_the_class_depends_on(predictor):
    heat = occlusion(predictor, lit(60, 80, (10, 20), (50, 60)), "benign")
    assert (heat.shape, heat.dtype) == ((60, 80), np.float32)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 10 <= row < 20
    assert 50 <= column < 60


def test_predicted_class_is_explained_by_default(predictor):
    image = lit(32, 32, (8, 16), (8, 16))
    assert predictor.predict(image).label == "normal"
    np.testing.assert_array_equal(occlusion(predictor, image), occlusion(predictor, image, "normal"))


@pytest.mark.parametrize(("height", "width", "passes"), [(60, 80, 8 * 10), (80, 80, 10 * 10), (3, 400, 10)])
def test_network_is_passed_once_a_patch(predictor, monkeypatch, height, width, passes):
    batches = []
    whole = predictor.try_batch
    monkeypatch.setattr(predictor, "try_batch", lambda images: batches.append(len(images)) or whole(images))
    occlusion(predictor, lit(height, width, (0, 2), (0, 2)))
    assert sum(batches) == 1 + passes  # and once for the image as it is


@pytest.mark.parametrize("wrong", [{"label": "cyst"}, {"patch": 0}, {"patch": 1.5}, {"patch": 0.05, "steps": 10}])
def test_wrong_arguments_are_refused(predictor, wrong):
    with pytest.raises(ValueError, match=r"^Expected a (label|patch) "):
        occlusion(predictor, lit(32, 32, (0, 9), (0, 9)), **wrong)
