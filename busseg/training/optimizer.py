"""AdamW with a learning rate of its own for the encoder."""

import keras

_HEADS = ("decoder", "mask", "label")


@keras.saving.register_keras_serializable(package="busseg")
class SlowEncoderAdamW(keras.optimizers.Adam):
    """AdamW that moves the encoder in smaller steps than the decoder and the heads.

    Large steps, which a decoder of random weights needs, destroy the pretrained weights of an encoder.

    It decays weights itself, because Keras' AdamW computes the schedule of the learning rate again for every weight,
    which takes a third of the time of the first step.

    Args:
        encoder_rate: Float >= 0. The encoder's learning rate, as a share of the others'. The decay of weights is the
            same for all.
        encoder_wait: Int >= 0. Number of first steps in which the encoder is not trained.
        weight_decay: Float >= 0. Share of a weight that a step takes away, times the learning rate.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        encoder_rate: float = 1.0,
        encoder_wait: int = 0,
        weight_decay: float = 0.004,
        name: str = "slow_encoder_adamw",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        own = {"encoder_rate": encoder_rate, "encoder_wait": encoder_wait, "weight_decay": weight_decay}
        for argument, value in own.items():
            if value < 0:
                raise ValueError(f"`{argument}` must be >= 0. Received: {argument}={value}")
        self.encoder_rate = encoder_rate
        self.encoder_wait = encoder_wait
        self.decay = weight_decay  # Keras acts upon an attribute `weight_decay`

    def update_step(self, gradient, variable, learning_rate):
        rate = keras.ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, variable * keras.ops.cast(self.decay, variable.dtype) * rate)
        # TensorFlow passes its own variable, whose path lacks the layer.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        if not path.startswith(_HEADS):
            learning_rate = learning_rate * self.encoder_rate
            if self.encoder_wait:
                learning_rate = keras.ops.where(self.iterations < self.encoder_wait, 0.0, learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        own = {"encoder_rate": self.encoder_rate, "encoder_wait": self.encoder_wait, "weight_decay": self.decay}
        return super().get_config() | own
