import keras
import numpy as np
import pytest

from busseg.training.losses import LABEL_LOSSES, MASK_LOSSES, BinaryCrossentropyDiceLoss, DiceLoss, soft_dice

SIDE = 8
EMPTY = np.zeros((SIDE, SIDE, 1), np.float32)


def square(side, top=0, left=0, value=1.0):
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = value
    return mask


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def dice_of(y_true, y_pred, smooth=1.0):
    return float(numpy_of(soft_dice(y_true[None], y_pred[None], smooth))[0])


# === Soft Dice ===
@pytest.mark.parametrize(
    ("y_true", "y_pred", "expected"),
    [
        (square(4), square(4), 1.0),
        (EMPTY, EMPTY, 1.0),
        (square(4), square(2), 9 / 21),  # (2 * 4 + 1) / (16 + 4 + 1)
        (square(2), square(4), 9 / 21),
        (square(4), square(4, left=2), 17 / 33),  # (2 * 8 + 1) / (16 + 16 + 1)
        (square(2), square(2, top=4), 1 / 9),  # side by side: 1 / (4 + 4 + 1)
        (square(4), EMPTY, 1 / 17),  # missed
        (EMPTY, square(4), 1 / 17),  # false
        (square(4), square(4, value=0.5), 17 / 25),  # (2 * 16 * 0.5 + 1) / (16 + 8 + 1)
        (EMPTY, square(SIDE, value=0.25), 1 / 17),  # 64 * 0.25
    ],
)
def test_soft_dice_of_hand_placed_pixels(y_true, y_pred, expected):
    assert dice_of(y_true, y_pred) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("smooth", "expected"),
    [(1e-6, 8 / 20), (1, 9 / 21), (20, 28 / 40)],
)
def test_smooth_is_added_to_both_parts(smooth, expected):
    assert dice_of(square(4), square(2), smooth) == pytest.approx(expected, rel=1e-6)


def test_soft_dice_is_one_value_a_sample_and_none_colours_another():
    y_true = np.stack([square(4), EMPTY, square(2)])
    y_pred = np.stack([square(2), EMPTY, EMPTY])
    dice = numpy_of(soft_dice(y_true, y_pred))
    assert dice.shape == (3,)
    np.testing.assert_allclose(dice, [9 / 21, 1, 1 / 5], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float64"])
def test_true_masks_may_be_of_any_type(dtype):
    assert dice_of(square(4).astype(dtype), square(2)) == pytest.approx(9 / 21, rel=1e-6)


# === Losses ===
def half():
    return np.full((SIDE, SIDE, 1), 0.5, np.float32)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "dice", "crossentropy"),
    [
        (square(4), half(), 1 - 17 / 49, np.log(2)),  # (2 * 16 * 0.5 + 1) / (16 + 32 + 1)
        (EMPTY, half(), 1 - 1 / 33, np.log(2)),
        (EMPTY, EMPTY, 0, 0),  # a clean normal image is free
        (square(4), square(4), 0, 0),
        (EMPTY, square(4), 16 / 17, 16 / 64 * -np.log(1e-7)),  # a false lesion; Keras clips logarithms at 1e-7
        (square(4), EMPTY, 16 / 17, 16 / 64 * -np.log(1e-7)),  # a missed one
    ],
)
def test_cost_of_one_image(y_true, y_pred, dice, crossentropy):
    batch = y_true[None], y_pred[None]
    assert float(DiceLoss()(*batch)) == pytest.approx(dice, rel=1e-5, abs=1e-6)
    # 1 - 1e-7 is no float32, so the clipping is coarse
    assert float(BinaryCrossentropyDiceLoss()(*batch)) == pytest.approx(dice + crossentropy, rel=0.02, abs=1e-6)


def test_crossentropy_is_that_of_the_mean_pixel():
    y_pred = np.where(square(2) == 1, np.float32(0.9), np.float32(0.2))
    crossentropy = (4 * -np.log(0.9) + 12 * -np.log(0.2) + 48 * -np.log(0.8)) / 64
    dice = (2 * 4 * 0.9 + 2 * 12 * 0.2 + 1) / (16 + 4 * 0.9 + 60 * 0.2 + 1)
    loss = BinaryCrossentropyDiceLoss()(square(4)[None], y_pred[None])
    assert float(loss) == pytest.approx(crossentropy + 1 - dice, rel=1e-5)


@pytest.mark.parametrize("loss", MASK_LOSSES.values())
def test_loss_of_a_batch_is_the_mean_of_its_images(loss):
    y_true = np.stack([square(4), EMPTY, EMPTY])
    y_pred = np.stack([half(), EMPTY, half()])
    each = numpy_of(loss(reduction=None)(y_true, y_pred))
    assert each.shape == (3,)
    assert float(loss()(y_true, y_pred)) == pytest.approx(each.mean(), rel=1e-6)


