"""Metrics of the mask for `compile`. Those of the label are Keras' own.

Dice and IoU measure lesions: an image without one has no overlap to measure, so it gets weight 0. `CleanNormalRate`
counts the false alarms that this would hide.
"""

import keras
from keras import ops


def _areas(y_true, y_pred, threshold):
    """Overlap, true area and predicted area of each sample, in pixels."""
    lesion = ops.cast(ops.convert_to_tensor(y_pred) >= threshold, "float32")
    y_true = ops.clip(ops.cast(y_true, "float32"), 0, 1)  # accepts masks of 0 and 255
    pixels = (1, 2, 3)
    return ops.sum(y_true * lesion, pixels), ops.sum(y_true, pixels), ops.sum(lesion, pixels)


class _MaskMetric(keras.metrics.Mean):
    """A mean over the samples that `measure` gives a weight."""

    def __init__(self, threshold=0.5, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold

    def update_state(self, y_true, y_pred, sample_weight=None):
        value, weight = self.measure(*_areas(y_true, y_pred, self.threshold))
        if sample_weight is not None:
            weight = weight * ops.cast(ops.reshape(sample_weight, (-1,)), weight.dtype)
        return super().update_state(value, sample_weight=weight)

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


@keras.saving.register_keras_serializable(package="busseg")
class LesionDice(_MaskMetric):
    """Mean Dice of the images that have a lesion: `2 |T and P| / (|T| + |P|)`, P the pixels at or above `threshold`.

    A missed lesion scores 0. Images without a lesion do not count.
    """

    def __init__(self, threshold: float = 0.5, name: str = "lesion_dice", **kwargs):
        super().__init__(threshold, name, **kwargs)

    def measure(self, overlap, true, predicted):
        has_lesion = ops.cast(true > 0, "float32")
        return 2 * overlap / ops.maximum(true + predicted, 1), has_lesion


@keras.saving.register_keras_serializable(package="busseg")
class LesionIoU(_MaskMetric):
    """Mean IoU of the images that have a lesion: `|T and P| / |T or P|`, P the pixels at or above `threshold`."""

    def __init__(self, threshold: float = 0.5, name: str = "lesion_iou", **kwargs):
        super().__init__(threshold, name, **kwargs)

    def measure(self, overlap, true, predicted):
        has_lesion = ops.cast(true > 0, "float32")
        return overlap / ops.maximum(true + predicted - overlap, 1), has_lesion


@keras.saving.register_keras_serializable(package="busseg")
class CleanNormalRate(_MaskMetric):
    """Share of the images without a lesion on which none is marked: not one pixel at or above `threshold`."""

    def __init__(self, threshold: float = 0.5, name: str = "clean_normal_rate", **kwargs):
        super().__init__(threshold, name, **kwargs)

    def measure(self, overlap, true, predicted):
        return ops.cast(predicted == 0, "float32"), ops.cast(true == 0, "float32")
