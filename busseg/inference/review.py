"""Review of predictions: the order in which a person should look at them, and their export as annotations to correct.

The score of an image is the largest of its uncertainty and its disagreement with the other views of its group; 1
without a prediction, and out of distribution. `benchmarks/review.py` compares it with other scores.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from busseg.data.convert import Conversion, convert_dataset
from busseg.data.sample import Sample
from busseg.inference.clips import pool_frames
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.inference.records import is_out_of_distribution
from busseg.storage.claims import claim_folder
from busseg.storage.escaping import match_names
from busseg.storage.files import blaming, read_csv, write_csv
from busseg.storage.run_folder import PREDICTION, PREDICTIONS, REVIEW

FIELDS = (*REVIEW.names, "frame", "uncertainty", "ood_score", "disagreement", "label", "group")


class Review(NamedTuple):
    """The result of a review: the `rows` of `review.csv`, dicts with `FIELDS` and the probabilities, by rank; and the
    `Conversion` of the export, None without one.
    """

    rows: list[dict]
    exported: Conversion | None


@dataclass(frozen=True)
class _View:
    """The prediction of a file.

    Args:
        file: Its path, as the table of predictions has it.
        error: Why a frame has no prediction; "" if all have one.
        probabilities: Dict from class to probability, see `pool_frames`; {} if no frame has a prediction.
        uncertainty: The median of the frames.
        ood_score: The same; None without.
        in_distribution: Whether its class may be trusted.
        frame: Number of the frame with the largest uncertainty; "" for an image.
        study: Its StudyInstanceUID; "" for other files than DICOM.
    """

    file: str
    error: str
    probabilities: dict[str, float]
    uncertainty: float = math.nan
    ood_score: float | None = None
    in_distribution: bool = True
    frame: str = ""
    study: str = ""

    @property
    def label(self) -> str:
        return max(self.probabilities, key=lambda label: self.probabilities[label], default="")

    @property
    def is_trusted(self) -> bool:
        return bool(self.probabilities) and self.in_distribution


def review_predictions(
    predictions: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    first: int | None = None,
    groups: str | Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Review:
    """Order predicted files by what a person should look at first, and export them as annotations to correct.

    Writes `review.csv`, one row a file, and with `to` a folder of that name, in the same order. Of a clip, the
    probabilities are those of `pool_frames`; uncertainty and OOD score are the medians of its frames.

    Args:
        predictions: Path of an output folder of `busseg predict`; an export needs its `--json-lines`.
        out: Path of the output folder. A former `review.csv` there is replaced, a former export is not.
        to: Format of the export, key of `convert.FORMATS`; None writes the table alone.
        first: Number of images to export, the first ones of those that the format holds; None exports all.
        groups: Path of a CSV file with the columns `file` (the path of a predicted file, or the end of it) and `group`,
            such as the patient. By default, the DICOM files of a study are a group.
        progress: Function that wraps an iteration over the exported images, for a progress bar.

    Raises:
        FileNotFoundError: If there is no table of predictions, or an export lacks the JSON lines.
        FileExistsError: If `out` holds other files than a former review, or the export's folder holds files.
        BlockingIOError: If another process writes there.
        ValueError: If a table is broken, `groups` lacks a predicted file, or predictions of histology are exported.
    """
    path, out = Path(predictions) / PREDICTIONS, Path(out)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an output of busseg predict, with {path.name}, found none: {predictions}")
    with blaming(path, "predictions"):
        views = _read_views(path)
    group_of = _read_groups(groups, [view.file for view in views]) if groups else {v.file: v.study for v in views}
    rows = rank_views(views, group_of)

    def arrange(samples: Sequence[Sample]) -> list[Sample]:
        rank = {row["file"]: row["rank"] for row in rows}
        named = sorted((one for one in samples if str(one.image) in rank), key=lambda one: rank[str(one.image)])
        return [replace(one, group=group_of[str(one.image)] or one.group) for one in named[:first]]

    exported = None
    with claim_folder(out, REVIEW):
        if to:
            exported = convert_dataset([predictions], out / to, to, arrange=arrange, progress=progress)
        columns = dict.fromkeys(name for row in rows for name in row)
        write_csv(out / REVIEW.marker, [*columns] or FIELDS, rows)
    return Review(rows, exported)


# === Read ===


def _read_views(path):
    """The `_View`s of a table of predictions, one a file."""
    frames = defaultdict(list)
    for row in read_csv(path, PREDICTION.names):
        frames[row["file"]].append(row)
    return [_join_frames(file, rows) for file, rows in frames.items()]


def _join_frames(file, rows):
    error = next((row["error"] for row in rows if row["error"]), "")
    rows = [row for row in rows if not row["error"]]
    if not rows:
        return _View(file, error, {})
    labels = [name for name in rows[0] if name.startswith("p_")]
    scores = [float(row["ood_score"]) for row in rows if row.get("ood_score")]
    uncertain = max(rows, key=_uncertainty_of)
    known = [row for row in rows if not row["warning"].startswith(OUT_OF_DISTRIBUTION)] or rows
    pooled = pool_frames(np.array([[float(row[name]) for name in labels] for row in known]))
    return _View(
        file,
        error,
        {name.removeprefix("p_"): float(p) for name, p in zip(labels, pooled)},
        median(map(_uncertainty_of, rows)),
        median(scores) if scores else None,
        not is_out_of_distribution(rows),
        uncertain.get("frame", ""),
        rows[0].get("study_instance_uid", ""),
    )


def _uncertainty_of(row):
    """The uncertainty of a row; 1 minus the largest probability, if the model has no such output."""
    return float(row.get("uncertainty") or 1 - max(float(p) for name, p in row.items() if name.startswith("p_")))


def _read_groups(path, files):
    """Dict from each file to its group in a table."""
    ends = defaultdict(list)
    for file in files:
        parts = PurePath(file).parts
        for place in range(len(parts)):
            ends[PurePath(*parts[place:]).as_posix()].append(file)
    spelt, groups = match_names(ends), {}
    for row in read_csv(path, required=("file", "group")):
        named = ends.get(spelt(row["file"]), [])
        if len(named) > 1:
            raise ValueError(f"Expected the end of one path, found that of {len(named)}, {row['file']!r}: {path}")
        for file in named:
            if groups.setdefault(file, row["group"]) != row["group"]:
                raise ValueError(f"Expected one group a file, found two for {row['file']!r}: {path}")
    for file in files:
        if not groups.get(file):
            raise ValueError(f"Expected a group for every predicted file, found none for {file!r}: {path}")
    return groups


# === Rank ===


def rank_views(views: Sequence[_View], group_of: Mapping[str, str]) -> list[dict]:
    """Rank predicted files by the score of this module.

    Args:
        views: Sequence of `_View`.
        group_of: Dict from each file to its group; "" if it is unknown.

    Returns:
        List of dicts with `FIELDS` and `p_CLASS`, "" where there is no value: files without a prediction, then those
        out of distribution, the farthest first, then the others by falling score.
    """
    groups = defaultdict(list)
    for view in views:
        if group_of[view.file] and view.is_trusted:
            groups[group_of[view.file]].append(view)
    others: dict[str, tuple[NDArray, int]] = {}
    for members in groups.values():
        if len(members) > 1:
            means = means_of_others(np.array([list(view.probabilities.values()) for view in members]))
            others |= {view.file: (mean, len(members) - 1) for view, mean in zip(members, means)}
    found = [(view, _to_row(view, group_of[view.file], *others.get(view.file, (None, 0)))) for view in views]
    found.sort(key=lambda pair: _order(*pair))
    return [{"rank": rank, **row} for rank, (_, row) in enumerate(found, 1)]


def _order(view, row):
    kind = 0 if view.error else 1 if not view.in_distribution else 2
    return kind, -float(row["score"]), -(view.ood_score or 0), view.file


def means_of_others(probabilities: NDArray) -> NDArray:
    """The mean of the other rows, for each row of an array `(n, classes)`, n > 1."""
    return (probabilities.sum(axis=0) - probabilities) / (len(probabilities) - 1)


def disagreement(probabilities: NDArray, others: NDArray) -> NDArray:
    """The total variation distance of class probabilities: half the sum of the absolute differences, in `[0, 1]`.

    Args:
        probabilities: Array `(..., classes)`.
        others: Array of the same shape.

    Returns:
        Array `(...)`.
    """
    return np.abs(probabilities - others).sum(axis=-1) / 2


def _to_row(view, group, others, count):
    """The row of a file, without its rank; `others` is the mean of `count` other views of its group, or None."""
    probabilities = np.array(list(view.probabilities.values()))
    apart = None if others is None else float(disagreement(probabilities, others))
    score = max(view.uncertainty, apart or 0) if view.is_trusted and not view.error else 1.0
    return {
        "file": view.file,
        "reason": _reason(view, others, count, apart),
        "score": f"{score:.6f}",
        "frame": view.frame,
        "uncertainty": f"{view.uncertainty:.6f}" if view.probabilities else "",
        "ood_score": "" if view.ood_score is None else f"{view.ood_score:.6f}",
        "disagreement": "" if apart is None else f"{apart:.6f}",
        "label": view.label,
        "group": group,
        **{f"p_{label}": f"{p:.6f}" for label, p in view.probabilities.items()},
    }


def _reason(view, others, count, apart):
    """Why a file has its score, in words."""
    if view.error:
        return f"not predicted: {view.error}"
    if not view.in_distribution:
        score = "" if view.ood_score is None else f", OOD score {view.ood_score:.2f}"
        return f"{OUT_OF_DISTRIBUTION}{score}"
    first, second = sorted(view.probabilities, key=lambda name: -view.probabilities[name])[:2]
    p = view.probabilities[first]
    if apart is not None and apart > view.uncertainty:
        views = f"in the mean of the {count} other views" if count > 1 else "in the other view"
        return f"views disagree: {first} {p:.0%}, but {dict(zip(view.probabilities, others))[first]:.0%} {views}"
    if view.uncertainty == 1:
        return f"outline: {first} {p:.0%}, but no pixel is lesion"
    if view.uncertainty > 1 - p + 1e-5:  # the digits of the table
        return f"outline: mean lesion probability {1 - view.uncertainty:.0%} inside the mask"
    return f"class: {first} {p:.0%}, {second} {view.probabilities[second]:.0%}"
