import keras
import numpy as np
import pytest

from busseg.models.serving import (
    add_ood_score,
    add_uncertainty,
    average,
    make_mask_follow_class,
    network_inside,
    set_temperature,
    texture_features,
)
from busseg.models.unet import build_unet

SIZE = 32


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 1)).astype(np.float32)


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    model = build_unet(image_size=SIZE, width=4, depth=2)
    random = np.random.default_rng(3)
    model.set_weights([weight + random.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
    return model


def saying(mask, label):
    """A network that answers with a lesion of `mask(image)` and the classes of `label(image)`."""
    image = keras.Input((4, 4, 1))
    return keras.Model(image, {"mask": mask(image), "label": label(image)}, name="saying")


def left_mean(image):
    return keras.ops.mean(image[:, :, :2], axis=(1, 2))


# === The mirror ===
def test_answer_is_the_mean_of_an_image_and_its_mirror_image(network, images, answers):
    here, there = answers(network, images), answers(network, images[:, :, ::-1])
    mean = answers(average(network, flip_tta=True), images)
    np.testing.assert_allclose(mean["mask"], (here["mask"] + there["mask"][:, :, ::-1]) / 2, atol=1e-6)
    product = np.sqrt(here["label"] * there["label"])  # the mean of logits, before it is scaled to a sum of 1
    np.testing.assert_allclose(mean["label"], product / product.sum(1, keepdims=True), atol=1e-6)


def test_mirrored_image_has_the_mirrored_answer(network, images, answers):
    model = average(network, flip_tta=True)
    here, there = answers(model, images), answers(model, images[:, :, ::-1])
    np.testing.assert_allclose(here["mask"], there["mask"][:, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(here["label"], there["label"], atol=1e-6)


def test_networks_of_several_sizes_answer_at_the_first_ones(network, images, answers):
    image = keras.Input((SIZE // 2, SIZE // 2, 1))
    label = keras.ops.softmax(keras.ops.mean(image, axis=(1, 2)) * np.float32([0.01, 0.02, 0]))
    smaller = keras.Model(image, {"mask": image / 255, "label": label}, name="smaller")
    flat = np.broadcast_to(images.mean((1, 2, 3), keepdims=True), images.shape)  # the same at any size
    alone, other = answers(average(network, flip_tta=True), flat), answers(smaller, flat[:, ::2, ::2])
    both = answers(average(network, smaller, flip_tta=True), flat)
    np.testing.assert_allclose(both["mask"], (alone["mask"] + other["mask"].repeat(2, 1).repeat(2, 2)) / 2, atol=1e-5)
    product = np.sqrt(alone["label"] * other["label"])
    np.testing.assert_allclose(both["label"], product / product.sum(1, keepdims=True), atol=1e-5)


def test_mean_of_networks_without_mirror_image_is_that_of_their_answers(network, images, answers):
    smaller = keras.models.clone_model(network)
    here, there = answers(network, images), answers(smaller, images)
    both = answers(average(network, smaller), images)
    np.testing.assert_allclose(both["mask"], (here["mask"] + there["mask"]) / 2, atol=1e-6)
    product = np.sqrt(here["label"] * there["label"])
    np.testing.assert_allclose(both["label"], product / product.sum(1, keepdims=True), atol=1e-6)


# === Uncertainty ===
@pytest.mark.parametrize(
    ("pixels", "label", "expected"),
    [
        ([0.2, 0.4, 0.6, 0.8], [0.05, 0.15, 0.8], 0.3),  # those inside have a mean of 0.7; the class has 0.8
        ([0.2, 0.4, 0.9, 0.9], [0.05, 0.15, 0.8], 0.2),
        ([0.2, 0.4, 0.4, 0.4], [0.05, 0.15, 0.8], 1.0),  # a lesion, and nowhere
        ([0.2, 0.4, 0.6, 0.8], [0.8, 0.15, 0.05], 0.2),  # no lesion, so no place to be wrong about
    ],
)
def test_uncertainty_is_what_the_less_certain_answer_lacks(pixels, label, expected, answers):
    probabilities = keras.ops.convert_to_tensor(np.float32([label]))
    model = saying(lambda x: 1 * x, lambda x: 0 * left_mean(x) + probabilities)
    image = np.float32(pixels * 4).reshape(1, 4, 4, 1)
    assert answers(add_uncertainty(model), image)["uncertainty"] == pytest.approx(expected, abs=1e-6)


# === Mask and class ===
@pytest.fixture
def answering(answers):
    """Function that returns what `make_mask_follow_class` makes of a mask that rises to `peak`, and of a label."""

    def answering(peak, label):
        image = np.float32([0, 0.25, 0.5, 1] * 4).reshape(1, 4, 4, 1) * peak
        probabilities = keras.ops.convert_to_tensor(np.float32([label]))
        model = saying(lambda x: 1 * x, lambda x: 0 * left_mean(x) + probabilities)
        return answers(make_mask_follow_class(model), image)["mask"][0, 0, :, 0]

    return answering


@pytest.mark.parametrize(
    ("peak", "label", "expected"),
    [
        (0.8, [0.2, 0.5, 0.3], [0, 0.25, 0.5, 1]),  # a lesion: divided by 0.8
        (0.4, [0.2, 0.3, 0.5], [0, 0.25, 0.5, 1]),
        (0.02, [0.2, 0.3, 0.5], [0, 0.05, 0.1, 0.2]),  # nothing to be seen: ten times as much is still nothing
        (0.8, [0.5, 0.3, 0.2], [0, 0.1225, 0.245, 0.49]),  # none
        (0.4, [0.5, 0.3, 0.2], [0, 0.1, 0.2, 0.4]),
    ],
)
def test_mask_agrees_with_the_class(answering, peak, label, expected):
    np.testing.assert_allclose(answering(peak, label), expected, atol=1e-6)


# === Temperature ===
def test_temperature_divides_the_logits_of_the_mean_too(network, images, answers):
    before = answers(average(network, flip_tta=True), images)["label"]
    set_temperature(network, 2.5)
    after = answers(average(network, flip_tta=True), images)["label"]
    expected = before ** (1 / 2.5)
    np.testing.assert_allclose(after, expected / expected.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("flip_tta", [False, True])
def test_model_built_around_networks_passes_its_temperature_on_to_each(network, images, flip_tta, answers):
    other = build_unet(image_size=SIZE, width=4, depth=2)
    model = make_mask_follow_class(add_uncertainty(average(network, other, flip_tta=flip_tta)))
    before = answers(model, images)["label"]
    set_temperature(model, 2.5)
    expected = before ** (1 / 2.5)
    np.testing.assert_allclose(answers(model, images)["label"], expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_temperature_below_or_at_zero_is_refused(network):
    with pytest.raises(ValueError, match=r"^`temperature` must be > 0. Received: temperature=0$"):
        set_temperature(network, 0)


# === Novelty ===
@pytest.mark.parametrize("decoder", ["concat", "add"])
def test_texture_is_mean_and_deviation_of_the_two_coarsest_skips(images, decoder):
    network = build_unet(image_size=SIZE, width=4, depth=3, decoder=decoder)
    skips = [network.get_layer(f"encoder{level}_relu2").output for level in (1, 2)]
    maps = [keras.ops.convert_to_numpy(x) for x in keras.Model(network.input, skips)(images)]
    expected = np.concatenate([moment(x, axis=(1, 2)) for x in maps for moment in (np.mean, np.std)], axis=1)
    found = keras.ops.convert_to_numpy(texture_features(network)(images))
    assert found.shape == (3, 2 * (8 + 16))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_network_of_one_skip_has_a_texture_too(images):
    assert texture_features(build_unet(image_size=SIZE, width=4, depth=1))(images).shape == (3, 2 * 4)


def test_ood_score_is_the_distance_in_whitened_features(network, images, answers):
    features = keras.ops.convert_to_numpy(texture_features(network)(images))
    random = np.random.default_rng(1)
    mean, whitening = random.normal(size=24).astype(np.float32), random.normal(size=(24, 5)).astype(np.float32)
    model = add_ood_score(network, mean, whitening)
    found = answers(model, images)
    expected = np.linalg.norm((features - mean) @ whitening, axis=1, keepdims=True)
    np.testing.assert_allclose(found["ood_score"], expected, rtol=1e-4)
    for name, values in answers(network, images).items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("build", [lambda x: x, add_uncertainty, average])
def test_network_is_found_inside_every_wrapper(network, images, build, answers):
    found = answers(network_inside(make_mask_follow_class(build(network))), images)
    expected = answers(network, images)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_all_of_it_is_saved_and_loaded(network, images, answers, tmp_path):
    set_temperature(network, 2)
    model = make_mask_follow_class(
        add_uncertainty(
            average(add_ood_score(network, np.zeros(24, np.float32), np.eye(24, dtype=np.float32)), flip_tta=True)
        )
    )
    expected = answers(model, images)
    assert set(expected) == {"mask", "label", "uncertainty", "ood_score"}
    model.save(tmp_path / "model.keras")
    for name, values in answers(keras.models.load_model(tmp_path / "model.keras"), images).items():
        np.testing.assert_array_equal(values, expected[name])
