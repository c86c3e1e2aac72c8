"""Normalization between a convolution and its activation."""

import math

import keras
from keras import layers

NORMALIZATIONS = ("batch", "group", "none")


def normalize(x: keras.KerasTensor, normalization: str, name: str, **options) -> keras.KerasTensor:
    """Normalize a feature map.

    Args:
        x: Tensor `(batch, height, width, channels)`.
        normalization: One of `NORMALIZATIONS`.
        name: Name of the layer.
        **options: `epsilon` and `dtype` of the layer.
    """
    if normalization == "batch":
        return layers.BatchNormalization(momentum=0.9, name=name, **options)(x)
    if normalization == "group":
        return layers.GroupNormalization(math.gcd(8, x.shape[-1]), name=name, **options)(x)
    return x
