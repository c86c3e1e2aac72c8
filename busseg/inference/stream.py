"""Predict a stream of frames in bounded memory: threads read ahead while the network computes in batches."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from numpy.typing import NDArray

from busseg.imaging.threads import PIXELS_AHEAD, count_cores, map_in_turn
from busseg.inference.frames import Frame, predict_frames
from busseg.inference.prediction import Failure, Prediction

if TYPE_CHECKING:
    from busseg.inference.predictor import Predictor

THREADS = max(4, count_cores())  # that read and write; decoding and encoding release Python's lock, and disks are slow
_BATCH = THREADS  # images: at least one for each core
_LANES = 2  # batches at once: while the last images of one are computed, the other keeps the cores busy


class Item(NamedTuple):
    """A frame on its way through the steps: its image once read, then its prediction, or what went wrong."""

    frame: Frame
    image: NDArray | None = None
    prediction: Prediction | None = None
    error: Exception | None = None

    def count_pixels(self) -> int:
        """Number of pixels that it holds in memory."""
        return 0 if self.image is None else self.image.size


def predict_stream(predictor: "Predictor", frames: Iterable[Frame]) -> Iterator[Prediction | Failure]:
    """Predict frames one after the other. Only a few images are in memory at a time.

    Args:
        predictor: A `Predictor`.
        frames: Iterable of `Frame`.

    Yields:
        A `Prediction` for each frame, in their order; a `Failure` for one that cannot be read, or of which the model's
        outputs are not finite numbers.
    """
    with closing(read_and_predict(predictor, frames)) as items:
        for frame, _, prediction, error in items:
            yield Failure(str(error), frame.path, frame.number) if prediction is None else prediction


def read_and_predict(predictor: "Predictor", frames: Iterable[Frame]) -> Generator[Item, None, None]:
    """The `Item`s of frames, read by threads and predicted in batches, in the frames' order."""
    with closing(map_in_turn(partial(_read, predictor), frames, lambda frame: frame.count_pixels(), THREADS)) as items:
        batches = iter(lambda: list(_batch(items)), [])
        for some in map_in_turn(partial(_predict_batch, predictor), batches, _count_pixels, _LANES, _LANES + 1):
            while some:
                yield some.pop(0)  # releases its memory


def _count_pixels(batch):
    return sum(item.count_pixels() for item in batch)


def _read(predictor, frame):
    try:
        return Item(frame, frame.read(predictor))
    except (OSError, ValueError) as error:
        return Item(frame, error=error)


def _batch(items):
    """The next few items, the fewer the larger their images."""
    held = 0
    for count, item in enumerate(items, start=1):
        yield item
        held += item.count_pixels()
        if count == _BATCH or held >= PIXELS_AHEAD:
            return


def _predict_batch(predictor, items):
    readable = [(item.frame, item.image) for item in items if item.error is None]
    predictions = iter(predict_frames(predictor, readable))
    return [item if item.error is not None else _with(item, next(predictions)) for item in items]


def _with(item, prediction):
    failed = isinstance(prediction, ValueError)
    return item._replace(error=prediction) if failed else item._replace(prediction=prediction)
