"""Read images of newer formats, and the frames of videos, animations and images with pages.

`images.py` reads PNG, JPEG, BMP and TIFF files with a single image, `dicom.py` reads DICOM. The process of `decoder.py`
decodes every other file, frame by frame.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from busseg.imaging.arrays import is_in_array
from busseg.imaging.images import check_file, count_frames, read_image
from busseg.imaging.kinds import IMAGES, NEWER_IMAGES, VIDEOS, find_kind, refuse_kind

_MEASURED = 1024  # files whose frame counts are cached


@dataclass(frozen=True)
class Clip:
    """A file of one or more frames. Frames are read on demand.

    Args:
        path: Path of the file.
        frame_count: Number of frames; for a video, the number that can be decoded, even if its header says otherwise.
        shape: `(height, width)` of the largest frame in pixels.
    """

    path: Path
    frame_count: int
    shape: tuple[int, int]
    # Why a frame ended the decoder's process. The other frames are then not tried: each might take as long.
    _fatal: list[str] = field(default_factory=list, repr=False, compare=False)

    def read_frame(self, number: int = 1, *, colour: bool = False) -> NDArray[np.uint8]:
        """Read one frame.

        Args:
            number: Number of the frame, from 1.
            colour: Whether to read colours.

        Returns:
            Array `(height, width)`, or with `colour` `(height, width, 3)`, uint8; see `images.read_image`.

        Raises:
            ValueError: If the frame is missing or broken.
        """
        from busseg.imaging.decoder import DecoderDiedError, read_apart

        if self._fatal:
            raise ValueError(self._fatal[0])
        try:
            return read_apart(self.path, number, colour=colour)
        except DecoderDiedError as error:
            self._fatal.append(str(error))
            raise


def find_clip(path: str | Path) -> Clip | None:
    """Count the frames of an image or video file.

    Args:
        path: Path of the file.

    Returns:
        A `Clip`; None for a single image that `read_image` reads: a PNG, JPEG, BMP or TIFF file, or a part of a NumPy
        archive.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken, or of a kind that busseg does not read.
    """
    path = Path(path)
    if is_in_array(path):
        return None
    check_file(path, "an image")
    kind = find_kind(path)
    if kind in IMAGES and _frames_by_header(path) == 1:
        return None
    if kind not in (*IMAGES, *NEWER_IMAGES, *VIDEOS):
        raise ValueError(f"Expected {refuse_kind(kind)}: {path}")
    status = path.stat()
    clip, error = _measure(path, status.st_size, status.st_mtime_ns)
    if error:
        raise ValueError(error)
    return clip


def _frames_by_header(path):
    try:
        with Image.open(path, formats=IMAGES) as image:
            return count_frames(image)
    except Exception:  # as in `read_image`, which gives the reason
        return 1


@lru_cache(_MEASURED)
def _measure(path, size, changed):
    """`(clip, error)` for a file of this size and time of change; one of them is None."""
    from busseg.imaging.decoder import measure_apart

    try:
        return Clip(path, *measure_apart(path)), None
    except ValueError as error:
        return None, str(error)


def read_picture(path: str | Path, *, colour: bool = False) -> NDArray[np.uint8]:
    """Read an image file of any format that busseg reads; arguments and result are those of `read_image`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken, has several frames, or is of a kind that busseg does not read.
        OSError: If the system denies reading it.
    """
    clip = find_clip(path)
    if clip is None:
        return read_image(path, colour=colour)
    if clip.frame_count > 1:
        raise ValueError(f"Expected a single image, found {clip.frame_count} frames: {path}")
    return clip.read_frame(colour=colour)
