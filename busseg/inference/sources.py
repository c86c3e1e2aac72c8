"""What `Predictor.predict` takes: an image in any form, or several of them, as frames to predict."""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busseg.imaging.dicom import Uids
from busseg.imaging.in_memory import InMemory, count_pixels_in_memory
from busseg.inference.frames import Frame, find_frames, predict_frame

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
    uids = Uids()

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
        frames = _frames_of_path(path, predictor.task)
        if not _is_search(path) and len(frames := list(frames)) == 1:
            return predict_frame(predictor, frames[0], frames[0].read(predictor))
    elif _is_image(source) or not isinstance(source, Iterable):
        given = Given(cast(InMemory, source))  # `to_pixels` refuses others
        return predict_frame(predictor, given, given.read(predictor))
    else:
        frames = _frames_of_sources(cast("Iterable[Source]", source), predictor.task)
    # Imported here, for a single image is predicted sooner without it.
    from busseg.inference.stream import predict_stream

    return predict_stream(predictor, frames)


def _is_search(path):
    """Whether a path is a folder or a pattern; or nothing, which a search names."""
    return path.is_dir() or not path.exists()


def _is_image(source):
    """Whether an iterable is meant as one image: tensors of other libraries are refused as such, not taken apart."""
    return isinstance(source, bytes | bytearray | memoryview | np.ndarray | Image.Image) or hasattr(source, "__array__")


def _frames_of_sources(sources: "Iterable[Source]", task: str) -> Iterator[Frame | Given]:
    for place, source in enumerate(sources, start=1):
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            try:
                yield from _frames_of_path(path, task)
            except (OSError, ValueError) as error:
                yield Frame(path, Path(path.name), error=str(error))
        else:
            yield Given(source, place)


def _frames_of_path(path, task):
    """The frames of a file, or iterator of those of all files of a folder or a pattern."""
    if not _is_search(path):
        return find_frames(path, Path(path.stem), task)
    files = _search(path)
    return (frame for file in files for frame in find_frames(file, Path(file.stem), task))


def _search(path):
    """The files of a folder or a pattern, sorted; a warning names the files of other kinds."""
    from busseg.inference.inputs import format_passed, search

    found, passed = search(path)
    if passed:
        warnings.warn(f"{format_passed(passed)}: {path}", stacklevel=5)  # at the call of `Predictor.predict`
    return list(found)
