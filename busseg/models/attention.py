"""Attention: layers that weigh the places and channels of feature maps."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="busseg")
class CBAM(layers.Layer):
    """Convolutional block attention module (CBAM): weighs the channels of a feature map, then its places.

    `F' = M_c(F) * F`, with `M_c = sigmoid(MLP(avgpool(F)) + MLP(maxpool(F)))` over the places;
    `F'' = M_s(F') * F'`, with `M_s = sigmoid(conv([avgpool(F'); maxpool(F')]))` over the channels.

    Args:
        reduction: Integer >= 1. The shared MLP's hidden layer is this many times narrower than the feature map.
        kernel_size: Side of the spatial attention's convolution.

    Reference:
        Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, https://arxiv.org/abs/1807.06521
    """

    def __init__(self, reduction: int = 16, kernel_size: int = 7, **kwargs):
        super().__init__(**kwargs)
        if reduction < 1:
            raise ValueError(f"`reduction` must be >= 1. Received: reduction={reduction}")
        self.reduction = reduction
        self.kernel_size = kernel_size
        self.spatial = layers.Conv2D(
            1,
            kernel_size,
            padding="same",
            use_bias=False,
            activation="sigmoid",
            dtype=self.dtype_policy,
            name="spatial",
        )

    def build(self, input_shape):
        channels = input_shape[-1]
        self.squeeze = layers.Dense(
            max(1, channels // self.reduction), activation="relu", dtype=self.dtype_policy, name="squeeze"
        )
        self.excite = layers.Dense(channels, dtype=self.dtype_policy, name="excite")
        self.squeeze.build((None, channels))
        self.excite.build((None, self.squeeze.units))
        self.spatial.build((*input_shape[:-1], 2))

    def call(self, x):
        x = self.weigh_channels(x)
        return x * self.look(x)

    def weigh_channels(self, x):
        """`F' = M_c(F) * F`, of the same shape."""
        places = (1, 2)
        average = self.excite(self.squeeze(ops.mean(x, places)))
        maximum = self.excite(self.squeeze(ops.max(x, places)))
        return x * ops.sigmoid(average + maximum)[:, None, None, :]

    def look(self, x):
        """`M_s(F')`: the weight of each place of `weigh_channels`' map, `(batch, height, width, 1)` in `[0, 1]`."""
        return self.spatial(ops.concatenate([ops.mean(x, -1, keepdims=True), ops.max(x, -1, keepdims=True)], -1))

    def get_config(self):
        return {**super().get_config(), "reduction": self.reduction, "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable(package="busseg")
class AttentionGate(layers.Layer):
    """Weighs the places of a skip connection by the decoder's coarser feature map, the gate.

    `skip * sigmoid(psi(relu(W_x skip + W_g gate)))`, all three 1x1 convolutions. The gate must have the skip's height
    and width; it is not resampled.

    Args:
        filters: Channels of the space in which skip and gate are compared.

    Reference:
        Oktay et al., "Attention U-Net", MIDL 2018, https://arxiv.org/abs/1804.03999
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.from_skip = layers.Conv2D(filters, 1, use_bias=False, dtype=self.dtype_policy, name="from_skip")
        self.from_gate = layers.Conv2D(filters, 1, dtype=self.dtype_policy, name="from_gate")
        self.psi = layers.Conv2D(1, 1, activation="sigmoid", dtype=self.dtype_policy, name="psi")

    def build(self, input_shape):
        skip, gate = input_shape
        self.from_skip.build(skip)
        self.from_gate.build(gate)
        self.psi.build((*skip[:-1], self.filters))

    def call(self, inputs):
        skip, gate = inputs
        return skip * self.psi(ops.relu(self.from_skip(skip) + self.from_gate(gate)))

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}
