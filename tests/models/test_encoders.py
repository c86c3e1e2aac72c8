from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import applications

from busseg.export.check import TOLERANCE
from busseg.export.formats import FORMATS
from busseg.models.encoders import ENCODERS, check_encoder, conv_block, encode
from busseg.models.normalization import NORMALIZATIONS
from busseg.models.unet import build_unet

SIZE, WIDTH = 64, 4

# Of the networks of `keras.applications`: how to build one, and what it expects of an image.
REFERENCES = {
    "densenet121": (applications.DenseNet121, applications.densenet.preprocess_input),
    "resnet50": (applications.ResNet50, applications.resnet.preprocess_input),
    "efficientnetv2_b0": (applications.EfficientNetV2B0, applications.efficientnet_v2.preprocess_input),
    "mobilenet_v2": (applications.MobileNetV2, applications.mobilenet_v2.preprocess_input),
    "convnext_tiny": (applications.ConvNeXtTiny, applications.convnext.preprocess_input),
}
LIGHT = ("plain", "efficientnet_lite0")


def slow_unless_light(names):
    return [name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in names]


def encoder(name="plain", size=None, channels=1, **options):
    image = keras.Input((size, size, channels))
    return keras.Model(image, encode(image, name, **{"width": WIDTH, "depth": ENCODERS[name].max_depth or 4} | options))


def channels_of(name):
    """Channels of the levels of an encoder, from fine to coarse; the plain one's with `WIDTH`."""
    return ENCODERS[name].channels or tuple(WIDTH * 2**level for level in range(5))


def block(channels, filters, normalization="batch", convolutions=2):
    x = keras.Input((None, None, channels))
    return keras.Model(x, conv_block(x, filters, normalization, "block", convolutions))


def speckle(size, seed=0, channels=1):
    return np.random.default_rng(seed).uniform(0, 255, (2, size, size, channels)).astype(np.float32)


def shaken(model):
    """The model with every weight a little off, so that biases and moving means are not what they began as."""
    random = np.random.default_rng(3)
    model.set_weights([weight + random.normal(0, 0.01, weight.shape) for weight in model.get_weights()])
    return model


def weights_of(model):
    """Dict from a layer's name to its weights, of the layers that have any."""
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def give(model, weights):
    for name, arrays in weights.items():
        model.get_layer(name).set_weights(arrays)


