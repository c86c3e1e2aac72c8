from itertools import pairwise

import keras
import numpy as np
import pytest

from busseg.models.encoders import ENCODERS
from busseg.models.unet import build_unet

SIZE, WIDTH = 32, 4


@pytest.fixture
def precision(request):
    """The global dtype policy that the test names, for its duration."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def train_for_a_step(model, images):
    model.compile("adam", {"mask": "binary_crossentropy", "label": "categorical_crossentropy"}, run_eagerly=True)
    labels = np.eye(model.output["label"].shape[-1], dtype=np.float32)[: len(images)]
    model.train_on_batch(images, {"mask": (images > 128).astype(np.float32), "label": labels})


def check_shapes(outputs, count, size, classes):
    assert set(outputs) == {"mask", "label"}
    assert outputs["mask"].shape == (count, size, size, 1)
    assert outputs["label"].shape == (count, classes)


def check_answers(outputs, count, size, classes):
    check_shapes(outputs, count, size, classes)
    np.testing.assert_allclose(outputs["label"].sum(-1), 1, rtol=1e-5)
    for probabilities in outputs.values():
        assert probabilities.dtype == np.float32
        assert probabilities.min() >= 0
        assert probabilities.max() <= 1
        assert probabilities.std() > 0


# === What goes in and comes out ===
@pytest.mark.parametrize(
    "options",
    [
        {"depth": 4},
        {"depth": 5},  # the bottleneck is one pixel
        {"classes": 2},
        {"width": 3},
        {"attention_gates": True},
        {"cbam": True},
        {"normalization": "group"},
        {"normalization": "none", "dropout": 0},
        {"normalization": "group", "attention_gates": True, "cbam": True, "width": 6},
        {"decoder": "add"},
        {"decoder": "add", "normalization": "none", "attention_gates": True, "cbam": True},
    ],
)
def test_every_variant_gives_probabilities_and_learns_in_every_convolution(images, options, small_unet, answers):
    keras.utils.set_random_seed(0)
    model = small_unet(**{"depth": 1} | options)
    classes = options.get("classes", 3)
    check_answers(answers(model, images), 2, SIZE, classes)

    # The hidden units of a CBAM are few, and may all be at rest for two images.
    resting = ("squeeze", "excite")
    kernels = [v for v in model.trainable_variables if v.name == "kernel" and v.path.split("/")[-2] not in resting]
    before = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    train_for_a_step(model, images)
    for kernel, old in zip(kernels, before, strict=True):
        new = keras.ops.convert_to_numpy(kernel)
        assert np.isfinite(new).all(), kernel.path
        assert not np.array_equal(new, old), kernel.path


def test_narrowest_network_has_one_of_everything(images, small_unet, answers):
    model = small_unet(width=1, depth=1, normalization="group", attention_gates=True, cbam=True)
    check_shapes(answers(model, images), 2, SIZE, 3)
    assert model.get_layer("decoder0_gate").filters == 1


def test_outputs_are_named_like_their_layers():
    model = build_unet()
    assert model.input_shape == (None, 128, 128, 1)
    assert {name: x.shape for name, x in model.output.items()} == {"mask": (None, 128, 128, 1), "label": (None, 3)}
    assert {name: output._keras_history.operation.name for name, output in model.output.items()} == {
        "mask": "mask",
        "label": "label",
    }
    assert [image.name for image in model.inputs] == ["image"]


def test_without_an_image_size_any_multiple_of_the_stride_will_do(small_unet, answers):
    model = small_unet(image_size=None, cbam=True, attention_gates=True)
    assert model.input_shape == (None, None, None, 1)
    for size in (16, 32, 48):
        image = np.random.default_rng(0).uniform(0, 255, (1, size, size, 1))
        check_answers(answers(model, image), 1, size, 3)


@pytest.mark.slow
def test_one_model_answers_and_learns_from_one_size_after_the_other(small_unet):
    model = small_unet(image_size=None, depth=2)
    model.compile("sgd", {"mask": "mse", "label": "mse"})
    for height, width in ((32, 32), (48, 64), (64, 64)):
        image = np.random.default_rng(0).uniform(0, 255, (1, height, width, 1)).astype(np.float32)
        assert model.predict(image, verbose=0)["mask"].shape == (1, height, width, 1)
        losses = model.train_on_batch(image, {"mask": np.zeros_like(image), "label": np.eye(3)[:1]})
        assert np.isfinite(losses).all()


@pytest.mark.parametrize("options", [{"depth": 2}, {"encoder": "efficientnet_lite0", "decoder": "add", "depth": 2}])
def test_size_of_the_image_changes_no_weight(images, options, small_unet, answers, shaken):
    fixed, free = shaken(small_unet(**options)), small_unet(image_size=None, **options)
    free.set_weights(fixed.get_weights())
    for name, expected in answers(fixed, images).items():
        np.testing.assert_allclose(answers(free, images)[name], expected, rtol=1e-4, atol=1e-6)


# === Parameters ===
def parameters(width, depth, classes, block=lambda inputs, filters: 9 * filters * (inputs + filters) + 2 * 4 * filters):
    """Two 3x3 convolutions a block, without biases for the batch normalisation's four numbers a channel follow."""
    filters = [width * 2**level for level in range(depth + 1)]
    encoder = sum(block(inputs, outputs) for inputs, outputs in zip([1, *filters], filters))
    decoder = sum(block(fine + coarse, fine) for fine, coarse in pairwise(filters))
    mask = width + 1
    label = 2 * filters[-1] * classes + classes  # the average and the maximum of each channel
    return encoder + decoder + mask + label


