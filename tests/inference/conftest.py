import weakref
from pathlib import Path

import numpy as np
import pytest

from busseg.data.sample import CLASSES, THRESHOLD
from busseg.data.task import Task
from busseg.inference import batch, stream
from busseg.inference.predictor import Predictor


class Counting(Predictor):
    """Counts the images it is asked for; stops the program, as Ctrl-C does, once it has predicted `most`."""

    def __init__(self, model, most=float("inf")):
        super().__init__(model)
        self.asked, self.most = 0, most

    def try_batch(self, images):
        if self.asked >= self.most:
            raise KeyboardInterrupt
        self.asked += len(images)
        return super().try_batch(images)


@pytest.fixture
def four_threads(monkeypatch):
    """Read and write with four threads, and predict batches of four, on any number of cores."""
    for module, name in ((stream, "THREADS"), (stream, "_BATCH"), (batch, "THREADS")):
        monkeypatch.setattr(module, name, 4)


@pytest.fixture
def counting():
    """The class of a predictor that counts what it predicts."""
    return Counting


class Echo(Predictor):
    """A predictor without a network: the mask is image / 255; with m its mean, the label is (1 - m, m, 0).

    `files_read` holds a weak reference to the pixels of each file that it has read.
    """

    def __init__(self):
        self.name, self.path, self.task, self.classes, self.image_size = "echo", None, Task.ULTRASOUND, CLASSES, 32
        self.sensitivity = self.operating_point = None
        self.threshold = THRESHOLD
        self.files_read = []

    def read(self, source):
        pixels = super().read(source)
        if isinstance(source, Path):
            self.files_read.append(weakref.ref(pixels))
        return pixels

    def _run(self, squares):
        means = squares.mean(axis=(1, 2, 3)) / 255
        return {"mask": squares / 255, "label": np.stack([1 - means, means, 0 * means], axis=1).astype(np.float32)}


@pytest.fixture
def echo_predictor():
    """A predictor whose predictions are arithmetic; it needs no Keras."""
    return Echo()


@pytest.fixture(scope="session")
def names():
    """Function that lists the files in a folder and in those below it."""
    return lambda folder: sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
