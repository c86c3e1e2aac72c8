import keras
import numpy as np
import pytest

SIZE, WIDTH = 32, 4


@pytest.fixture(scope="module")
def lite(small_unet, shaken):
    """Behind an EfficientNet-Lite, with the adding decoder; to be left as it is found."""
    keras.utils.set_random_seed(0)
    return shaken(small_unet(encoder="efficientnet_lite0", decoder="add"))


def test_label_depends_on_the_bottleneck_and_not_on_the_decoder(images, small_unet, answers, shaken):
    model = shaken(small_unet())
    before = answers(model, images)
    for layer in (layer for layer in model.layers if layer.name.startswith("decoder") and layer.weights):
        layer.set_weights([weight * 0.5 for weight in layer.get_weights()])
    without_decoder = answers(model, images)
    np.testing.assert_array_equal(without_decoder["label"], before["label"])
    assert not np.allclose(without_decoder["mask"], before["mask"])

    layer = model.get_layer("encoder4_conv2")
    layer.set_weights([weight * -1 for weight in layer.get_weights()])
    assert not np.allclose(answers(model, images)["label"], before["label"])


def test_label_sees_average_and_maximum_of_the_bottleneck(images, small_unet):
    model = small_unet()
    pooled = keras.Model(model.input, [model.get_layer("encoder4_relu2").output, model.get_layer("label_pool").output])
    bottleneck, pool = (keras.ops.convert_to_numpy(x) for x in pooled(images))
    expected = np.concatenate([bottleneck.mean((1, 2)), bottleneck.max((1, 2))], axis=-1)
    np.testing.assert_allclose(pool, expected, rtol=1e-5)


def test_mask_depends_on_every_skip(images, small_unet, answers, shaken):
    model = shaken(small_unet())
    before = answers(model, images)["mask"]
    for level in range(4):
        layer = model.get_layer(f"decoder{level}_conv1")
        kernel = layer.get_weights()[0]
        cut = kernel.copy()
        cut[:, :, : WIDTH * 2**level] = 0  # the skip comes first
        layer.set_weights([cut])
        assert not np.allclose(answers(model, images)["mask"], before, atol=1e-6), level
        layer.set_weights([kernel])


def test_label_behind_another_encoder_sees_pooled_features_brought_to_one_scale(images, lite, small_unet):
    assert "label_norm" not in [layer.name for layer in small_unet().layers]
    layers = [lite.get_layer(name) for name in ("label_pool", "label_norm")]
    pooled, brought = (
        keras.ops.convert_to_numpy(x) for x in keras.Model(lite.input, [layer.output for layer in layers])(images)
    )
    scale, shift = layers[1].get_weights()
    mean, variance = (statistic(-1, keepdims=True) for statistic in (pooled.mean, pooled.var))
    np.testing.assert_allclose(
        brought, (pooled - mean) / np.sqrt(variance + 1e-3) * scale + shift, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("encoder", ["plain", "efficientnet_lite0"])
def test_mask_depends_on_every_skip_that_is_added(images, encoder, lite, small_unet, answers, shaken):
    model = lite if encoder == "efficientnet_lite0" else shaken(small_unet(decoder="add"))
    before = answers(model, images)["mask"]
    for level in range(4):
        layer = model.get_layer(f"decoder{level}_from_skip")
        weights = layer.get_weights()
        layer.set_weights([np.zeros_like(weight) for weight in weights])
        cut = answers(model, images)["mask"]
        layer.set_weights(weights)
        assert not np.allclose(cut, before, atol=1e-6), level
    np.testing.assert_array_equal(answers(model, images)["mask"], before)


def test_added_are_the_enlarged_level_below_and_the_skip(images, small_unet, shaken):
    model = shaken(small_unet(depth=1, decoder="add"))
    layers = [model.get_layer(name) for name in ("encoder1_relu2", "encoder0_relu2", "decoder0_add")]
    below, skip, added = (
        keras.ops.convert_to_numpy(x) for x in keras.Model(model.input, [layer.output for layer in layers])(images)
    )

    def convolved(x, name):  # a 1x1 convolution is a matrix product at each place
        kernel, bias = model.get_layer(name).get_weights()
        return x @ kernel[0, 0] + bias

    # Enlarged before it is narrowed, here: more work, and the same numbers.
    enlarged = keras.ops.convert_to_numpy(keras.layers.UpSampling2D(interpolation="bilinear")(below))
    expected = convolved(enlarged, "decoder0_from_below") + convolved(skip, "decoder0_from_skip")
    np.testing.assert_allclose(added, expected, rtol=1e-4, atol=1e-4)


def test_cbam_weighs_the_skips_and_the_bottleneck_and_not_what_the_encoder_passes_on(
    images, small_unet, answers, shaken
):
    model = shaken(small_unet(cbam=True))
    before = answers(model, images)
    for level in range(5):
        layer = model.get_layer(f"encoder{level}_cbam")
        weights = layer.get_weights()
        layer.set_weights([weight + 1 for weight in weights])
        changed = answers(model, images)
        layer.set_weights(weights)
        assert not np.allclose(changed["mask"], before["mask"], atol=1e-6), level
        assert np.array_equal(changed["label"], before["label"]) == (level < 4), level


def test_grey_levels_are_0_to_255(small_unet):
    model = small_unet(normalization="none")
    first = keras.Model(model.input, model.get_layer("encoder0_conv1").output)
    image = np.full((1, SIZE, SIZE, 1), 255, np.float32)
    kernel = keras.ops.convert_to_numpy(model.get_layer("encoder0_conv1").kernel)
    # Amid a white image the first convolution sees ones.
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(first(image))[0, SIZE // 2, SIZE // 2], kernel.sum((0, 1, 2)), rtol=1e-4, atol=1e-5
    )


def test_dropout_acts_in_training_only(images, small_unet, answers):
    model = small_unet(dropout=0.5, normalization="none")
    np.testing.assert_array_equal(answers(model, images)["label"], answers(model, images)["label"])
    once, again = (keras.ops.convert_to_numpy(model(images, training=True)["label"]) for _ in range(2))
    assert not np.array_equal(once, again)


def test_decoder_behind_a_wide_encoder_has_its_own_width(lite):
    # Levels of Lite0: 16, 24, 40, 112 and 320 channels. The decoder's filters: 4, 8, 16 and 32.
    below, skips, filters = (320, 32, 16, 8), (112, 40, 24, 16), (32, 16, 8, 4)
    decoder = sum((b + 1) * f + (s + 1) * f + 9 * f * f + 4 * f for b, s, f in zip(below, skips, filters))
    assert sum(layer.count_params() for layer in lite.layers if layer.name.startswith("decoder")) == decoder
    assert lite.get_layer("mask_conv").count_params() == 4 + 1
    assert lite.get_layer("label_norm").count_params() == 2 * 2 * 320  # a scale and a shift
    assert lite.get_layer("label").count_params() == (2 * 320 + 1) * 3
