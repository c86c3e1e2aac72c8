"""The page's answer to one image: the prediction and what belongs to it, without any web code."""

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.explain.occlusion import occlusion
from busseg.imaging.dicom import Scan
from busseg.imaging.dicom_seg import write_segmentation
from busseg.inference import records
from busseg.inference.frames import find_frames, predict_frame
from busseg.inference.overlay import draw_heat
from busseg.inference.predictor import OUT_OF_DISTRIBUTION, THRESHOLD, Prediction, Predictor

_JUDGED = 9  # frames of a clip, at most, whose OOD scores judge the clip as a whole


@dataclass(frozen=True)
class Answer:
    """A prediction, with the data needed to show it, to move its threshold, and to predict another frame.

    Args:
        name: Name of the file, without its folder.
        image: Array `(height, width)` uint8, grey: the image, or the frame of DICOM, black outside its regions.
        prediction: The `Prediction`, whose mask is that of the threshold.
        classes: Names of the classes, in the order of the prediction's probabilities.
        threshold: A pixel is lesion if its lesion probability reaches this.
        scan: The `Scan` of a DICOM file, whose path may no longer exist; None for other images.
        content: The bytes of a DICOM file or a clip; None for other images.
        frame: Number of the frame, from 1.
        frames: Number of the file's frames.
        clip_in_distribution: Whether the clip as a whole is in distribution.
    """

    name: str
    image: NDArray
    prediction: Prediction
    classes: tuple[str, ...]
    threshold: float = THRESHOLD
    scan: Scan | None = None
    content: bytes | None = None
    frame: int = 1
    frames: int = 1
    clip_in_distribution: bool = True

    @property
    def stem(self) -> str:
        """The stem of the names of files saved from this answer."""
        return Path(self.name).stem + (f"_frame_{self.frame}" if self.frames > 1 else "")

    @property
    def in_distribution(self) -> bool:
        """Whether the image, and the clip that contains it, are in distribution."""
        return self.prediction.in_distribution and self.clip_in_distribution

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the prediction, and `OUT_OF_DISTRIBUTION` if the clip as a whole is."""
        found = self.prediction.warnings
        return found if self.in_distribution or OUT_OF_DISTRIBUTION in found else (OUT_OF_DISTRIBUTION, *found)


def answer_file(
    predictor: Predictor,
    path: str | Path,
    threshold: float = THRESHOLD,
    frame: int = 1,
    clip_in_distribution: bool | None = None,
) -> Answer:
    """Read an image file, or a frame of a clip or a DICOM file, and predict it.

    Args:
        predictor: A `Predictor` of ultrasound.
        path: Path of an image, a video or a DICOM file; see `frames.find_frames`.
        threshold: A pixel is lesion if its lesion probability reaches this; above 0 and up to 1.
        frame: Number of the frame, from 1.
        clip_in_distribution: See `Answer`; by default some of the clip's frames are predicted to judge it.

    Returns:
        An `Answer`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a readable image, the model gives no result for it, or the frame or the threshold is
            out of its range.
        ImportError: If the file is DICOM and pydicom is missing.
    """
    path = Path(path)
    frames = find_frames(path, Path(path.name), predictor.task)
    if not 1 <= frame <= len(frames):
        raise ValueError(f"Expected a frame of 1 to {len(frames)}, found {frame}: {path}")
    found = frames[frame - 1]
    image = found.read(predictor)
    prediction = predict_frame(predictor, found, image)
    count = (found.scan or found.clip).frame_count if found.number else 1
    content = path.read_bytes() if found.scan or count > 1 else None
    if clip_in_distribution is None:
        clip_in_distribution = (
            prediction.ood_score is None or count == 1 or _clip_in_distribution(predictor, frames[:count])
        )
    answer = Answer(
        path.name, image, prediction, predictor.classes, THRESHOLD,
        found.scan, content, frame, count, clip_in_distribution,
    )  # fmt: skip
    return at_threshold(answer, threshold)


def _clip_in_distribution(predictor, frames):
    """Whether a clip is in distribution: whether the median OOD score of some evenly spaced frames is at most 1."""
    ood_scores = []
    for frame in frames[:: -(-len(frames) // _JUDGED)]:
        with suppress(OSError, ValueError):  # a broken frame does not count
            ood_scores.append(predict_frame(predictor, frame, frame.read(predictor)).ood_score)
    return median(ood_scores or [0]) <= 1


def answer_frame(predictor: Predictor, answer: Answer, frame: int) -> Answer:
    """The answer to another frame of the same clip, at the same threshold; see `answer_file`."""
    with _as_file(answer) as path:
        return answer_file(predictor, path, answer.threshold, frame, answer.clip_in_distribution)


def segmentation(answer: Answer, model: str) -> bytes:
    """The lesion as DICOM SEG, which refers to its frame of the source.

    Args:
        answer: An `Answer` to a DICOM file.
        model: Name of the model, which the segmentation records.

    Returns:
        The bytes of a DICOM file.

    Raises:
        ValueError: If the image is not DICOM, lacks attributes that a SEG must reference, or is `OUT_OF_DISTRIBUTION`.
        ImportError: If highdicom is missing.
    """
    if not answer.in_distribution:
        raise ValueError(f"Expected a scan to segment, found one {OUT_OF_DISTRIBUTION}: {answer.name}")
    if answer.scan is None:
        raise ValueError(f"Expected an answer to a DICOM file, found one to another image: {answer.name}")
    with _as_file(answer) as path:
        numbers = range(1, answer.scan.frame_count + 1)
        labels = [answer.prediction.label if number == answer.frame else "normal" for number in numbers]
        empty = np.zeros_like(answer.prediction.mask)
        masks = (answer.prediction.mask if number == answer.frame else empty for number in numbers)
        remark = f"Of {len(numbers)} frames, frame {answer.frame} alone was predicted" if len(numbers) > 1 else ""
        out = path.parent / "segmentation" / "segmentation.dcm"
        write_segmentation(out, replace(answer.scan, path=path), masks, labels, model, remark)
        return out.read_bytes()


@contextmanager
def _as_file(answer: Answer) -> Iterator[Path]:
    """The file of the answer, on disk until the block ends."""
    if answer.content is None:
        raise ValueError(f"Expected an answer to a clip or a DICOM file, found one to a single image: {answer.name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / answer.name
        path.write_bytes(answer.content)
        yield path


def at_threshold(answer: Answer, threshold: float) -> Answer:
    """The same answer with the mask of another threshold; the network does not run again."""
    if not 0 < threshold <= 1:
        raise ValueError(f"Expected a threshold above 0 and up to 1, found {threshold}")
    mask = (answer.prediction.probability_map >= threshold).astype(np.uint8)
    prediction = replace(answer.prediction, mask=mask, threshold=float(threshold))
    return replace(answer, prediction=prediction, threshold=float(threshold))


def explain(predictor: Predictor, answer: Answer) -> dict:
    """The occlusion map of an answer's label; see `busseg.explain.occlusion.occlusion`.

    Args:
        predictor: The `Predictor` that gave the answer.
        answer: An `Answer`.

    Returns:
        Dict for JSON: `file`, `label`, `drop`, the largest fall of its probability when a region is covered, and
        `heat`, a PNG as a `data:` address: the image, coloured from blue, where covering raises the probability or
        changes it least, to yellow, where the fall is largest.
    """
    label = answer.prediction.label
    if answer.scan is None:
        drops = occlusion(predictor, answer.image, label)
    else:
        drops = answer.scan.place([occlusion(predictor, crop, label) for crop in answer.scan.crops(answer.image)])
    heat = png_address(draw_heat(answer.image, drops))
    return {"file": answer.name, "label": label, "drop": round(float(drops.max()), 6), "heat": heat}


def facts(answer: Answer) -> dict:
    """The content of an answer as a dict for JSON.

    Returns:
        Dict with `file`, `frame` and `frames`, `threshold`, `width` and `height` of the image, those of
        `inference.records.facts`, the answer's `warnings` in one line as `warning`, and `mask`: a PNG of native size,
        0/255, as a `data:` address.
    """
    prediction = answer.prediction
    height, width = answer.image.shape
    return {
        "file": answer.name,
        "frame": answer.frame,
        "frames": answer.frames,
        "threshold": answer.threshold,
        "width": width,
        "height": height,
        **records.facts(prediction, answer.classes),
        "warning": "; ".join(answer.warnings) or None,
        "mask": png_address(prediction.mask * 255),
    }


def png_address(pixels: NDArray) -> str:
    """An image as a `data:` address of a PNG, without loss.

    Args:
        pixels: Array `(height, width)` grey or `(height, width, 3)` RGB, uint8.
    """
    _, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels)
    return address("image/png", png.tobytes())


def address(kind: str, content: bytes) -> str:
    """Bytes of a MIME type as a `data:` address, which a browser shows or saves without a request."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
