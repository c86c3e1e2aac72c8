"""What a file holds that can be predicted: one image, or the frames of a clip or DICOM; and the DICOM results."""

import math
import re
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from busseg.imaging.clips import Clip, find_clip
from busseg.imaging.dicom import Scan, is_dicom, read_dicom
from busseg.imaging.dicom_seg import write_segmentation
from busseg.imaging.images import count_pixels, read_image
from busseg.inference.predictor import OUT_OF_DISTRIBUTION
from busseg.inference.regions import join_regions
from busseg.storage.run_folder import SEGMENTATION

_OF_FRAME = re.compile(r"(?P<clip>.+)_frame\d{3,}", re.DOTALL)


@dataclass(frozen=True)
class Frame:
    """One picture to predict.

    Args:
        path: Path of its file.
        target: Path of its results without suffix, relative to the output folder.
        number: Its number in a clip, from 1; None of a single image.
        scan: The `Scan` that it is of; None of other files.
        clip: The `Clip` that it is of; None of DICOM, and of images that `read_image` reads.
        error: Why there is none in the file, one line, or None.
    """

    path: Path
    target: Path
    number: int | None = None
    scan: Scan | None = None
    error: str | None = None
    clip: Clip | None = None

    @property
    def key(self):
        """What tells the frame apart in a table: its columns `file` and `frame`, as text."""
        return str(self.path), "" if self.number is None else str(self.number)

    @property
    def ends_file(self):
        """Whether all of its file is predicted once this frame is."""
        if self.scan and self.scan.missing:
            return self.error is not None
        return self.number is None or self.number == (self.scan or self.clip).frame_count

    def count_pixels(self):
        """The number of pixels to read, by the header alone; 0 if they cannot be read."""
        if self.error:
            return 0
        held = self.scan or self.clip
        return math.prod(held.shape) if held else count_pixels(self.path)

    def read(self, predictor):
        """Read the pixels as `predictor` takes them; of DICOM, the frame with its regions alone, for what stands around
        them may name the patient.

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

    def parts(self, image):
        """List of the arrays that are predicted, each by itself: the regions of a DICOM frame, or the image."""
        return self.scan.crops(image) if self.scan else [image]

    def joined(self, parts):
        """Undo `parts`: an array of the size of the image, 0 outside of the regions."""
        return self.scan.place(parts) if self.scan else parts[0]


def find_frames(path, target, task, require_region=False):
    """Find what a file holds, by its header alone; of videos, by going through them.

    Args:
        path: Path of an image, video or DICOM file.
        target: Path of its results without suffix, relative to the output folder.
        task: The task of the model; only ultrasound is read from DICOM and clips.
        require_region: Whether to refuse DICOM without a usable region, whose whole frame would be shown.

    Returns:
        List of `Frame`: of a clip, one for each of its frames, whose target ends in its number, `_frame001`; else one.
        A clip that is cut short has one more, with an error, for all that are missing.

    Raises:
        ImportError: If pydicom is missing.
    """
    if task != "ultrasound" or not is_dicom(path):
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
        error = f"Expected {count + scan.missing} frames, found {count}: {path}"
        frames.append(Frame(path, frame_target(target, count + 1), count + 1, scan, error))
    return frames


def _frames_of_clip(path, target, task):
    try:
        clip = find_clip(path)
    except (OSError, ValueError) as error:
        return [Frame(path, target, error=str(error))]
    if clip is None or clip.frame_count == 1:
        return [Frame(path, target, clip=clip)]
    if task != "ultrasound":
        return [Frame(path, target, error=f"Expected a single image, found {clip.frame_count} frames: {path}")]
    return [Frame(path, frame_target(target, n), n, clip=clip) for n in range(1, clip.frame_count + 1)]


def frame_target(target, number):
    """The target of a clip's frame, or of a single image, where the number is None or empty."""
    return Path(f"{target}_frame{int(number):03}") if number else target


def target_of_clip(target):
    """The target of the clip that would have a frame of this target, or None; undoes `frame_target`."""
    match = _OF_FRAME.fullmatch(target.name)
    return target.with_name(match["clip"]) if match else None


def count_frames(paths, require_region=False):
    """How many pictures files hold; see `find_frames`."""
    return sum(len(find_frames(path, Path(), "ultrasound", require_region)) for path in paths)


def predict_frames(predictor, pictures):
    """Predict pictures in one pass of the network: of DICOM, the regions alone, whose answers `join_regions` makes one.

    Args:
        predictor: A `Predictor`.
        pictures: Sequence of `(frame, image)`: a `Frame` and its pixels, as `Frame.read` gives them.

    Returns:
        List of `Prediction`, one a picture, of its full size; or of a `ValueError`, one line that names the file, where
        the model has no answer.
    """
    parts = [frame.parts(image) for frame, image in pictures]
    predictions = iter(predictor.try_batch(list(chain.from_iterable(parts))) if parts else ())
    return [_in_frame(frame, list(islice(predictions, len(some)))) for (frame, _), some in zip(pictures, parts)]


def _in_frame(frame, predictions):
    for prediction in predictions:
        if isinstance(prediction, ValueError):
            return ValueError(f"{prediction}: {frame.path}")
    return join_regions(frame.scan, predictions) if frame.scan else predictions[0]


def predict_frame(predictor, frame, image):
    """Predict one picture; see `predict_frames`.

    Raises:
        ValueError: If the model has no answer.
    """
    [prediction] = predict_frames(predictor, [(frame, image)])
    if isinstance(prediction, ValueError):
        raise prediction
    return prediction


def segment_scan(scan, target, rows, out, model):
    """Write the DICOM SEG of a scan from its frames' results: the masks are read again, one at a time.

    Args:
        scan: A `Scan`, each frame of which is predicted.
        target: Path of the scan's results without suffix, relative to the output folder.
        rows: The frames' rows of the table, in their order.
        out: Path of the output folder.
        model: Name of the model.

    Raises:
        ValueError: If the header of the scan is none that a segmentation can refer to.
    """
    numbers = [row["frame"] for row in rows]
    masks = (read_image(out / f"{frame_target(target, number)}_mask.png") // 255 for number in numbers)
    foreign = sum(row["warning"].startswith(OUT_OF_DISTRIBUTION) for row in rows)
    remark = f"{OUT_OF_DISTRIBUTION.capitalize()} in {foreign} of {len(rows)} frames" if foreign else ""
    write_segmentation(out / f"{target}{SEGMENTATION}", scan, masks, [row["label"] for row in rows], model, remark)
