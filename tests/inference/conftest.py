import pytest

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
def counting():
    """The class of a predictor that counts what it predicts."""
    return Counting
