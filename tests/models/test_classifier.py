import keras
import numpy as np
import pytest

from busseg.models.attention import CBAM
from busseg.models.classifier import build_classifier

SIZE = 64


@pytest.fixture(scope="module")
def tissue():
    return np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)


def answer(model, images):
    return keras.ops.convert_to_numpy(model(images)["label"])


def attentions(model):
    return [layer for layer in model.layers if isinstance(layer, CBAM)]


@pytest.mark.parametrize(
    ("encoder", "classes"),
    [
        ("plain", 2),
        ("plain", 8),
        ("efficientnet_lite0", 8),
        pytest.param("efficientnet_lite0", 2, marks=pytest.mark.slow),
        pytest.param("densenet121", 2, marks=pytest.mark.slow),
        pytest.param("densenet121", 8, marks=pytest.mark.slow),
    ],
)
def test_answers_are_probabilities_of_the_classes(tissue, encoder, classes):
    model = build_classifier(SIZE, classes, encoder, width=4)
    assert set(model.output) == {"label"}
    label = answer(model, tissue)
    assert label.shape == (2, classes)
    np.testing.assert_allclose(label.sum(axis=1), 1, rtol=1e-5)


def test_colour_matters(tissue):
    keras.utils.set_random_seed(0)
    model = build_classifier(SIZE, encoder="plain", width=4)
    assert np.abs(answer(model, tissue) - answer(model, tissue[..., ::-1])).max() > 1e-4


def test_attention_is_on_the_two_coarsest_maps_and_nowhere_without_it():
    keras.utils.set_random_seed(0)
    looking = build_classifier(SIZE, encoder="efficientnet_lite0", depth=2)
    assert [layer.input.shape[1:] for layer in attentions(looking)] == [(16, 16, 24), (8, 8, 40)]
    plain = build_classifier(SIZE, encoder="efficientnet_lite0", depth=2, cbam=False)
    assert not attentions(plain)
    # Of c channels narrowed sixteen times: two dense layers with biases, and a 7x7 convolution of two maps.
    added = sum(2 * c * (c // 16) + c // 16 + c + 2 * 49 for c in (24, 40))
    assert looking.count_params() - plain.count_params() == added


def test_saved_network_answers_the_same_and_learns(tissue, tmp_path):
    keras.utils.set_random_seed(0)
    model = build_classifier(SIZE, encoder="plain", width=4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(answer(loaded, tissue), answer(model, tissue))

    before = [keras.ops.convert_to_numpy(v) for v in loaded.trainable_variables]
    loaded.compile("adam", {"label": "categorical_crossentropy"}, run_eagerly=True)
    loaded.train_on_batch(tissue, {"label": np.eye(2, dtype=np.float32)})
    moved = [
        not np.array_equal(old, keras.ops.convert_to_numpy(v)) for old, v in zip(before, loaded.trainable_variables)
    ]
    kernels = [change for change, v in zip(moved, loaded.trainable_variables) if v.name == "kernel"]
    assert all(kernels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 100}, "The nearest is 96"),
        ({"classes": 1}, "`classes` must be >= 2"),
        ({"dropout": 1.0}, "`dropout` must be in"),
        ({"depth": 0}, "`depth` must be >= 1"),
        ({"encoder": "vgg"}, "`encoder` must be one of plain, efficientnet_lite0"),
        ({"frozen": 6}, r"`frozen` must be in \[0, 5\]"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_classifier(**{"image_size": SIZE, "encoder": "efficientnet_lite0"} | options)
