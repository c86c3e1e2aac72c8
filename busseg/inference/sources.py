"""What `Predictor.predict` takes: an image in any form, or several of them, as frames to predict."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busseg.imaging.in_memory import InMemory, count_pixels_in_memory
from busseg.inference.frames import Frame, find_frames, predict_frame
from busseg.inference.inputs import format_passed, search
from busseg.inference.stream import predict_stream

if TYPE_CHECKING:
    from busseg.inference.prediction import Failure, Prediction
    from busseg.inference.predictor import Predictor, Source


@dataclass(frozen=True)
class Given:
    """An image that is given in Python, in the place of the `Frame` of a file.

    Args:
        image: See `in_memory.to_pixels`.
        place: Its place among several images, from 1; None for a single image.
    """

    image: InMemory
    place: int | None = None
    path = number = scan = None

    def count_pixels(self) -> int:
        """About the number of pixels to hold in memory."""
        return count_pixels_in_memory(self.image)

    def read(self, predictor: "Predictor") -> NDArray:
        """Convert it to the pixels that `predictor` takes.

        Raises:
            ValueError: If it is no image that can be converted; one line, which names its place.
        """
        try:
            return predictor.read(self.image)
        except ValueError as error:
            raise ValueError(f"{error}: image {self.place} of several" if self.place else str(error)) from error

    def parts(self, image: NDArray) -> list[NDArray]:
        """See `Frame.parts`."""
        return [image]


def predict_source(
    predictor: "Predictor", source: "Source | Iterable[Source]"
) -> "Prediction | Iterator[Prediction | Failure]":
    """Predict what a user gives; see `Predictor.predict`."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if _is_search(path):
            return predict_stream(predictor, _frames_of_files(_search(path), predictor.task))
        frames = _frames_of_file(path, predictor.task)
        if len(frames) > 1:
            return predict_stream(predictor, frames)
        return predict_frame(predictor, frames[0], frames[0].read(predictor))
    if isinstance(source, Iterable) and not _is_image(source):
        return predict_stream(predictor, _frames_of_sources(source, predictor.task))
    given = Given(source)
    return predict_frame(predictor, given, given.read(predictor))


def _is_search(path):
    """Whether a path is a folder or a pattern; or nothing, which a search names."""
    return path.is_dir() or not path.exists()


def _is_image(source):
    """Whether an iterable is meant as one image: tensors of other libraries are refused as such, not taken apart."""
    return isinstance(source, bytes | bytearray | memoryview | np.ndarray | Image.Image) or hasattr(source, "__array__")


def _search(path):
    """The files of a folder or a pattern, sorted; a warning names the files of other kinds."""
    found, passed = search(path)
    if passed:
        warnings.warn(f"{format_passed(passed)}: {path}", stacklevel=4)  # at the call of `Predictor.predict`
    return list(found)


def _frames_of_sources(sources: "Iterable[Source]", task: str) -> Iterator[Frame | Given]:
    for place, source in enumerate(sources, start=1):
        if not isinstance(source, str | os.PathLike):
            yield Given(source, place)
            continue
        path = Path(source)
        try:
            files = _search(path) if _is_search(path) else [path]
        except (OSError, ValueError) as error:
            yield Frame(path, Path(path.name), error=str(error))
            continue
        yield from _frames_of_files(files, task)


def _frames_of_files(paths: Sequence[Path], task: str) -> Iterator[Frame]:
    for path in paths:
        yield from _frames_of_file(path, task)


def _frames_of_file(path, task):
    return find_frames(path, Path(path.stem), task)
