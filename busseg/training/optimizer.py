"""How far each step moves the weights."""

import keras

_HEADS = ("decoder", "mask", "label")


@keras.saving.register_keras_serializable(package="busseg")
class SlowEncoderAdamW(keras.optimizers.AdamW):
    """AdamW that moves the encoder in smaller steps than the decoder and the heads.

    What an encoder knows from another task is lost in steps that a decoder of random weights needs to learn anything.

    Args:
        encoder_rate: Float >= 0. The encoder's learning rate, as a share of the others'. The decay of weights is the
            same for all.
        encoder_wait: Int >= 0. The number of first steps in which the encoder does not learn.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, https://arxiv.org/abs/1711.05101
    """

    def __init__(self, encoder_rate=1.0, encoder_wait=0, name="slow_encoder_adamw", **kwargs):
        super().__init__(name=name, **kwargs)
        for argument, value in (("encoder_rate", encoder_rate), ("encoder_wait", encoder_wait)):
            if value < 0:
                raise ValueError(f"`{argument}` must be >= 0. Received: {argument}={value}")
        self.encoder_rate = encoder_rate
        self.encoder_wait = encoder_wait

    def update_step(self, gradient, variable, learning_rate):
        # TensorFlow hands in its own variable, which does not know its layer.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        if not path.startswith(_HEADS):
            learning_rate = learning_rate * self.encoder_rate
            if self.encoder_wait:
                learning_rate = keras.ops.where(self.iterations < self.encoder_wait, 0.0, learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "encoder_rate": self.encoder_rate, "encoder_wait": self.encoder_wait}
