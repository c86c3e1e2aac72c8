"""The answer to a clip as a whole, and the decoded frames of clips, kept in memory to turn between them."""

import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from busseg.app.addresses import thumbnail
from busseg.inference.clips import pool_frames
from busseg.inference.frames import Frame, predict_frame
from busseg.inference.predictor import Prediction, Predictor

POOLED = 9  # frames, at most, whose predictions give the answer to a clip
DECODED_MB = 256  # of decoded frames in memory, of all clips together; 530 frames of 800 x 600 pixels


@dataclass(frozen=True)
class PooledFrame:
    """The prediction of one frame, as far as the answer to its clip needs it.

    Args:
        number: Its number in the clip, from 1.
        label: Its class.
        probabilities: Array `(classes,)` float32.
        ood_score: See `Prediction`.
        in_distribution: Whether it is in distribution by itself.
        thumbnail: A small image with the outline of the lesion, as a `data:` address.
    """

    number: int
    label: str
    probabilities: NDArray
    ood_score: float | None
    in_distribution: bool
    thumbnail: str


@dataclass(frozen=True, eq=False)
class ClipAnswer:
    """The answer to a clip as a whole, pooled from frames spread evenly over it.

    It is out of distribution if the median OOD score of the frames is above 1, as in `busseg predict`. Its class is the
    one with the largest mean probability, as `busseg evaluate` pools the images of a patient; frames that are out of
    distribution by themselves do not count.

    Args:
        frames: Tuple of `PooledFrame`, at least one, in their order.
        classes: Names of the classes, in the order of the probabilities.
    """

    frames: tuple[PooledFrame, ...]
    classes: tuple[str, ...]

    @property
    def in_distribution(self) -> bool:
        """Whether the clip as a whole is in distribution."""
        return median(frame.ood_score or 0 for frame in self.frames) <= 1

    @property
    def counted(self) -> tuple[PooledFrame, ...]:
        """The frames that are in distribution; all, if none is."""
        return tuple(frame for frame in self.frames if frame.in_distribution) or self.frames

    @property
    def probabilities(self) -> NDArray:
        """Array `(classes,)` float32: the mean over the counted frames."""
        return pool_frames(np.array([frame.probabilities for frame in self.counted]))

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(np.argmax(self.probabilities))]

    @property
    def most_suspicious(self) -> PooledFrame:
        """The counted frame with the largest probability of malignant."""
        return max(self.counted, key=lambda frame: frame.probabilities[self.classes.index("malignant")])


def answer_clip(
    predictor: Predictor,
    frames: Sequence[Frame],
    images: Mapping[int, NDArray],
    shown: tuple[int, NDArray, Prediction],
) -> ClipAnswer:
    """Predict some frames of a clip and pool them. Frames that cannot be read do not count.

    Args:
        predictor: A `Predictor` of ultrasound.
        frames: All frames of the clip.
        images: Dict from the numbers of some frames to their pixels; the others are read.
        shown: `(number, image, prediction)` of a frame that is predicted already.

    Returns:
        A `ClipAnswer`.
    """
    pooled = []
    for frame in frames[:: -(-len(frames) // POOLED)]:
        with suppress(OSError, ValueError):
            if frame.number == shown[0]:
                pooled.append(_pooled(*shown))
                continue
            image = images.get(frame.number or 1)
            image = frame.read(predictor) if image is None else image
            pooled.append(_pooled(frame.number, image, predict_frame(predictor, frame, image)))
    return ClipAnswer(tuple(pooled or [_pooled(*shown)]), predictor.classes)


def _pooled(number, image, prediction):
    drawn = thumbnail(image, prediction.mask if prediction.in_distribution else None)
    known = prediction.in_distribution
    return PooledFrame(number, prediction.label, prediction.probabilities, prediction.ood_score, known, drawn)


class DecodedClips:
    """Decoded frames of clips in memory: a video can only be decoded from its start.

    The frames of all clips together take at most `limit` bytes, and twice that while a clip is decoded; the clip that
    was not used for longest makes room. The frames of a clip are dropped with the answer that holds its `ClipAnswer`.

    Args:
        limit: Size in bytes.
    """

    def __init__(self, limit: int = DECODED_MB * 1_000_000):
        self._limit, self._lock = limit, threading.Lock()
        self._clips: weakref.WeakKeyDictionary[ClipAnswer, dict[int, NDArray]] = (
            weakref.WeakKeyDictionary()
        )  # the clip that was used last is last

    def read(self, predictor: Predictor, frames: Sequence[Frame]) -> dict[int, NDArray]:
        """Decode a clip from its start, as far as its frames fit: a dict from a frame's number to its pixels."""
        images, size = {}, 0
        for frame in frames:
            with suppress(OSError, ValueError):
                image = frame.read(predictor)
                size += image.nbytes
                if size > self._limit:
                    break
                images[frame.number or 1] = image
        return images

    def keep(self, clip: ClipAnswer, images: dict[int, NDArray]) -> None:
        """Keep the decoded frames of a clip, as `read` returns them."""
        with self._lock:
            self._clips.pop(clip, None)
            self._clips[clip] = images
            sizes = [(other, _size(held)) for other, held in self._clips.items()]
            total = sum(size for _, size in sizes)
            for other, size in sizes:
                if total <= self._limit:
                    break
                del self._clips[other]
                total -= size

    def find(self, clip: ClipAnswer | None) -> dict[int, NDArray]:
        """The decoded frames of a clip, which counts as used; empty if none are kept."""
        if clip is None:
            return {}
        with self._lock:
            images = self._clips.pop(clip, None)
            if images:
                self._clips[clip] = images
            return images or {}


def _size(images):
    return sum(image.nbytes for image in images.values())
