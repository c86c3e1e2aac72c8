"""Batches of samples that stay on the device that trains, and are augmented there."""

import functools

import keras
import numpy as np

from busseg.training.batches import Batches
from busseg.training.device_augmentation import NUMBERS, DeviceAugmentation

_MOST_BYTES = 4 * 2**30  # of images and masks on the device; a GPU needs the rest of its memory for the network


class DeviceBatches(Batches):
    """`Batches` whose images and masks lie on the device, where the pipeline of `augmentation` changes them.

    All batches of an epoch have one size (`even`). Every batch depends on seed, epoch and index alone, but its random
    numbers are not those of `Batches`. Images that do not fit on the device are sent there batch by batch.

    Args:
        samples, image_size, batch_size, augmentation, options: As for `Batches`, without `lesion_free`,
            `grey_transfer`, histology and several devices. The size must be a multiple of 8.
    """

    def __init__(self, samples, image_size: int, batch_size: int, augmentation: str = "none", **options):
        super().__init__(samples, image_size, batch_size, augmentation, even=True, **options)
        shared = options.get("devices", 1) > 1
        if self.lesion_free or self.grey_transfer or not self.task.has_mask or shared or image_size % 8:
            raise ValueError(
                "Expected ultrasound images of a size that is a multiple of 8, one device, and neither `lesion_free` "
                "nor `grey_transfer`, to augment on the device"
            )
        self._augment = DeviceAugmentation(augmentation)
        self._numbers_of = (None, None)

    def _pixels(self, index, chosen, places):
        images, masks = self._resident
        if isinstance(images, np.ndarray):
            image, mask = images[chosen], masks[chosen]
        else:
            image, mask = (keras.ops.take(pixels, chosen, axis=0) for pixels in (images, masks))
        seed = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(2)
        return *self._augment(image, mask, self._numbers()[places], seed), self._classes[chosen]

    @functools.cached_property
    def _resident(self):
        """All images and masks, `(samples, size, size)` uint8: tensors on the device, arrays if they do not fit."""
        images, masks = (np.stack(pixels) for pixels in zip(*map(self.load, range(len(self.samples)))))
        if images.nbytes + masks.nbytes > _MOST_BYTES:
            return images, masks
        return keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(masks)

    def _numbers(self):
        epoch, numbers = self._numbers_of
        if epoch != self.epoch:
            numbers = np.random.default_rng([self.seed, self.epoch]).random((self._places, NUMBERS), np.float32)
            self._numbers_of = self.epoch, numbers
        return numbers
