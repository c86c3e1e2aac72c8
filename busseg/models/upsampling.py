"""Bilinear upsampling of feature maps of any size."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="busseg")
class BilinearUpSampling(layers.Layer):
    """`UpSampling2D(factor, interpolation="bilinear")` for inputs whose height and width may be None.

    Keras' own layer refuses these in TensorFlow's graphs: https://github.com/keras-team/keras/pull/22079. This one
    repeats pixels and averages the steps between them.

    Args:
        factor: Even integer >= 2. Height and width grow by it.
    """

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        if factor < 2 or factor % 2:
            raise ValueError(f"`factor` must be even and >= 2. Received: factor={factor}")
        self.factor = factor

    def call(self, x):
        for axis in (1, 2):
            x = ops.repeat(x, self.factor, axis=axis)
        beyond = (self.factor // 2, self.factor // 2)
        x = ops.pad(x, ((0, 0), beyond, beyond, (0, 0)), mode="symmetric")
        # Together the two averages weigh the pixels by a triangle.
        return ops.average_pool(ops.average_pool(x, self.factor, strides=1), 2, strides=1)

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return (batch, *(side and side * self.factor for side in sides), channels)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}
