"""The page's answer to one image: the prediction and what belongs to it, without any web code."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.app.addresses import png_address
from busseg.app.clips import ClipAnswer, DecodedClips, answer_clip
from busseg.data.sample import THRESHOLD
from busseg.explain.occlusion import occlusion
from busseg.imaging.dicom import Scan
from busseg.imaging.dicom_seg import write_segmentation
from busseg.inference import records
from busseg.inference.frames import Frame, find_frames, predict_frame
from busseg.inference.overlay import draw_heat, draw_overlay
from busseg.inference.prediction import Prediction
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION


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
        clip: The `ClipAnswer` of a file with several frames; None for a single image.
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
    clip: ClipAnswer | None = None

    @property
    def stem(self) -> str:
        """The stem of the names of files saved from this answer."""
        return Path(self.name).stem + (f"_frame_{self.frame}" if self.frames > 1 else "")

    @property
    def in_distribution(self) -> bool:
        """Whether the image, and the clip that contains it, are in distribution."""
        return self.prediction.in_distribution and (self.clip is None or self.clip.in_distribution)

    @property
    def mask(self) -> NDArray:
        """Array `(height, width)` uint8, 1 where the lesion is, else 0."""
        assert self.prediction.mask is not None  # of ultrasound
        return self.prediction.mask

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
    require_region: bool = False,
    clip: ClipAnswer | None = None,
    decoded: DecodedClips | None = None,
) -> Answer:
    """Read an image file, or a frame of a clip or a DICOM file, and predict it.

    Args:
        predictor: A `Predictor` of ultrasound.
        path: Path of an image, a video or a DICOM file; see `frames.find_frames`.
        threshold: A pixel is lesion if its lesion probability reaches this; above 0 and up to 1.
        frame: Number of the frame, from 1.
        require_region: Whether to refuse DICOM without a usable region; see `frames.find_frames`.
        clip: The answer to the clip as a whole, if it is known; by default some of its frames are predicted for it.
        decoded: Where to keep the decoded frames of a clip.

    Returns:
        An `Answer`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a readable image, the model gives no result for it, or the frame or the threshold is
            out of its range.
        ImportError: If the file is DICOM and pydicom is missing.
    """
    path, decoded = Path(path), decoded or DecodedClips()
    frames = find_frames(path, Path(path.name), predictor.task, require_region)
    if not 1 <= frame <= len(frames):
        raise ValueError(f"Expected a frame of 1 to {len(frames)}, found {frame}: {path}")
    found = frames[frame - 1]
    held = found.scan or found.clip
    count = held.frame_count if held and found.number else 1
    images = decoded.find(clip)
    if not images and found.clip and count > 1:  # frames of DICOM are read one by one, without those before
        images = decoded.read(predictor, frames)
    image = images[frame] if frame in images else found.read(predictor)
    prediction = predict_frame(predictor, found, image)
    if count > 1:
        clip = clip or answer_clip(predictor, frames[:count], images, (frame, image, prediction))
        decoded.keep(clip, images)
    content = path.read_bytes() if found.scan or count > 1 else None
    answer = Answer(path.name, image, prediction, predictor.classes, THRESHOLD, found.scan, content, frame, count, clip)
    return at_threshold(answer, threshold)


def answer_frame(predictor: Predictor, answer: Answer, frame: int, decoded: DecodedClips | None = None) -> Answer:
    """The answer to another frame of the same clip, at the same threshold; see `answer_file`."""
    image = decoded.find(answer.clip).get(frame) if decoded else None
    if image is None:
        with _as_file(answer) as path:
            return answer_file(predictor, path, answer.threshold, frame, clip=answer.clip, decoded=decoded)
    path = Path(answer.name)
    prediction = predict_frame(predictor, Frame(path, path, frame), image)
    return at_threshold(replace(answer, image=image, prediction=prediction, frame=frame), answer.threshold)


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
    _check_known(answer)
    if answer.scan is None:
        raise ValueError(f"Expected an answer to a DICOM file, found one to another image: {answer.name}")
    with _as_file(answer) as path:
        numbers = range(1, answer.scan.frame_count + 1)
        labels = [answer.prediction.label if number == answer.frame else "normal" for number in numbers]
        empty = np.zeros_like(answer.mask)
        masks = (answer.mask if number == answer.frame else empty for number in numbers)
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
    assert answer.prediction.probability_map is not None  # of ultrasound
    mask = (answer.prediction.probability_map >= threshold).astype(np.uint8)
    prediction = replace(answer.prediction, mask=mask, threshold=float(threshold))
    return replace(answer, prediction=prediction, threshold=float(threshold))


def explain(predictor: Predictor, answer: Answer) -> dict:
    """The occlusion map of an answer's label; see `busseg.explain.occlusion.occlusion`.

    Args:
        predictor: The `Predictor` that gave the answer.
        answer: An `Answer`.

    Returns:
        Dict for JSON: `file`, `frame` and `frames`; `label`, the class, and its `probability`; `drop` and `least`, the
        largest and the smallest fall of that probability when a place is covered, below 0 where it rises; and `heat`, a
        PNG as a `data:` address: the image, coloured from blue, where the fall is smallest, to yellow, where it is
        largest.
    """
    label = answer.prediction.label
    if answer.scan is None:
        drops = occlusion(predictor, answer.image, label)
    else:
        drops = answer.scan.place([occlusion(predictor, crop, label) for crop in answer.scan.crops(answer.image)])
    return {
        "file": answer.name,
        "frame": answer.frame,
        "frames": answer.frames,
        "label": label,
        "probability": round(answer.prediction.confidence, 6),
        "drop": round(float(drops.max()), 6),
        "least": round(float(drops.min()), 6),
        "heat": png_address(draw_heat(answer.image, drops)),
    }


def overlay(answer: Answer) -> str:
    """The image with the outline of its lesion and a caption, as `busseg predict` draws it: a PNG as a `data:` address.

    Raises:
        ValueError: If the image is `OUT_OF_DISTRIBUTION`.
    """
    _check_known(answer)
    return png_address(draw_overlay(answer.image, answer.prediction))


def _check_known(answer):
    if not answer.in_distribution:
        raise ValueError(f"Expected a breast ultrasound, found an image {OUT_OF_DISTRIBUTION}: {answer.name}")


def facts(answer: Answer) -> dict:
    """The content of an answer as a dict for JSON.

    Returns:
        Dict with `file`, `frame` and `frames`, `threshold`, `width` and `height` of the image, those of
        `inference.records.facts`, the answer's `warnings` in one line as `warning`, and `mask`: a PNG of native size,
        0/255, as a `data:` address. `clip` is None for a single image; for a clip a dict of its `label`, its
        `probabilities`, the numbers of the `frames` whose mean they are, and of those `left_out` because they are
        `OUT_OF_DISTRIBUTION`, and the number and the probability of malignant of the `most_suspicious`; see
        `ClipAnswer`.
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
        "clip": answer.clip and _clip_facts(answer.clip),
        "mask": png_address(answer.mask * 255),
    }


def _clip_facts(clip):
    counted, worst = [frame.number for frame in clip.counted], clip.most_suspicious
    p_malignant = float(worst.probabilities[clip.classes.index("malignant")])
    return {
        "label": clip.label,
        "probabilities": {name: round(float(p), 6) for name, p in zip(clip.classes, clip.probabilities)},
        "frames": counted,
        "left_out": [frame.number for frame in clip.frames if frame.number not in counted],
        "most_suspicious": {"frame": worst.number, "malignant": round(p_malignant, 6)},
    }
