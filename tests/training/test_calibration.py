import numpy as np
import pytest

from busseg.training.calibration import apply_temperature, fit_temperature


def overconfident(images=20_000, temperature=2.0):
    """Probabilities of a model whose logits are `temperature` times too large, and the classes that came true."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (images, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < random.random((images, 1))).sum(axis=1)
    powers = np.exp(logits * temperature)
    return powers / powers.sum(axis=1, keepdims=True), labels


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


def test_few_images_move_a_believed_temperature_little_and_many_far():
    few, many = (overconfident(images, temperature=4.0) for images in (4, 20_000))
    alone, believed = fit_temperature(*few), fit_temperature(*few, spread=0.2)
    assert abs(np.log(believed)) < abs(np.log(alone))
    assert abs(np.log(believed)) < 0.4
    assert fit_temperature(*many, spread=0.2) == pytest.approx(4, rel=0.05)


def test_images_that_are_all_right_do_not_make_a_believed_temperature_extreme():
    probabilities = np.full((10, 2), (0.9, 0.1))
    assert fit_temperature(probabilities, np.zeros(10, int)) == pytest.approx(0.1, rel=0.01)  # the least allowed
    assert fit_temperature(probabilities, np.zeros(10, int), spread=0.5) > 0.5
