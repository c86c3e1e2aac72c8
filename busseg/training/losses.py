"""Losses of the mask and of the label. Each returns one value per sample."""

from functools import partial

import keras
from keras import ops


def _lesion_of(y_true, dtype):
    """A true mask as a tensor of `dtype` in `[0, 1]`; values above 1 become 1, such as 255 of masks of 0 and 255."""
    return ops.clip(ops.cast(y_true, dtype), 0, 1)


def soft_dice(y_true: keras.KerasTensor, y_pred: keras.KerasTensor, smooth: float = 1.0) -> keras.KerasTensor:
    """Soft Dice coefficient of each sample.

    `(2 * sum(t * p) + smooth) / (sum(t) + sum(p) + smooth)`: an empty mask met by an empty prediction scores 1.

    Args:
        y_true: Tensor `(batch, height, width, 1)`, values 0 or 1; larger ones, such as 255, count as 1.
        y_pred: Tensor of the same shape, probabilities in `[0, 1]`.
        smooth: Float > 0, in pixels. Added to both parts of the fraction.

    Returns:
        Tensor `(batch,)` in `[0, 1]`, higher is better.

    Reference:
        Milletari et al., "V-Net", 3DV 2016, https://arxiv.org/abs/1606.04797
    """
    y_pred = ops.convert_to_tensor(y_pred)
    y_true = _lesion_of(y_true, y_pred.dtype)
    pixels = (1, 2, 3)
    overlap = ops.sum(y_true * y_pred, pixels)
    total = ops.sum(y_true, pixels) + ops.sum(y_pred, pixels)
    return (2 * overlap + smooth) / (total + smooth)


@keras.saving.register_keras_serializable(package="busseg")
class DiceLoss(keras.losses.Loss):
    """`1 - soft_dice`, per sample, so that a clean normal image costs 0.

    Args:
        smooth: Float > 0, in pixels; see `soft_dice`.
    """

    def __init__(self, smooth: float = 1.0, name: str = "dice_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        if smooth <= 0:
            raise ValueError(f"`smooth` must be > 0. Received: smooth={smooth}")
        self.smooth = smooth

    def call(self, y_true, y_pred):
        return 1.0 - soft_dice(y_true, y_pred, self.smooth)

    def get_config(self):
        return {**super().get_config(), "smooth": self.smooth}


@keras.saving.register_keras_serializable(package="busseg")
class BinaryCrossentropyDiceLoss(DiceLoss):
    """Mean binary cross-entropy of the pixels plus `1 - soft_dice`, per sample.

    The cross-entropy gives every pixel a gradient. Dice alone gives none to a false lesion on a normal image.
    """

    def __init__(self, smooth: float = 1.0, name: str = "bce_dice_loss", **kwargs):
        super().__init__(smooth=smooth, name=name, **kwargs)

    def call(self, y_true, y_pred):
        y_pred = ops.convert_to_tensor(y_pred)
        crossentropy = keras.losses.binary_crossentropy(_lesion_of(y_true, y_pred.dtype), y_pred)
        return ops.mean(crossentropy, (1, 2)) + super().call(y_true, y_pred)


MASK_LOSSES = {"dice": DiceLoss, "bce_dice": BinaryCrossentropyDiceLoss}
LABEL_LOSSES = {
    "mae": keras.losses.MeanAbsoluteError,
    "crossentropy": keras.losses.CategoricalCrossentropy,
    # The target of the true class is 0.93, not 1, so a network that overfits its training part stays less confident on
    # new images. https://arxiv.org/abs/1512.00567
    "smooth_crossentropy": partial(keras.losses.CategoricalCrossentropy, label_smoothing=0.1),
    "focal": keras.losses.CategoricalFocalCrossentropy,
}
