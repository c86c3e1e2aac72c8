"""A clip as a whole: its class, pooled over its frames; its best frame; its lesions, followed from frame to frame."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.data.task import Task
from busseg.imaging.dicom import Uids
from busseg.imaging.images import read_image
from busseg.inference.frames import frame_target
from busseg.inference.quality import OUT_OF_DISTRIBUTION

SAME_LESION = 0.1  # IoU of two lesions in consecutive frames, from which they are one; a probe moves fast
LASTING = 2  # frames in which a lesion must be seen to be counted in `clips.csv`


@dataclass
class Track:
    """A lesion, followed over the frames of a clip.

    Args:
        numbers: Numbers of its frames, rising.
        areas_px: Its area in each of them, in pixels.
    """

    numbers: list[int] = field(default_factory=list)
    areas_px: list[int] = field(default_factory=list)

    @property
    def best_frame(self) -> int:
        """Number of the frame in which it is largest; the first of several."""
        return self.numbers[int(np.argmax(self.areas_px))]


def pool_frames(probabilities: NDArray) -> NDArray:
    """The class probabilities of a clip, array `(classes,)`: the mean over its frames, array `(frames, classes)`.

    Frames that are out of distribution are left out before, unless all are. `benchmarks/clips.py` compares the mean
    with other rules.
    """
    return np.mean(probabilities, axis=0)


def track_lesions(masks: Iterable[tuple[int, NDArray[np.uint8]]]) -> list[Track]:
    """Follow lesions from frame to frame: greedy matching of the connected parts of consecutive masks.

    The pair with the largest IoU is matched first, and none below `SAME_LESION`. A lesion that is missing in one frame
    is a new one when it comes back. One frame is in memory at a time.

    Args:
        masks: Iterable of `(number, mask)`: the number of a frame and an array `(height, width)` uint8, 0 or 1.

    Returns:
        List of `Track`, by their first frames.
    """
    tracks: list[Track] = []
    before: dict[int, Track] = {}
    parts_before: NDArray | None = None
    for number, mask in masks:
        count, parts, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        now: dict[int, Track] = {}
        for old, new in _match(parts_before, parts) if before else ():
            now[new] = before[old]
        for part in range(1, count):  # 0 is the background
            if part not in now:
                tracks.append(now.setdefault(part, Track()))
            now[part].numbers.append(number)
            now[part].areas_px.append(int(boxes[part][cv2.CC_STAT_AREA]))
        before, parts_before = now, parts
    return tracks


def _match(old, new):
    """Pairs `(old, new)` of the numbers of parts that are one lesion. Frames of different sizes have none."""
    if old.shape != new.shape:
        return
    common = np.zeros((old.max() + 1, new.max() + 1), np.int64)
    np.add.at(common, (old.ravel(), new.ravel()), 1)
    union = common.sum(axis=1, keepdims=True) + common.sum(axis=0) - common
    iou = common[1:, 1:] / union[1:, 1:]
    while iou.size and iou.max() >= SAME_LESION:
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        yield int(row) + 1, int(column) + 1
        iou[row], iou[:, column] = 0, 0


# === Files ===


def clip_fields(task: Task) -> tuple[str, ...]:
    """Columns of `clips.csv`."""
    probabilities = (f"p_{label}" for label in task.classes)
    return ("file", "frames", "counted", "label", *probabilities, "best_frame", "lesions", *Uids._fields, "warning")


def to_clip_record(target: Path, rows: Sequence[Mapping], out: Path, task: Task) -> dict | None:
    """What `clips.jsonl` says of a clip, from the results of its frames. The masks are read again, one at a time.

    Args:
        target: Path of the clip's results without suffix, relative to the output folder.
        rows: Rows of its frames, see `records.to_row`, in their order. Those with an error do not count, nor those that
            are out of distribution, unless all are.
        out: Path of the output folder.
        task: The task of the model.

    Returns:
        Dict of `file`; the numbers of `frames` and of those `counted`; `label` and `probabilities`, see `pool_frames`;
        `best_frame`, the counted one with the largest probability of that label; `lesions`, a list of dicts, see
        `_to_lesion`; `Uids`, and `warning`, None unless the clip is `OUT_OF_DISTRIBUTION`. None if no frame could be
        predicted.
    """
    answered = [row for row in rows if not row["error"]]
    known = [row for row in answered if not row["warning"].startswith(OUT_OF_DISTRIBUTION)]
    counted = known or answered
    if not counted:
        return None
    probabilities = _probabilities(counted, task)
    pooled = pool_frames(probabilities)
    best = int(np.argmax(probabilities[:, pooled.argmax()]))
    return {
        "file": str(rows[0]["file"]),
        "frames": len(answered),
        "counted": len(counted),
        **_class_of(pooled, task),
        "best_frame": int(counted[best]["frame"]),
        "lesions": [_to_lesion(track, counted, task) for track in track_lesions(_read_masks(target, counted, out))],
        **{name: counted[0][name] for name in Uids._fields},
        "warning": None if known else OUT_OF_DISTRIBUTION,
    }


def _to_lesion(track, rows, task):
    """A track as a dict: its `first` and `last` frame, the number of its `frames`, the `best_frame` and its area there,
    `area_px`; and `label` and `probabilities`, the mean of its frames.
    """
    numbers = set(track.numbers)
    mine = [row for row in rows if int(row["frame"]) in numbers]
    return {
        "first": track.numbers[0],
        "last": track.numbers[-1],
        "frames": len(track.numbers),
        "best_frame": track.best_frame,
        "area_px": max(track.areas_px),
        **_class_of(pool_frames(_probabilities(mine, task)), task),
    }


def _probabilities(rows, task):
    return np.array([[float(row[f"p_{label}"]) for label in task.classes] for row in rows])


def _class_of(probabilities, task):
    named = {label: round(float(p), 6) for label, p in zip(task.classes, probabilities)}
    return {"label": max(named, key=lambda label: named[label]), "probabilities": named}


def _read_masks(target, rows, out):
    for row in rows:
        mask = read_image(out / f"{frame_target(target, row['frame'])}_mask.png") // 255
        # A normal frame has no lesion; see `Prediction.finding`.
        yield int(row["frame"]), mask * (row["label"] != "normal")


def to_clip_row(record: Mapping, task: Task) -> dict:
    """The row of `clips.csv` of a record: a dict with `clip_fields`. Lesions seen in one frame alone do not count."""
    probabilities = {f"p_{label}": f"{p:.6f}" for label, p in record["probabilities"].items()}
    row = {name: record[name] for name in clip_fields(task) if name in record}
    lasting = min(LASTING, record["counted"])
    lesions = sum(lesion["frames"] >= lasting for lesion in record["lesions"])
    return {**row, **probabilities, "lesions": lesions, "warning": record["warning"] or ""}


def to_clip_line(record: Mapping) -> str:
    """The line of `clips.jsonl` of a record."""
    return json.dumps(record) + "\n"
