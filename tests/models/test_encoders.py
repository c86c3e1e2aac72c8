import keras
import numpy as np
import pytest

from busseg.models.encoders import NORMALIZATIONS, conv_block, plain_encoder


def encoder(width=4, depth=2, normalization="batch", cbam=False):
    image = keras.Input((None, None, 1))
    return keras.Model(image, plain_encoder(image, width, depth, normalization, cbam))


def block(channels, filters, normalization="batch", cbam=False):
    x = keras.Input((None, None, channels))
    return keras.Model(x, conv_block(x, filters, normalization, cbam, name="block"))


def speckle(size, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (2, size, size, 1)).astype(np.float32)


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize(("width", "depth", "size"), [(4, 1, 32), (4, 4, 32), (3, 2, 20)])
def test_pyramid_halves_the_sides_and_doubles_the_filters(width, depth, size):
    features = encoder(width, depth)(speckle(size))
    expected = [(2, size // 2**level, size // 2**level, width * 2**level) for level in range(depth + 1)]
    assert [tuple(feature.shape) for feature in features] == expected


def test_grey_levels_are_rescaled_inside():
    model = encoder()
    rescaled = keras.Model(model.input, model.get_layer("rescaling").output)
    grey = np.float32([0, 51, 127.5, 255]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(numpy_of(rescaled(grey)).ravel(), [0, 0.2, 0.5, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("none", 808),  # (9 * 3 + 1) * 8 + (9 * 8 + 1) * 8
        ("group", 824),  # 9 * 3 * 8 + 9 * 8 * 8, and a scale and a shift for the 8 channels after each
        ("batch", 856),  # the same, and a moving mean and a moving variance
    ],
)
def test_parameters_of_a_block(normalization, expected):
    assert block(3, 8, normalization).count_params() == expected


def test_block_ends_in_a_cbam_if_wished():
    plain, attentive = block(3, 8), block(3, 8, cbam=True)
    assert attentive.count_params() - plain.count_params() == 8 + 1 + 8 + 8 + 2 * 7 * 7
    assert [layer.name for layer in attentive.layers if layer not in plain.layers][-1] == "block_cbam"


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_block_is_rectified(normalization):
    x = block(1, 4, normalization)(speckle(8) / 255)
    assert numpy_of(x).min() >= 0


@pytest.mark.parametrize("width", [1, 3, 4, 8, 12, 20])
def test_group_normalization_takes_any_width(width):
    assert block(1, width, "group")(speckle(8)).shape == (2, 8, 8, width)


@pytest.mark.parametrize("normalization", ["group", "none"])
def test_without_batch_normalization_an_image_is_read_the_same_in_any_company(normalization):
    model, images = encoder(normalization=normalization), speckle(16)
    for alone, together in zip(model(images[:1], training=True), model(images, training=True)):
        np.testing.assert_allclose(numpy_of(alone)[0], numpy_of(together)[0], rtol=1e-4, atol=1e-5)


def test_batch_normalization_reads_an_image_by_its_company_while_training():
    model, images = encoder(normalization="batch"), speckle(16)
    images[1] /= 4
    alone, together = model(images[:1], training=True)[-1], model(images, training=True)[-1]
    assert np.abs(numpy_of(alone)[0] - numpy_of(together)[0]).max() > 0.1
