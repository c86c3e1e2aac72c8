import keras
import numpy as np
import pytest

from busseg.models.attention import CBAM, AttentionGate

BATCH, HEIGHT, WIDTH, CHANNELS = 2, 6, 9, 8


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(BATCH, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)


@pytest.fixture
def gate():
    """What the decoder knows: as high and wide as the features, with other channels."""
    return np.random.default_rng(1).normal(size=(BATCH, HEIGHT, WIDTH, 5)).astype(np.float32)


def randomized(layer):
    """The layer with every weight drawn anew, so that no zero bias hides."""
    random = np.random.default_rng(2)
    layer.set_weights([random.normal(0, 0.5, weight.shape) for weight in layer.get_weights()])
    return layer


def weights(layer):
    """The layer's weights as NumPy arrays, named such as `squeeze/kernel`."""
    return {"/".join(w.path.split("/")[-2:]): keras.ops.convert_to_numpy(w) for w in layer.weights}


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def convolution(x, kernel):
    """Correlation of `(batch, height, width, channels)` with a kernel of odd side, zeros around, without bias."""
    margin = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel)


# === CBAM ===
@pytest.mark.parametrize(("reduction", "kernel_size"), [(2, 7), (4, 3), (16, 5)])  # 16: one hidden unit, not 0.5
def test_cbam_is_the_equations_of_woo_et_al(features, reduction, kernel_size):
    layer = CBAM(reduction, kernel_size)
    layer.build(features.shape)
    w = weights(randomized(layer))

    def mlp(pooled):
        hidden = relu(pooled @ w["squeeze/kernel"] + w["squeeze/bias"])
        return hidden @ w["excite/kernel"] + w["excite/bias"]

    channel_attention = sigmoid(mlp(features.mean((1, 2))) + mlp(features.max((1, 2))))
    refined = channel_attention[:, None, None, :] * features
    pooled = np.stack([refined.mean(-1), refined.max(-1)], axis=-1)
    expected = sigmoid(convolution(pooled, w["spatial/kernel"])) * refined

    np.testing.assert_allclose(numpy_of(layer(features)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "reduction", "kernel_size", "expected"),
    [
        (32, 16, 7, 260),  # 32 * 2 + 2, back 2 * 32 + 32, and 7 * 7 * 2 without a bias
        (8, 16, 7, 123),  # never less than one hidden unit: 8 * 1 + 1, 1 * 8 + 8, 98
        (8, 2, 3, 94),  # 8 * 4 + 4, 4 * 8 + 8, 3 * 3 * 2
    ],
)
def test_parameters_of_cbam(channels, reduction, kernel_size, expected):
    layer = CBAM(reduction, kernel_size)
    layer.build((None, None, None, channels))
    assert layer.count_params() == expected


def test_cbam_only_ever_weakens(features):
    layer = CBAM(2)
    layer.build(features.shape)
    assert np.all(np.abs(numpy_of(randomized(layer)(features))) <= np.abs(features))


def test_reduction_below_1_is_refused():
    with pytest.raises(ValueError, match=r"^`reduction` must be >= 1. Received: reduction=0$"):
        CBAM(reduction=0)


# === Attention gate ===
def test_attention_gate_is_the_equation_of_oktay_et_al(features, gate):
    layer = AttentionGate(3)
    layer.build((features.shape, gate.shape))
    # A 1x1 convolution is a matrix product at each place.
    w = {name: w[0, 0] if w.ndim == 4 else w for name, w in weights(randomized(layer)).items()}

    compared = relu(features @ w["from_skip/kernel"] + gate @ w["from_gate/kernel"] + w["from_gate/bias"])
    expected = features * sigmoid(compared @ w["psi/kernel"] + w["psi/bias"])

    np.testing.assert_allclose(numpy_of(layer([features, gate])), expected, rtol=1e-4, atol=1e-5)


def test_parameters_of_the_attention_gate():
    layer = AttentionGate(3)
    layer.build(((None, None, None, 8), (None, None, None, 5)))
    assert layer.count_params() == 8 * 3 + (5 * 3 + 3) + (3 + 1)


def test_attention_gate_has_the_shape_of_the_skip():
    shapes = ((None, 16, 16, 8), (None, 16, 16, 5))
    assert AttentionGate(3).compute_output_shape(shapes) == shapes[0]


# === In a model ===
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_both_survive_saving_and_loading(features, gate, tmp_path, precision):
    inputs = [keras.Input((None, None, x.shape[-1])) for x in (features, gate)]
    cbam = CBAM(reduction=2, kernel_size=3, dtype=precision, name="cbam")
    attention = AttentionGate(3, dtype=precision, name="gate")
    model = randomized(keras.Model(inputs, attention([cbam(inputs[0]), inputs[1]])))
    model.save(tmp_path / "model.keras")

    loaded = keras.models.load_model(tmp_path / "model.keras")

    for name in ("cbam", "gate"):
        assert loaded.get_layer(name).get_config() == model.get_layer(name).get_config()
        assert loaded.get_layer(name).compute_dtype == precision.removeprefix("mixed_")
    np.testing.assert_array_equal(
        numpy_of(keras.ops.cast(loaded([features, gate]), "float32")),
        numpy_of(keras.ops.cast(model([features, gate]), "float32")),
    )
