"""The frames of a file, which are predicted one by one: an image, or the frames of a clip or DICOM file."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from busseg.data.task import Task
from busseg.imaging.clips import Clip, find_clip
from busseg.imaging.dicom import Scan, Uids, is_dicom, read_dicom
from busseg.imaging.images import count_pixels
from busseg.inference.regions import join_regions

if TYPE_CHECKING:
    from busseg.inference.prediction import Prediction
    from busseg.inference.predictor import Predictor
    from busseg.inference.sources import Given

_OF_FRAME = re.compile(r"(?P<clip>.+)_frame\d{3,}", re.DOTALL)


@dataclass(frozen=True)
class Frame:
    """One image to predict: a single image, or a frame of a clip.

    Args:
        path: Path of its file.
        target: Path of its results without suffix, relative to the output folder.
        number: Its number in a clip, from 1; None for a single image.
        scan: The `Scan` of a DICOM file; None for other files.
        error: Why it cannot be read, one line, or None.
        clip: The `Clip` of another file with frames; None for DICOM, and for images that `read_image` reads.
    """

    path: Path
    target: Path
    number: int | None = None
    scan: Scan | None = None
    error: str | None = None
    clip: Clip | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Row key of a table: (file, frame), strings."""
        return str(self.path), "" if self.number is None else str(self.number)

    @property
    def uids(self) -> Uids:
        """The identifiers of its DICOM file; empty for other files."""
        return (self.scan and self.scan.uids) or Uids()

    @property
    def ends_file(self) -> bool:
        """Whether this is the last frame of its file."""
        if self.scan and self.scan.missing:
            return self.error is not None
        held = self.scan or self.clip
        return held is None or self.number is None or self.number == held.frame_count

    def count_pixels(self) -> int:
        """Number of pixels to read, by the header alone; 0 if they cannot be read."""
        if self.error:
            return 0
        held = self.scan or self.clip
        return math.prod(held.shape) if held else count_pixels(self.path)

    def read(self, predictor: "Predictor") -> NDArray:
        """Read the pixels as `predictor` takes them. DICOM is black outside its regions, where names may be burned in.

        Raises:
            OSError, ValueError: If they cannot be read; one line that names the file.
        """
        if self.error:
            raise ValueError(self.error)
        if self.clip:
            return self.clip.read_frame(self.number or 1, colour=predictor.colour)
        if self.scan is None:
            return predictor.read(self.path)
        return self.scan.place(self.scan.crops(self.scan.read_frame(self.number or 1)))

    def parts(self, image: NDArray) -> list[NDArray]:
        """The arrays that are predicted separately: the regions of a DICOM frame, or the image."""
        return self.scan.crops(image) if self.scan else [image]

    def joined(self, parts: Sequence[NDArray]) -> NDArray:
        """Undo `parts`: an array of the size of the image, 0 outside the regions."""
        return self.scan.place(parts) if self.scan else parts[0]


def find_frames(path: Path, target: Path, task: Task, require_region: bool = False) -> list[Frame]:
    """Find the frames of a file by its header alone; a video is decoded once to count them.

    Args:
        path: Path of an image, video or DICOM file.
        target: Path of its results without suffix, relative to the output folder.
        task: The task of the model; only ultrasound is read from DICOM and clips.
        require_region: Whether to refuse DICOM without a usable region, of which the whole frame would be predicted.

    Returns:
        List of `Frame`: one per frame of a clip, whose target ends in its number, `_frame001`; one for another file.
        A truncated clip has one more, with an error, for all missing frames.

    Raises:
        ImportError: If pydicom is missing.
    """
    if task.is_histology or not is_dicom(path):
        return _frames_of_clip(path, target, task)
    try:
        scan = read_dicom(path)
        if require_region and scan.regions.fault:
            raise ValueError(f"Expected a DICOM file with a usable region, found that {scan.regions.fault}: {path}")
    except (OSError, ValueError) as error:
        return [Frame(path, target, error=str(error))]
    count = scan.frame_count
    if count == 1 and not scan.missing:
        return [Frame(path, target, scan=scan)]
    frames = [Frame(path, frame_target(target, number), number, scan) for number in range(1, count + 1)]
    if scan.missing:
        missing = f"Expected {count + scan.missing} frames, found {count}: {path}"
        frames.append(Frame(path, frame_target(target, count + 1), count + 1, scan, missing))
    return frames


def _frames_of_clip(path, target, task):
    try:
        clip = find_clip(path)
    except (OSError, ValueError) as error:
        return [Frame(path, target, error=str(error))]
    if clip is None or clip.frame_count == 1:
        return [Frame(path, target, clip=clip)]
    if task.is_histology:
        return [Frame(path, target, error=f"Expected a single image, found {clip.frame_count} frames: {path}")]
    return [Frame(path, frame_target(target, n), n, clip=clip) for n in range(1, clip.frame_count + 1)]


def frame_target(target: Path, number: int | str | None) -> Path:
    """The target of a clip's frame; that of a single image, where the number is None or empty, is unchanged."""
    return Path(f"{target}_frame{int(number):03}") if number else target


def target_of_clip(target: Path) -> Path | None:
    """Undo `frame_target`: the target of a clip with a frame of this target; None for another target."""
    match = _OF_FRAME.fullmatch(target.name)
    return target.with_name(match["clip"]) if match else None


def count_frames(paths: Iterable[Path], require_region: bool = False) -> int:
    """Number of frames of files; see `find_frames`."""
    return sum(len(find_frames(path, Path(), Task.ULTRASOUND, require_region)) for path in paths)


def predict_frames(
    predictor: "Predictor", images: "Sequence[tuple[Frame | Given, NDArray]]"
) -> "list[Prediction | ValueError]":
    """Predict frames in one pass of the network. `join_regions` joins the predictions of the regions of DICOM.

    Args:
        predictor: A `Predictor`.
        images: Sequence of `(frame, image)`: a `Frame` and its pixels, as `Frame.read` returns them.

    Returns:
        List of `Prediction`, one per frame, of its full size; or of `ValueError`, one line that names the file, where
        the model's outputs are not finite numbers.
    """
    parts = [frame.parts(image) for frame, image in images]
    predictions = iter(predictor.try_batch(list(chain.from_iterable(parts))) if parts else ())
    return [_in_frame(*one, list(islice(predictions, len(some)))) for one, some in zip(images, parts)]


def _in_frame(frame, image, predictions):
    for prediction in predictions:
        if isinstance(prediction, ValueError):
            return ValueError(f"{prediction}: {frame.path}") if frame.path else prediction
    joined = join_regions(frame.scan, predictions) if frame.scan else predictions[0]
    return replace(joined, image=image, path=frame.path, frame=frame.number, uids=frame.uids)


def predict_frame(predictor: "Predictor", frame: "Frame | Given", image: NDArray) -> "Prediction":
    """Predict one frame; see `predict_frames`.

    Raises:
        ValueError: If the model's outputs are not finite numbers.
    """
    [prediction] = predict_frames(predictor, [(frame, image)])
    if isinstance(prediction, ValueError):
        raise prediction
    return prediction