def assert_among(weights, others):
    """Assert that the layers' weights are those of the layers of the same name among others."""
    for name, arrays in weights.items():
        for one, other in zip(arrays, others[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


# === Every encoder ===
@pytest.mark.parametrize("name", slow_unless_light(ENCODERS))
def test_pyramid_is_as_deep_as_wished_and_halves_the_sides_at_every_level(name):
    channels = channels_of(name)
    sides = [SIZE // ENCODERS[name].stride(level) for level in range(len(channels))]
    whole = [(side, side, count) for side, count in zip(sides, channels)]
    for depth in (len(whole) - 1, 1):
        levels = encoder(name, SIZE, depth=depth).output
        assert [tuple(level.shape[1:]) for level in levels] == whole[: depth + 1]


@pytest.fixture(scope="module", params=slow_unless_light(ENCODERS))
def network(request):
    """A U-Net behind the encoder, as deep as that goes; to be left as it is."""
    keras.utils.set_random_seed(0)
    name = request.param
    return shaken(build_unet(SIZE, encoder=name, width=WIDTH, depth=ENCODERS[name].max_depth or 4))


@pytest.fixture(scope="module")
def saved_network(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    network.save(path)
    return path


def test_network_behind_any_encoder_gives_probabilities(network, answers):
    outputs = answers(network, speckle(SIZE))
    assert {name: x.shape for name, x in outputs.items()} == {"mask": (2, SIZE, SIZE, 1), "label": (2, 3)}
    np.testing.assert_allclose(outputs["label"].sum(-1), 1, rtol=1e-5)
    for probabilities in outputs.values():
        assert probabilities.min() >= 0
        assert probabilities.max() <= 1
        assert probabilities.std() > 0


def test_saved_network_answers_the_same_and_learns_in_every_convolution(network, saved_network, answers):
    images = speckle(SIZE)
    keras.utils.set_random_seed(0)  # of the blocks that stochastic depth leaves out
    loaded = keras.models.load_model(saved_network)
    for name, expected in answers(network, images).items():
        np.testing.assert_array_equal(answers(loaded, images)[name], expected)

    kernels = [variable for variable in loaded.trainable_variables if variable.name == "kernel"]
    before = [numpy_of(kernel) for kernel in kernels]
    loaded.compile("adam", {"mask": "binary_crossentropy", "label": "categorical_crossentropy"}, run_eagerly=True)
    targets = {"mask": (images > 128).astype(np.float32), "label": np.eye(3, dtype=np.float32)[:2]}
    resting = [kernel.path for kernel in kernels]
    for _ in range(2):  # a block may be left out once
        if resting:
            loaded.train_on_batch(images, targets)
            after = [numpy_of(kernel) for kernel in kernels]
            resting = [kernel.path for kernel, new, old in zip(kernels, after, before) if np.array_equal(new, old)]
    assert resting == []
    for kernel, new in zip(kernels, after, strict=True):
        assert np.isfinite(new).all(), kernel.path


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("saved_model", "export"), ("onnx", "export.onnx")])
def test_exported_network_answers_as_its_source_or_is_refused(saved_network, tmp_path, kind, name, request):
    if (request.node.callspec.params["network"], kind) == ("convnext_tiny", "onnx"):
        # tf2onnx knows neither its grouped convolutions, as Keras compiles them, nor the error function of its GELU.
        with pytest.raises(ValueError, match=r"^Expected an export that runs, .*export\.onnx$"):
            FORMATS[kind](saved_network, tmp_path / name)
        assert list(tmp_path.iterdir()) == []
    else:
        assert FORMATS[kind](saved_network, tmp_path / name) <= TOLERANCE["float32"]  # a larger difference is an error


# === Networks of keras.applications ===
@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_application_sees_what_its_own_preprocessing_gives(name):
    build, preprocess = REFERENCES[name]
    reference = shaken(build(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)))
    colours = speckle(SIZE, channels=3)
    for images, as_colours in ((colours, colours), (colours[..., :1], np.repeat(colours[..., :1], 3, axis=-1))):
        model = encoder(name, SIZE, channels=images.shape[-1])
        known = weights_of(reference)
        give(model, {layer: known[layer] for layer in weights_of(model)})
        tapped = [reference.get_layer(level._keras_history.operation.name).output for level in model.output]
        expected = keras.Model(reference.input, tapped)(preprocess(as_colours.copy()))
        for one, other in zip(model(images), expected):
            np.testing.assert_allclose(numpy_of(one), numpy_of(other), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_application_takes_the_weights_of_its_whole_network_at_any_depth(tmp_path):
    reference = shaken(applications.MobileNetV2(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)))
    reference.save_weights(tmp_path / "mobilenet.weights.h5")
    model = encoder("mobilenet_v2", SIZE, weights=tmp_path / "mobilenet.weights.h5", depth=2)
    assert_among(weights_of(model), weights_of(reference))


# === The plain encoder ===
@pytest.mark.parametrize(("width", "depth", "size"), [(4, 1, 32), (4, 4, 32), (3, 2, 20)])
def test_plain_encoder_doubles_the_filters(width, depth, size):
    features = encoder(width=width, depth=depth)(speckle(size))
    expected = [(2, size // 2**level, size // 2**level, width * 2**level) for level in range(depth + 1)]
    assert [tuple(feature.shape) for feature in features] == expected


def test_grey_levels_are_rescaled_inside():
    model = encoder(depth=1)
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


def test_block_has_as_many_convolutions_as_wished():
    assert block(3, 8, convolutions=1).count_params() == 9 * 3 * 8 + 4 * 8
    assert block(3, 8, convolutions=3).count_params() == 9 * 3 * 8 + 2 * 9 * 8 * 8 + 3 * 4 * 8


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_block_is_rectified(normalization):
    x = block(1, 4, normalization)(speckle(8) / 255)
    assert numpy_of(x).min() >= 0


@pytest.mark.parametrize("normalization", ["group", "none"])
def test_without_batch_normalization_an_image_is_read_the_same_in_any_company(normalization):
    model, images = encoder(normalization=normalization, depth=2), speckle(16)
    for alone, together in zip(model(images[:1], training=True), model(images, training=True)):
        np.testing.assert_allclose(numpy_of(alone)[0], numpy_of(together)[0], rtol=1e-4, atol=1e-5)


def test_batch_normalization_reads_an_image_by_its_company_while_training():
    model, images = encoder(normalization="batch", depth=2), speckle(16)
    images[1] /= 4
    alone, together = model(images[:1], training=True)[-1], model(images, training=True)[-1]
    assert np.abs(numpy_of(alone)[0] - numpy_of(together)[0]).max() > 0.1


# === CBAM ===
@pytest.mark.parametrize("name", LIGHT)
def test_cbam_weighs_what_each_level_gives_and_not_what_the_next_one_takes(name):
    without, attentive = encoder(name, SIZE), encoder(name, SIZE, cbam=True)
    weighed = [layer for layer in attentive.layers if layer.name.endswith("_cbam")]
    assert [layer.name for layer in weighed] == [f"encoder{level}_cbam" for level in range(5)]
    assert [layer.output.shape[-1] for layer in weighed] == list(channels_of(name))
    give(attentive, weights_of(without))
    unweighed = keras.Model(attentive.input, [layer.input for layer in weighed])
    for given, expected in zip(unweighed(speckle(SIZE)), without(speckle(SIZE)), strict=True):
        np.testing.assert_array_equal(numpy_of(given), numpy_of(expected))


# === Weights from a file ===
@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Of a light encoder: itself with weights of its own, and the path of these."""
    folder = tmp_path_factory.mktemp("weights")
    models = {name: shaken(encoder(name)) for name in LIGHT}
    for name, model in models.items():
        model.save_weights(folder / f"{name}.weights.h5")
    return lambda name: (models[name], folder / f"{name}.weights.h5")


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("depth", [4, 2])
def test_encoder_begins_with_the_weights_of_a_file(weights_file, name, depth):
    source, path = weights_file(name)
    model = encoder(name, weights=path, depth=depth)
    for given, expected in zip(model(speckle(SIZE)), source(speckle(SIZE))[: depth + 1], strict=True):
        np.testing.assert_array_equal(numpy_of(given), numpy_of(expected))


def test_weights_of_a_file_come_before_the_cbams(weights_file):
    source, path = weights_file("plain")
    model = encoder(weights=path, cbam=True)
    assert_among(weights_of(source), weights_of(model))


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("plain", "gone.weights.h5"),
        ("plain", "gone.pth"),
        ("efficientnet_lite0", "imagent"),
        ("efficientnet_lite0", "gone.pth"),
        ("mobilenet_v2", "gone.h5"),
    ],
)
def test_missing_weights_are_named(name, file_name, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / file_name)):
        encoder(name, weights=tmp_path / file_name)


def test_download_that_fails_is_one_line(monkeypatch):
    def build(**_):
        raise Exception("URL fetch failure on https://example.org: None -- Name or service not known")  # Keras' words

    monkeypatch.setitem(ENCODERS, "resnet50", replace(ENCODERS["resnet50"], build=build))
    message = r"^Expected to download the ImageNet weights of resnet50, found none \(URL fetch failure on .*\)$"
    with pytest.raises(OSError, match=message):
        encoder("resnet50", weights="imagenet")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {"width": 8}),
        ("plain", {"normalization": "none"}),
        ("plain", {"depth": 5}),  # deeper than the file's
        ("efficientnet_lite0", {"fold_batch_norm": True}),
    ],
)
def test_weights_of_an_encoder_built_otherwise_are_refused_in_one_line(weights_file, name, options, recwarn):
    _, path = weights_file(name)
    with pytest.raises(ValueError, match=f"^Expected the weights of {name} as it is built here, found ") as error:
        encoder(name, weights=path, **options)
    assert str(error.value).endswith(f": {path}")
    assert "\n" not in str(error.value)
    assert not recwarn.list


@pytest.mark.parametrize(("name", "other"), [LIGHT, LIGHT[::-1]])
def test_weights_of_another_encoder_are_refused_in_one_line(weights_file, name, other):
    _, path = weights_file(other)
    with pytest.raises(ValueError, match=f"^Expected the weights of {name} .*: {path}$"):
        encoder(name, weights=path)


@pytest.mark.parametrize(
    ("name", "file_name"),
    [("plain", f"broken.{kind}") for kind in ("weights.h5", "h5", "keras", "pth", "txt")]
    + [("efficientnet_lite0", "broken.weights.h5"), ("efficientnet_lite0", "broken.pth")],
)
def test_broken_weights_are_refused_in_one_line(weights_file, name, file_name, tmp_path):
    _, whole = weights_file(name)
    (tmp_path / file_name).write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match=rf"^Expected .*: {tmp_path / file_name}$"):
        encoder(name, weights=tmp_path / file_name)


def test_plain_encoder_has_no_imagenet_weights():
    message = f"The encoder plain has no ImageNet weights; those with them are {', '.join([*ENCODERS][1:])}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        encoder("plain", weights="imagenet")


def test_huge_depth_is_refused_at_once():
    with pytest.raises(ValueError, match=r"^`depth` must be <= 16\. Received: depth=10{30}$"):
        check_encoder(32, "plain", 4, 10**30, 0, False, "batch")
