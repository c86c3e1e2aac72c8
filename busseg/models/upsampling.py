"""Bilinear upsampling of maps whose size varies from call to call."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="busseg")
class BilinearUpSampling(layers.Layer):
    """What `UpSampling2D(factor, interpolation="bilinear")` computes, also where height and width are None.

    In TensorFlow's graphs Keras' own layer refuses these: https://github.com/keras-team/keras/pull/22079. Here pixels
    are repeated, and the steps between them averaged.

    Args:
        factor: Even integer >= 2, by which height and width grow.
    """

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        if factor < 2 or factor % 2:
            raise ValueError(f"`factor` must be even and >= 2. Received: factor={factor}")
        self.factor = factor

    def call(self, x):
        for axis in (1, 2):
            x = ops.repeat(x, self.factor, axis=axis)
        beyond = (self.factor // 2, self.factor // 2)
        x = ops.pad(x, ((0, 0), beyond, beyond, (0, 0)), mode="symmetric")
        # One after the other they weigh the pixels by a triangle.
        return ops.average_pool(ops.average_pool(x, self.factor, strides=1), 2, strides=1)

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return (batch, *(side and side * self.factor for side in sides), channels)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}
