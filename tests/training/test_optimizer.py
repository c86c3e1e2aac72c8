import keras
import numpy as np
import pytest

from busseg.training.optimizer import SlowEncoderAdamW


def two_layers():
    image = keras.Input((4,))
    x = keras.layers.Dense(3, name="encoder0_conv", kernel_initializer="ones")(image)
    return keras.Model(image, keras.layers.Dense(1, name="label", kernel_initializer="ones")(x))


def moves(optimizer, steps):
    """How far each training step moves the kernels of the encoder and of the head, each the mean of its weights."""
    model = two_layers()
    model.compile(optimizer, loss="mse")

    def kernels():
        return np.array([model.get_layer(name).get_weights()[0].mean() for name in ("encoder0_conv", "label")])

    for _ in range(steps):
        before = kernels()
        model.train_on_batch(np.ones((2, 4), np.float32), np.zeros((2, 1), np.float32))
        yield before - kernels()


@pytest.mark.parametrize("rate", [1.0, 0.1, 0.0])
def test_encoder_moves_by_its_share(rate, without_graphs):
    # The first step of Adam is as long as the learning rate.
    (moved,) = moves(SlowEncoderAdamW(rate, learning_rate=0.01, weight_decay=0), steps=1)
    assert moved == pytest.approx([0.01 * rate, 0.01], rel=1e-3, abs=1e-7)


def test_encoder_waits_for_the_first_steps():
    optimizer = SlowEncoderAdamW(1.0, encoder_wait=2, learning_rate=0.01, weight_decay=0)
    encoder, head = zip(*moves(optimizer, steps=3), strict=True)
    assert [move != 0 for move in encoder] == [False, False, True]
    assert min(head) > 0.005


def test_equal_rates_are_adamw(without_graphs):
    rate = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=5)
    ours, theirs = (
        np.array([*moves(optimizer, steps=3)])
        for optimizer in (
            SlowEncoderAdamW(1.0, learning_rate=rate, weight_decay=0.1),
            keras.optimizers.AdamW(rate, weight_decay=0.1),
        )
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_weights_of_the_encoder_decay_as_all_others(rate, without_graphs):
    """The rest of a step is that of an optimizer without decay."""
    moved, undecayed = (
        next(moves(SlowEncoderAdamW(rate, learning_rate=0.01, weight_decay=decay), steps=1)) for decay in (0.1, 0)
    )
    assert moved - undecayed == pytest.approx([0.001, 0.001], rel=1e-3)  # the kernels are ones


def test_comes_back_from_its_config():
    optimizer = SlowEncoderAdamW(0.25, 3, learning_rate=0.01, weight_decay=0.1)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, SlowEncoderAdamW)
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("name", ["encoder_rate", "encoder_wait", "weight_decay"])
def test_negative_number_is_refused(name):
    with pytest.raises(ValueError, match=f"^`{name}` must be >= 0. Received: {name}=-1$"):
        SlowEncoderAdamW(**{name: -1})
