"""Decode the frames of videos, animations and images with pages, one after the other, in grey or in colour.

This code runs in the process of `decoder.py`.
"""

import math
import os
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from busseg.imaging.images import bits_in_use, check_size, count_frames, refuse_image, to_colour, to_grey
from busseg.imaging.kinds import IMAGES, VIDEOS, find_kind

MAX_FRAMES = 20_000  # eleven minutes at 30 a second; a small file may claim billions
_RECENT = 16  # frames kept in memory, because threads do not ask in order
_FORMATS = (*IMAGES, "WEBP", "GIF", "JPEG2000", "AVIF")

# FFmpeg would otherwise fetch the addresses in a playlist.
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "protocol_whitelist;file"


def measure_clip(path: Path, alive: Callable[[], None]) -> tuple[int, tuple[int, int]]:
    """Count the frames of a file. A video's header may be wrong, so its frames are decoded to count them.

    Args:
        path: Absolute `Path`.
        alive: Function that is called after each frame, to show progress.

    Returns:
        `(frames, (height, width))`, with the size of the largest frame in pixels.

    Raises:
        ValueError: If the file is broken, a frame has a size that is refused, or there are more than `MAX_FRAMES`.
    """
    with _blaming(path):
        count, shape = (_measure_video if find_kind(path) in VIDEOS else _measure_image)(path, alive)
        if not 0 < count <= MAX_FRAMES:
            found = "more" if count else "none that can be decoded"
            raise ValueError(f"Expected 1 to {MAX_FRAMES} frames, found {found}: {path}")
        if refusal := check_size(shape):
            raise ValueError(f"Expected {refusal}: {path}")
    return count, shape


@contextmanager
def _blaming(path):
    """Turn any error of Pillow and OpenCV into one line that names the file."""
    try:
        yield
    except Exception as error:
        if str(error).endswith(f": {path}"):  # busseg's own line
            raise
        found = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected a complete image or video, found a broken file ({found}): {path}") from error


def _measure_video(path, alive):
    count, video = 0, _open_video(path)
    while count <= MAX_FRAMES and video.grab():
        count += 1
        alive()
    return count, (int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(video.get(cv2.CAP_PROP_FRAME_WIDTH)))


def _measure_image(path, alive):
    with _open_image(path) as image:
        count, shapes = count_frames(image), [image.size[::-1]]
        if image.format == "TIFF" and count <= MAX_FRAMES:  # pages differ in size
            for number in range(count):
                image.seek(number)
                shapes.append(image.size[::-1])
                alive()
        return count, max(shapes, key=math.prod)


class ClipReader:
    """Reader of one file's frames. It reads forwards, and starts again for an earlier frame.

    Args:
        path: Absolute `Path`.
        colour: Whether to read colours.
        alive: See `measure_clip`.
    """

    def __init__(self, path: Path, colour: bool, alive: Callable[[], None]):
        self._path, self._colour, self._alive = path, colour, alive
        self._restart()

    def _restart(self):
        read = _video_frames if find_kind(self._path) in VIDEOS else _image_frames
        self._frames, self._next, self._recent = read(self._path, self._colour, self._alive), 1, deque(maxlen=_RECENT)

    def read(self, number: int) -> NDArray[np.uint8]:
        """Read frame `number`, counted from 1: array `(height, width)`, or in colour `(height, width, 3)`, uint8.

        Raises:
            ValueError: If there is no such frame, or it or an earlier frame is broken.
        """
        if number < self._next - len(self._recent):
            self._restart()
        with _blaming(self._path):
            while self._next <= number:
                frame = next(self._frames, None)  # after an error the generator is exhausted
                if frame is None:
                    found = self._next - 1
                    raise ValueError(f"Expected a frame {number}, found that {found} can be read: {self._path}")
                self._recent.append(frame)
                self._next += 1
                self._alive()
        return self._recent[number - self._next]


def _open_image(path):
    return Image.open(path, formats=_FORMATS)


def _image_frames(path, colour, alive):
    with _open_image(path) as image:
        bits, numbers = None, range(count_frames(image))
        if image.mode.startswith("I;16"):
            bits = max(_bits_of_page(image, number, alive) for number in numbers)  # one scale for all pages
        for number in numbers:
            image.seek(number)
            if refusal := refuse_image(image):
                raise ValueError(f"Expected {refusal}: {path}")
            upright = ImageOps.exif_transpose(image)
            yield to_colour(upright) if colour else to_grey(upright, bits)


def _bits_of_page(image, number, alive):
    image.seek(number)
    alive()
    if not image.mode.startswith("I;16") or refuse_image(image):
        return 0
    return bits_in_use(np.asarray(image))


def _open_video(path):
    one_thread = [cv2.CAP_PROP_N_THREADS, 1]  # each further thread needs the memory of some frames
    return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, one_thread)


def _video_frames(path, colour, _):
    video = _open_video(path)
    while True:
        there, frame = video.read()
        if not there:
            return
        # The luma of `images.to_grey`, so that a frame and its screenshot give the same result.
        image = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        yield to_colour(image) if colour else to_grey(image)
