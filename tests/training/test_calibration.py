import numpy as np
import pytest

from busseg.models.unet import build_unet
from busseg.training.calibration import apply_temperature, fit_novelty, fit_temperature, measure_novelty


def overconfident(images=20_000, temperature=2.0):
    """Probabilities of a model whose logits are `temperature` times too large, and the classes that came true."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (images, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < random.random((images, 1))).sum(axis=1)
    told = np.exp(logits * temperature)
    return told / told.sum(axis=1, keepdims=True), labels


# === Temperature ===
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_is_what_the_logits_are_too_large_by(temperature):
    assert fit_temperature(*overconfident(temperature=temperature)) == pytest.approx(temperature, rel=0.03)


def test_temperature_divides_logits():
    found = apply_temperature(np.array([[0.9, 0.09, 0.01]]), 2)
    roots = np.sqrt([0.9, 0.09, 0.01])
    np.testing.assert_allclose(found, [roots / roots.sum()])


def test_sure_and_wrong_has_a_temperature_too():
    probabilities = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    assert fit_temperature(probabilities, np.array([0, 1, 0])) > 1
    assert np.isfinite(apply_temperature(probabilities, 5)).all()


# === Novelty ===
@pytest.fixture(scope="module")
def network():
    import keras

    keras.utils.set_random_seed(0)
    return build_unet(image_size=32, width=4, depth=2)


def test_known_images_are_at_a_median_distance_of_one(network, phantom_samples):
    found = fit_novelty(network, phantom_samples, "card")
    assert [array.shape for array in found] == [(24,), (24, 24)]
    assert {array.dtype for array in found} == {np.dtype(np.float32)}
    assert np.median(measure_novelty(network, phantom_samples, *found)) == pytest.approx(1, abs=0.01)


def test_foreign_image_is_further_than_known_ones(network, phantom_samples, tmp_path):
    from dataclasses import replace

    from busseg.data.images import write_image

    stripes = np.tile(np.uint8([0, 255] * 32), (64, 1))
    write_image(tmp_path / "stripes.png", stripes)
    write_image(tmp_path / "mask.png", 0 * stripes)
    foreign = replace(phantom_samples[0], image=tmp_path / "stripes.png", masks=(tmp_path / "mask.png",))
    found = fit_novelty(network, phantom_samples, "card")
    known = measure_novelty(network, phantom_samples, *found)
    assert measure_novelty(network, [foreign], *found)[0] > 1.5 * known.max()
