"""Encoders: from an image to a pyramid of feature maps.

One contract for all: `features = encoder(x, ...)`, where `x` is `(batch, size, size, 1)` with values 0..255. Returned
are feature maps from fine to coarse, each half the height and width of the one before; the last is the bottleneck.
"""

import math

from keras import layers

from busseg.models.attention import CBAM

NORMALIZATIONS = ("batch", "group", "none")


def plain_encoder(x, width, depth, normalization="batch", cbam=False):
    """The encoder of the original U-Net, narrower: two convolutions a level, then 2x2 max pooling.

    Args:
        x: Tensor `(batch, size, size, 1)`, 0..255.
        width: Filters of the first level. They double at every level.
        depth: Number of poolings.
        normalization: One of `NORMALIZATIONS`.
        cbam: Whether each level ends in a CBAM.

    Returns:
        List of `depth + 1` tensors, at strides 1, 2, ... `2 ** depth`.

    Reference:
        Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, https://arxiv.org/abs/1505.04597
    """
    x = layers.Rescaling(1 / 255, name="rescaling")(x)
    features = []
    for level in range(depth + 1):
        if level > 0:
            x = layers.MaxPooling2D(name=f"encoder{level}_pool")(x)
        x = conv_block(x, width * 2**level, normalization, cbam, name=f"encoder{level}")
        features.append(x)
    return features


def conv_block(x, filters, normalization, cbam, name):
    """Two 3x3 convolutions, each normalised and rectified; then a CBAM if wished."""
    for step in (1, 2):
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=normalization == "none", kernel_initializer="he_normal",
            name=f"{name}_conv{step}",
        )(x)  # fmt: skip
        if normalization == "batch":
            x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm{step}")(x)
        elif normalization == "group":
            x = layers.GroupNormalization(math.gcd(8, filters), name=f"{name}_norm{step}")(x)
        x = layers.ReLU(name=f"{name}_relu{step}")(x)
    return CBAM(name=f"{name}_cbam")(x) if cbam else x
