import keras
import numpy as np
import pytest

from busseg.models.normalization import NORMALIZATIONS, normalize


def normalized(x, normalization, training=False, **options):
    features = keras.Input(x.shape[1:])
    model = keras.Model(features, normalize(features, normalization, "norm", **options))
    return model, keras.ops.convert_to_numpy(model(x, training=training))


def features(channels, count=3):
    return np.random.default_rng(0).normal(2, 3, (count, 4, 5, channels)).astype(np.float32)


def test_choices():
    assert NORMALIZATIONS == ("batch", "group", "none")


def test_none_gives_back_what_it_took():
    x = keras.Input((4, 4, 8))
    assert normalize(x, "none", "norm", epsilon=1e-3) is x


def test_batch_takes_each_channel_over_all_images():
    x = features(channels=6)
    model, y = normalized(x, "batch", training=True, epsilon=0.5)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 0.5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    # What it will use once trained moves a tenth of the way from 0 and 1.
    _, _, mean, variance = model.get_layer("norm").get_weights()
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(16, 8), (8, 8), (12, 4), (4, 4), (20, 4), (3, 1), (1, 1)],  # the greatest divisor that 8 has, too
)
def test_group_takes_groups_of_channels_of_each_image(channels, groups):
    x = features(channels)
    _, y = normalized(x, "group", epsilon=0.5)
    grouped = x.reshape(*x.shape[:-1], groups, channels // groups)
    mean, variance = (statistic((1, 2, 4), keepdims=True) for statistic in (grouped.mean, grouped.var))
    np.testing.assert_allclose(y, ((grouped - mean) / np.sqrt(variance + 0.5)).reshape(x.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_precision_is_passed_on(normalization):
    x = keras.Input((4, 4, 8))
    assert normalize(x, normalization, "norm", dtype="bfloat16").dtype == "bfloat16"
