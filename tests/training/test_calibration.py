import numpy as np
import pytest

from busseg.training.calibration import apply_temperature, fit_temperature


def overconfident(images=20_000, temperature=2.0):
    """Probabilities of a model whose logits are `temperature` times too large, and the classes that came true."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (images, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < random.random((images, 1))).sum(axis=1)
    told = np.exp(logits * temperature)
    return told / told.sum(axis=1, keepdims=True), labels


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