@pytest.mark.parametrize(
    ("options", "expected"), [({}, 1_968_292), ({"width": 4, "depth": 2, "classes": 2, "image_size": 8}, None)]
)
def test_number_of_parameters(options, expected):
    chosen = {"width": 16, "depth": 4, "classes": 3} | {k: v for k, v in options.items() if k != "image_size"}
    count = build_unet(**options).count_params()
    assert count == parameters(**chosen)
    assert expected in (count, None)  # the model card names the default's


def test_attention_gates_and_cbam_add_their_own_parameters(small_unet):
    plain = small_unet(depth=2).count_params()
    # Skips of 4 and 8 channels are compared with gates of 8 and 16 in spaces of 2 and 4.
    gates = sum(skip * f + (2 * skip * f + f) + (f + 1) for skip, f in ((4, 2), (8, 4)))
    assert small_unet(depth=2, attention_gates=True).count_params() == plain + gates
    # Levels of 4, 8 and 16 channels, one hidden unit each.
    cbam = sum((c + 1) + (c + c) + 2 * 7 * 7 for c in (4, 8, 16))
    assert small_unet(depth=2, cbam=True).count_params() == plain + cbam


@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_parameters_of_the_adding_decoder(normalization, small_unet):
    model = small_unet(width=5, depth=2, decoder="add", normalization=normalization)

    def level(skip, coarser, filters):
        narrowed = (coarser + 1) * filters + (skip + 1) * filters  # two 1x1 convolutions with biases
        return narrowed + 9 * filters * filters + (4 if normalization == "batch" else 1) * filters

    # Levels of 5, 10 and 20 channels, decoded at the filters of their own.
    decoder = level(skip=10, coarser=20, filters=10) + level(skip=5, coarser=10, filters=5)
    layers = [layer for layer in model.layers if layer.name.startswith("decoder")]
    assert sum(layer.count_params() for layer in layers) == decoder


# === Frozen levels ===
@pytest.mark.parametrize(("encoder", "depth", "frozen"), [("plain", 2, 3), ("efficientnet_lite0", 2, 2)])
def test_frozen_levels_keep_weights_and_statistics_also_when_loaded(
    images, small_unet, tmp_path, encoder, depth, frozen
):
    keras.utils.set_random_seed(0)
    small_unet(encoder=encoder, depth=depth, frozen=frozen, decoder="add").save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}

    train_for_a_step(model, images)

    kept = {f"encoder{level}" for level in range(frozen)}
    assert {name.split("_")[0] for name in before} >= {*kept, "decoder0", "label"}
    for name, weights in before.items():
        pairs = zip(weights, model.get_layer(name).get_weights(), strict=True)
        assert all(np.array_equal(old, new) for old, new in pairs) == (name.split("_")[0] in kept), name


def test_frozen_depthwise_kernels_stay_and_all_else_moves(images, small_unet):
    keras.utils.set_random_seed(0)
    model = small_unet(
        encoder="efficientnet_lite0", depth=2, frozen_depthwise=True, fold_batch_norm=True, decoder="add"
    )
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    train_for_a_step(model, images)
    kept = {layer.name for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)}
    assert len(kept) == 1 + 2 + 2
    for name, (kernel, *_) in before.items():
        assert np.array_equal(kernel, model.get_layer(name).get_weights()[0]) == (name in kept), name


