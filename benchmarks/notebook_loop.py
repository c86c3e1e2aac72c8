"""The loop that example notebooks write: each image is read, resized and changed anew in every epoch.

Keras is imported when this file is loaded, so only workers load it.
"""

import cv2
import keras
import numpy as np

from busseg.data.augmentation import AUGMENTATIONS
from busseg.data.sample import CLASSES, LABEL, MASK


class NotebookBatches(keras.utils.PyDataset):
    """Batches like those of `busseg.training.batches`, by the plainest code: no cache, no threads of its own."""

    def __init__(self, samples, image_size, batch_size, augmentation):
        super().__init__()
        self.samples, self.image_size, self.batch_size = list(samples), image_size, batch_size
        self.augment = AUGMENTATIONS[augmentation]()
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.samples) // self.batch_size)

    def on_epoch_end(self):
        np.random.default_rng().shuffle(self.samples)

    def __getitem__(self, index):
        images, masks, labels = [], [], []
        for sample in self.samples[index * self.batch_size : (index + 1) * self.batch_size]:
            size = (self.image_size, self.image_size)
            image = cv2.resize(cv2.imread(str(sample.image), cv2.IMREAD_GRAYSCALE), size)
            mask = np.zeros(size, np.uint8)
            for path in sample.masks:
                part = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
                mask |= cv2.resize(part, size, interpolation=cv2.INTER_NEAREST) // 255
            changed = self.augment(image=image, mask=mask)
            images.append(changed["image"])
            masks.append(changed["mask"])
            labels.append(CLASSES.index(sample.label))
        image, mask = (np.stack(maps)[..., None].astype(np.float32) for maps in (images, masks))
        return image, {MASK: mask, LABEL: np.eye(len(CLASSES), dtype=np.float32)[labels]}