@pytest.mark.parametrize("loss", MASK_LOSSES.values())
def test_sample_weights_multiply_each_image(loss):
    y_true, y_pred = np.stack([square(4), EMPTY]), np.stack([half(), half()])
    first, second = numpy_of(loss(reduction=None)(y_true, y_pred))
    weighted = loss()(y_true, y_pred, sample_weight=np.float32([3, 0.5]))
    assert float(weighted) == pytest.approx((3 * first + 0.5 * second) / 2, rel=1e-6)
    assert float(loss()(y_true, y_pred, sample_weight=np.zeros(2, np.float32))) == 0


@pytest.mark.parametrize("loss", MASK_LOSSES.values())
@pytest.mark.parametrize("smooth", [0, -1])
def test_smooth_must_be_positive(loss, smooth):
    with pytest.raises(ValueError, match=f"^`smooth` must be > 0. Received: smooth={smooth}$"):
        loss(smooth=smooth)


# === Gradients and saving ===
def constant(value, loss):
    """A model that answers `value` at every pixel, and learns by steps that equal the gradient."""
    image = keras.Input((SIDE, SIDE, 1))
    answer = keras.layers.Conv2D(
        1, 1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(value), name="answer"
    )
    model = keras.Model(image, answer(image))
    model.compile(keras.optimizers.SGD(1.0), loss=loss)
    return model


def gradient(value, loss, y_true):
    """Derivative of the loss by the answer that all pixels share."""
    model = constant(value, loss)
    model.train_on_batch(np.zeros((1, SIDE, SIDE, 1), np.float32), y_true[None])
    return value - float(model.get_weights()[1][0])


@pytest.mark.parametrize(
    ("y_true", "value", "expected"),
    [
        (EMPTY, 0.0, 64.0),  # d(1 - 1 / (64 p + 1)) / dp = 64 / (64 p + 1)^2
        (EMPTY, 0.5, 64 / 33**2),
        (square(4), 0.5, -(32 * 49 - 17 * 64) / 49**2),  # of -(32 p + 1) / (16 + 64 p + 1)
    ],
)
def test_gradient_of_dice(y_true, value, expected):
    assert gradient(value, DiceLoss(), y_true) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", MASK_LOSSES.values())
@pytest.mark.parametrize("y_true", [EMPTY, square(4), square(SIDE)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradient_is_finite_where_the_model_is_certain(loss, y_true, value):
    assert np.isfinite(gradient(value, loss(), y_true))


@pytest.mark.parametrize("loss", MASK_LOSSES.values())
def test_loss_is_rebuilt_from_its_configuration(loss):
    rebuilt = keras.losses.deserialize(keras.losses.serialize(loss(smooth=3.0, reduction="sum", name="mine")))
    assert type(rebuilt) is loss
    assert (rebuilt.smooth, rebuilt.reduction, rebuilt.name) == (3.0, "sum", "mine")


@pytest.mark.parametrize("loss", MASK_LOSSES.values())
def test_compiled_loss_survives_saving_and_loading(loss, tmp_path):
    model = constant(0.5, loss(smooth=3.0))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.loss) is loss
    batch = np.zeros((1, SIDE, SIDE, 1), np.float32), square(4)[None]
    assert loaded.evaluate(*batch, verbose=0) == model.evaluate(*batch, verbose=0)
    assert loaded.loss.smooth == 3.0


# === Losses of the label ===
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mae", 0.2),  # (0.3 + 0.2 + 0.1) / 3
        ("crossentropy", -np.log(0.7)),
        # A tenth of the truth is spread over all three classes.
        ("smooth_crossentropy", -(28 / 30 * np.log(0.7) + 1 / 30 * np.log(0.2) + 1 / 30 * np.log(0.1))),
        ("focal", 0.25 * (1 - 0.7) ** 2 * -np.log(0.7)),  # Keras' alpha 0.25 and gamma 2
    ],
)
def test_cost_of_one_label(name, expected):
    loss = LABEL_LOSSES[name]()(np.float32([[0, 0, 1]]), np.float32([[0.2, 0.1, 0.7]]))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LABEL_LOSSES.values())
def test_label_that_is_not_known_costs_nothing(loss):
    y_true, y_pred = np.float32([[0, 0, 1], [0, 0, 0]]), np.float32([[0.2, 0.1, 0.7], [0.9, 0.1, 0]])
    known = float(loss()(y_true[:1], y_pred[:1]))
    assert float(loss()(y_true, y_pred, sample_weight=np.float32([1, 0]))) == pytest.approx(known / 2, rel=1e-6)


# === Masks of 0 and 255 ===
@pytest.mark.parametrize("loss", [DiceLoss(), BinaryCrossentropyDiceLoss()])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_mask_of_0_and_255_costs_what_the_same_of_0_and_1_does(loss, dtype):
    y_true, y_pred = square(4)[None], square(4, left=1, value=0.5)[None]
    of_ones = float(loss(y_true.astype(dtype), y_pred))
    assert float(loss((y_true * 255).astype(dtype), y_pred)) == pytest.approx(of_ones)


@pytest.mark.parametrize("loss", [DiceLoss(), BinaryCrossentropyDiceLoss()])
def test_perfect_prediction_of_a_mask_of_0_and_255_costs_nothing(loss):
    assert float(loss(square(4, value=255)[None], square(4)[None])) == pytest.approx(0, abs=1e-5)
