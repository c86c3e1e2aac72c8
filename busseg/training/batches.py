"""Batches of samples for Keras."""

import threading
from collections.abc import Sequence
from random import Random

import keras
import numpy as np
from numpy.typing import NDArray

from busseg.data.augmentation import AUGMENTATIONS
from busseg.data.grey_transfer import match_histogram
from busseg.data.lesion_free import crop_beside_lesion
from busseg.data.sample import CLASSES, LABEL, MASK, Sample
from busseg.data.task import Task
from busseg.imaging.images import fit_to_square, read_image, read_mask

BALANCES = ("none", "weights", "sampling")


class Batches(keras.utils.PyDataset):
    """Batches of `(image, {"mask", "label"})`, or `(image, {...}, sample weights)` where weights differ.

    Image: `(batch, size, size, 1)` float32, 0..255. Mask: the same shape, 0 or 1. Label: `(batch, classes)` float32,
    one-hot in the order of the task's classes; the label of a sample without one has weight 0. Images of histology are
    RGB, `(batch, size, size, 3)`, and have no mask: their batches are `(image, {"label"})`.

    Every batch depends on seed, epoch and index alone, so workers may finish in any order, and a repeated epoch gives
    the same batches. Call `fit` with `shuffle=False`: by default Keras also shuffles the batches of an epoch, by a
    random state that a resumed run does not have.

    Args:
        samples: Sequence of `Sample`.
        image_size: Side of the square images in pixels.
        batch_size: Samples per batch. The last batch of an epoch may be smaller.
        augmentation: One of `AUGMENTATIONS`: "none", "card", "strong" or "scanner"; for histology "none" or "stain".
        shuffle: Whether each epoch has its own order.
        balance: Compensation for rare classes: "none"; "weights" weighs each label by the inverse frequency of its
            class; "sampling" draws with repetition, see `balance_power`.
        balance_power: Float in `[0, 1]`. "sampling" draws each source in proportion to this power of its size, and
            within it each class likewise: 0 draws all equally often, 1 keeps their frequencies.
        normals_drawn: Float > 0. "sampling" multiplies the frequency of normal images by it.
        lesion_free: Share of the images with a lesion, in `[0, 1]`, that are replaced by a crop beside it: a normal
            image of the same scanner. See `lesion_free.crop_beside_lesion`.
        grey_transfer: Share of the images, in `[0, 1]`, that get the histogram of an image of another source.
        seed: Integer.
        epoch: Number of the first epoch; it counts up at the end of each. Keras ends one before its first, so `fit`
            starts with `epoch + 1`.
        cache: Whether to keep the decoded, resized images in memory (2 bytes per pixel, 3 for RGB).
        workers: Number of threads that prepare batches ahead.
        task: Name of a `Task`.
        devices: Number of devices that share every batch; it must divide `batch_size`. With `shuffle`, each epoch
            leaves out up to `devices - 1` samples, others each time. Without, all batches have one size, padded with
            images of weight 0; the other weights grow so that means over the batches are means over the samples.
        process: Number of this process among `processes` that train together. Its batches hold its share only: the
            samples that one process would have at these places of the whole batch.
        processes: Number of processes. Each has the same number of devices.
        even: Whether all batches have one size, so that the network is compiled once. With `shuffle`, each epoch then
            leaves out the samples of an incomplete batch, others each time. Without, batches are padded as for devices.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: int,
        batch_size: int,
        augmentation: str = "none",
        *,
        shuffle: bool = False,
        balance: str = "none",
        balance_power: float = 0.0,
        normals_drawn: float = 1.0,
        lesion_free: float = 0.0,
        grey_transfer: float = 0.0,
        seed: int = 0,
        epoch: int = 0,
        cache: bool = True,
        workers: int = 1,
        task: str = "ultrasound",
        devices: int = 1,
        process: int = 0,
        processes: int = 1,
        even: bool = False,
    ):
        super().__init__(workers=workers)
        if not samples:
            raise ValueError("Expected at least one sample, found none")
        if shuffle and len(samples) < devices:
            raise ValueError(f"Expected at least a sample for each of {devices} devices, found {len(samples)}")
        _check_choice("augmentation", augmentation, AUGMENTATIONS)
        _check_choice("balance", balance, BALANCES)
        self.samples = tuple(samples)
        self.image_size = image_size
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.balance = balance
        self.balance_power = balance_power
        self.normals_drawn = normals_drawn
        self.lesion_free = lesion_free
        self.grey_transfer = grey_transfer
        self.seed = seed
        self.epoch = epoch
        self.process, self.processes = process, processes
        self.batch_size, self._places = _share_among(devices, len(self.samples), batch_size, shuffle=shuffle, even=even)
        self.task = Task(task)
        self._cache: dict[int, tuple[NDArray, NDArray | None]] | None = {} if cache else None
        self._thread = threading.local()
        classes = self.task.classes
        self._classes = np.array([-1 if s.label is None else classes.index(s.label) for s in self.samples])
        self._weights = _label_weights(self._classes, balance)
        self._sources = np.array([s.source for s in self.samples])

    def __getstate__(self):
        """The state of a copy, or for another process: all but the augmentation pipelines of the threads."""
        return {**self.__dict__, "_thread": None, "_cache": None if self._cache is None else dict(self._cache)}

    def __setstate__(self, state):
        self.__dict__.update(state, _thread=threading.local())

    def __len__(self):
        return -(-self._places // self.batch_size)

    def __getitem__(self, index):
        begin, end = index * self.batch_size, min((index + 1) * self.batch_size, self._places)
        share = (end - begin) // self.processes
        places = np.arange(share) + begin + self.process * share
        chosen = np.resize(self._order(), self._places)[places]
        image, mask, classes = self._pixels(index, chosen, places)
        filled = self._places > len(self.samples)
        # Keras divides by the number of all images, those of weight 0 included.
        importance = np.float32(self._places / len(self.samples) if filled else 1) * (places < len(self.samples))
        # The label of an unlabelled sample is all zeros; its weight of 0 keeps it out of losses and metrics.
        targets = {LABEL: (np.array(classes)[:, None] == np.arange(len(self.task.classes))).astype(np.float32)}
        weights = {LABEL: self._weights[chosen] * importance}
        if self.task.has_mask:
            targets[MASK] = mask
            weights[MASK] = importance
        return (image, targets) if np.all(self._weights == 1) and not filled else (image, targets, weights)

    def on_epoch_end(self):
        self.epoch += 1

    def load(self, index: int) -> tuple[NDArray, NDArray | None]:
        """Read sample number `index` and fit it to the square.

        Returns:
            `(image, mask)`, both `(size, size)` uint8: 0..255, and 0 or 1. For histology the image is
            `(size, size, 3)` and the mask None.

        Raises:
            OSError, ValueError: If a file is missing, broken or of the wrong size; see `images`.
        """
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        sample = self.samples[index]
        image = read_image(sample.image, colour=not self.task.has_mask)
        mask = fit_to_square(read_mask(sample.masks, image.shape), self.image_size) if self.task.has_mask else None
        pair = fit_to_square(image, self.image_size), mask
        if self._cache is not None:
            self._cache[index] = pair
        return pair

    def _order(self):
        random = np.random.default_rng([self.seed, self.epoch])
        count = len(self.samples)
        if self.balance == "sampling":
            chances = _chances(self._sources, self._classes, self.balance_power)
            if self.task.has_mask:
                chances[self._classes == CLASSES.index("normal")] *= self.normals_drawn
            return random.choice(count, count, p=chances / chances.sum())
        return random.permutation(count) if self.shuffle else np.arange(count)

    def _pixels(self, index, chosen, places):
        """`(image, mask, classes)` of the samples of batch number `index`; the mask is None for histology."""
        images, masks, classes = zip(*(self._drawn(i, place) for i, place in zip(chosen, places)))
        image = np.stack(images).astype(np.float32)
        if not self.task.has_mask:
            return image, None, classes
        return image[..., None], np.stack(masks)[..., None].astype(np.float32), classes

    def _drawn(self, index, place):
        """`(image, mask, class)` of sample number `index`, changed randomly, with its place in the epoch as a seed."""
        image, mask = self.load(index)
        label = self._classes[index]
        random = np.random.default_rng([self.seed, self.epoch, place])
        if self.lesion_free and mask.any() and random.random() < self.lesion_free:
            cropped = crop_beside_lesion(image, mask, random)
            if cropped is not None:
                image, mask, label = cropped, np.zeros_like(mask), CLASSES.index("normal")
        if self.grey_transfer and random.random() < self.grey_transfer:
            others = np.flatnonzero(self._sources != self._sources[index])
            if len(others):
                image = match_histogram(image, self.load(random.choice(others))[0])
        return *self._augmented(image, mask, place), label

    def _augmented(self, image, mask, place):
        if self.augmentation == "none":
            return image, mask
        # A pipeline holds its random state, so each thread has its own, seeded again for each place of the epoch.
        if not hasattr(self._thread, "augment"):
            self._thread.augment = AUGMENTATIONS[self.augmentation]()
        # Not `set_random_seed`: it gives every step of a pipeline the same numbers, so either all of them act or none.
        numbers = np.random.default_rng([self.seed, self.epoch, place])
        self._thread.augment.set_random_state(numbers, Random(int(numbers.integers(2**63))))
        changed = self._thread.augment(image=image) if mask is None else self._thread.augment(image=image, mask=mask)
        return changed["image"], changed.get("mask")


def _check_choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}. Received: {name}={value!r}")


def _share_among(devices, count, batch_size, *, shuffle, even):
    """`(batch_size, places)`: samples per batch and places per epoch that devices share evenly; see `Batches`."""
    if even:
        batch_size = min(batch_size, count)
    if shuffle:
        return batch_size, count - count % (batch_size if even else devices)
    if devices == 1 and not even:
        return batch_size, count
    batches = -(-count // batch_size)
    batch_size = -(-count // (batches * devices)) * devices
    return batch_size, batches * batch_size


def _chances(sources, classes, power):
    """Probability of each sample to be drawn: array `(n,)` that sums to 1."""
    chances = np.zeros(len(sources))
    names, sizes = np.unique(sources, return_counts=True)
    shares = sizes**power / np.sum(sizes**power)
    for name, share in zip(names, shares):
        mine = np.flatnonzero(sources == name)
        _, places, sizes = np.unique(classes[mine], return_inverse=True, return_counts=True)
        chances[mine] = share * (sizes**power / np.sum(sizes**power) / sizes)[places]
    return chances


def _label_weights(classes, balance):
    weights = (classes >= 0).astype(np.float32)
    if balance == "weights":
        present, frequency = np.unique(classes[classes >= 0], return_counts=True)
        for label, count in zip(present, frequency):
            weights[classes == label] = frequency.sum() / (len(present) * count)
    return weights