def test_frozen_level_is_normalized_by_its_statistics_also_while_training(images, small_unet, shaken):
    model = shaken(small_unet(frozen=1))
    first = keras.Model(model.input, model.get_layer("encoder0_relu2").output)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(first(images, training=True)), keras.ops.convert_to_numpy(first(images))
    )


# === Saved, and in half precision ===
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"], indirect=True)
def test_saved_model_answers_the_same_in_any_precision(images, small_unet, answers, shaken, tmp_path, precision):
    model = shaken(small_unet(depth=1, attention_gates=True, cbam=True))
    outputs = answers(model, images)
    check_answers(outputs, 2, SIZE, 3)
    assert model.get_layer("encoder0_conv1").compute_dtype == precision.removeprefix("mixed_")
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    model.save(tmp_path / "model.keras")

    keras.config.set_dtype_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")

    assert loaded.get_layer("encoder0_conv1").compute_dtype == precision.removeprefix("mixed_")
    for name, expected in outputs.items():
        np.testing.assert_array_equal(answers(loaded, images)[name], expected)


# === Wrong use ===
@pytest.mark.parametrize(
    ("size", "depth", "stride", "nearest"),
    [
        (130, 4, 16, 128),
        (136, 4, 16, 128),  # as near as 144
        (137, 4, 16, 144),
        (8, 4, 16, 16),
        (1, 4, 16, 16),
        (0, 4, 16, 16),
        (-32, 4, 16, 16),
        (127, 1, 2, 128),
        (100, 5, 32, 96),
    ],
)
def test_wrong_image_size_names_the_nearest_right_one(size, depth, stride, nearest):
    message = (
        f"^`image_size` must be a multiple of {stride}, the stride of the bottleneck at this depth. "
        f"The nearest is {nearest}. Received: image_size={size}$"
    )
    with pytest.raises(ValueError, match=message):
        build_unet(image_size=size, depth=depth)


@pytest.mark.parametrize(("size", "depth"), [(16, 4), (144, 4), (128, 1), (96, 5)])
def test_image_size_that_is_named_is_right(size, depth):
    build_unet(image_size=size, depth=depth, width=1)


@pytest.mark.parametrize(
    ("encoder", "depth", "stride"),
    [("plain", 3, 8), ("efficientnet_lite0", 4, 32), ("efficientnet_lite2", 2, 8), ("convnext_tiny", 3, 32)],
)
def test_image_size_is_a_multiple_of_the_encoders_stride(encoder, depth, stride):
    with pytest.raises(ValueError, match=f"must be a multiple of {stride}, .* The nearest is {stride * 4}. "):
        build_unet(image_size=stride * 4 + 1, encoder=encoder, depth=depth)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": 1}, "`classes` must be >= 2. Received: classes=1"),
        ({"width": 0}, "`width` must be >= 1. Received: width=0"),
        ({"depth": 0}, "`depth` must be >= 1. Received: depth=0"),
        ({"dropout": 1}, r"`dropout` must be in \[0, 1\). Received: dropout=1"),
        ({"dropout": -0.1}, r"`dropout` must be in \[0, 1\). Received: dropout=-0.1"),
        (
            {"normalization": "layer"},
            "`normalization` must be one of batch, group, none. Received: normalization='layer'",
        ),
        ({"decoder": "sum"}, "`decoder` must be one of concat, add. Received: decoder='sum'"),
        ({"encoder": "vgg"}, f"`encoder` must be one of {', '.join(ENCODERS)}. Received: encoder='vgg'"),
        (
            {"encoder": "efficientnet_lite0", "depth": 5},
            "`depth` must be <= 4 with the encoder efficientnet_lite0. Received: depth=5",
        ),
        ({"encoder": "convnext_tiny"}, "`depth` must be <= 3 with the encoder convnext_tiny. Received: depth=4"),
        ({"frozen": 6}, r"`frozen` must be in \[0, 5\], the encoder's levels. Received: frozen=6"),
        ({"frozen": 3, "depth": 1}, r"`frozen` must be in \[0, 2\], the encoder's levels. Received: frozen=3"),
        ({"frozen": -1}, r"`frozen` must be in \[0, 5\], the encoder's levels. Received: frozen=-1"),
        (
            {"fold_batch_norm": True},
            "`fold_batch_norm` is for efficientnet_lite0, efficientnet_lite1, efficientnet_lite2. "
            "Received: fold_batch_norm=True, encoder='plain'",
        ),
        ({"weights": "imagenet"}, "The encoder plain has no ImageNet weights; those with them are .*"),
    ],
)
def test_argument_out_of_its_range_is_refused(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build_unet(**wrong)
