import keras
import numpy as np
import pytest

from busseg.training.optimizer import SlowEncoderAdamW


def two_layers():
    image = keras.Input((4,))
    x = keras.layers.Dense(3, name="encoder0_conv", kernel_initializer="ones")(image)
    return keras.Model(image, keras.layers.Dense(1, name="label", kernel_initializer="ones")(x))


def moved(optimizer, steps_before=0):
    """How far a training step moves the kernels of the encoder and of the head, each the mean of its weights."""
    model = two_layers()
    model.compile(optimizer, loss="mse")
    for _ in range(steps_before):
        model.train_on_batch(np.ones((2, 4), np.float32), np.zeros((2, 1), np.float32))
    before = [model.get_layer(name).get_weights()[0] for name in ("encoder0_conv", "label")]
    model.train_on_batch(np.ones((2, 4), np.float32), np.zeros((2, 1), np.float32))
    after = [model.get_layer(name).get_weights()[0] for name in ("encoder0_conv", "label")]
    return [float(np.mean(old - new)) for old, new in zip(before, after)]


@pytest.mark.parametrize("rate", [1.0, 0.1, 0.0])
def test_encoder_moves_by_its_share(rate):
    # The first step of Adam is as long as the learning rate.
    optimizer = SlowEncoderAdamW(rate, learning_rate=0.01, weight_decay=0)
    assert moved(optimizer) == pytest.approx([0.01 * rate, 0.01], rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(("steps_before", "moves"), [(0, False), (1, False), (2, True)])
def test_encoder_waits_for_the_first_steps(steps_before, moves):
    optimizer = SlowEncoderAdamW(1.0, encoder_wait=2, learning_rate=0.01, weight_decay=0)
    encoder, head = moved(optimizer, steps_before)
    assert (encoder != 0) == moves
    assert head > 0.005


def test_equal_rates_are_adamw():
    ours = moved(SlowEncoderAdamW(1.0, learning_rate=0.01, weight_decay=0.1))
    assert ours == pytest.approx(moved(keras.optimizers.AdamW(0.01, weight_decay=0.1)), rel=1e-6)


def test_comes_back_from_its_config():
    optimizer = SlowEncoderAdamW(0.25, 3, learning_rate=0.01, weight_decay=0.1)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, SlowEncoderAdamW)
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("name", ["encoder_rate", "encoder_wait"])
def test_negative_number_is_refused(name):
    with pytest.raises(ValueError, match=f"^`{name}` must be >= 0. Received: {name}=-1$"):
        SlowEncoderAdamW(**{name: -1})
