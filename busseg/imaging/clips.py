"""Read images of newer formats, and the frames of those that move or have pages, and of videos.

PNG, JPEG, BMP and TIFF of one picture are read by `images.py`, DICOM by `dicom.py`. All else is decoded in the process
of `decoder.py`, frame by frame.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image

from busseg.imaging.decoder import DecoderDiedError, measure_apart, read_apart
from busseg.imaging.images import check_file, count_frames, read_image
from busseg.imaging.kinds import IMAGES, PICTURES, VIDEOS, find_kind, refuse_kind

_MEASURED = 1024  # files whose frames are counted once


@dataclass(frozen=True)
class Clip:
    """A file of one frame or several, none of them read yet.

    Args:
        path: Path of the file.
        frame_count: Number of its frames; of a video, of those that can be decoded, whatever its header says.
        shape: `(height, width)` of the largest frame in pixels.
    """

    path: Path
    frame_count: int
    shape: tuple[int, int]
    # Why a frame ended the process that decoded it; the others are not tried, for each might cost as much time.
    _fatal: list[str] = field(default_factory=list, repr=False, compare=False)

    def read_frame(self, number=1, colour=False):
        """Read one frame.

        Args:
            number: Number of the frame, from 1.
            colour: Whether to read colours.

        Returns:
            Array `(height, width)`, or with `colour` `(height, width, 3)`, uint8; see `images.read_image`.

        Raises:
            ValueError: If the frame is missing or broken.
        """
        if self._fatal:
            raise ValueError(self._fatal[0])
        try:
            return read_apart(self.path, number, colour)
        except DecoderDiedError as error:
            self._fatal.append(str(error))
            raise


def find_clip(path):
    """Count the frames of an image or video file.

    Args:
        path: Path of the file.

    Returns:
        A `Clip`; None of a PNG, JPEG, BMP or TIFF of a single picture, which `read_image` reads.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of a kind that is not read, or broken.
    """
    path = Path(path)
    check_file(path, "an image")
    kind = find_kind(path)
    if kind in IMAGES and _frames_by_header(path) == 1:
        return None
    if kind not in (*IMAGES, *PICTURES, *VIDEOS):
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
    """`(clip, error)` of a file as it was; one of them is None."""
    try:
        return Clip(path, *measure_apart(path)), None
    except ValueError as error:
        return None, str(error)


def read_picture(path, colour=False):
    """Read an image file of any format that busseg reads, as `read_image` does.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of a kind that is not read, broken, or has several frames.
        OSError: If the system lets nobody read it.
    """
    clip = find_clip(path)
    if clip is None:
        return read_image(path, colour)
    if clip.frame_count > 1:
        raise ValueError(f"Expected a single image, found {clip.frame_count} frames: {path}")
    return clip.read_frame(1, colour)
