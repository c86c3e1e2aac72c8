"""Robustness: the same scores on images perturbed in six ways, each mild, moderate and strong.

At the mild strength a reader would still read the image, at the moderate one complain, at the strong one ask for
another image. The strengths were chosen by eye for BUSI: about 560 x 470 px, grey values of 84 +- 52, grains of speckle
about 3 px deep and twice as wide.

| perturbation | strengths | simulates |
|---|---|---|
| contrast | x0.7, x0.5, x0.3 about the image's mean | a wider dynamic range: greys move together, the mean stays |
| brightness | -20, -40, -60 grey levels | less gain: turns 14, 28 and 41 % of BUSI's pixels black |
| blur | sigma 1, 2, 4 px | poor focus: less than a grain of speckle, one grain, all texture gone |
| speckle | sd 0.05, 0.1, 0.2 of the grey value | other interference; in grains: noise of single pixels averages out |
| down-sampling | to 1/2, 1/4, 1/8 | screenshots and thumbnails; enlarged again, so that masks keep their size |
| flip | horizontal, vertical, both | the other breast or a turned probe; vertical: shadows that rise, unlike any scan |

Contrast and brightness are only reduced, since this hides dark lesions and detail. A scanner sets the gain and the
dynamic range of a logarithmic image, which are a shift and a factor of the grey values.
"""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.data.sample import CLASSES, Sample
from busseg.evaluation.scores import DISTANCES, OVERLAPS, overlap_scores, point_scores
from busseg.imaging.images import read_image, read_mask
from busseg.imaging.threads import map_in_turn
from busseg.storage.files import read_csv, write_csv

if TYPE_CHECKING:
    from busseg.inference.predictor import Predictor

BASELINE = "none"
STRENGTHS = (1, 2, 3)  # mild, moderate, strong
SCORES = ("dice", "accuracy", "macro_auc", "clean_normal_rate", "missed_rate")
_PROBABILITIES = tuple(f"p_{label}" for label in CLASSES)
FIELDS = (
    "file", "group", "label", "perturbation", "strength", "level", "predicted", *_PROBABILITIES,
    "dice", "clean", "true_px", "predicted_px", "error",
)  # fmt: skip
_READ: dict[str, Callable[[str], object]] = {
    **dict.fromkeys((*_PROBABILITIES, "dice"), float),
    **dict.fromkeys(("strength", "true_px", "predicted_px"), int),
    "clean": {"True": True, "False": False}.__getitem__,
}
_NOT_MEASURED = dict.fromkeys((*OVERLAPS, *DISTANCES, "width_px", "height_px"))  # `point_scores` reads them, too
_BATCH = 8
_GRAIN_PX = {"sigmaX": 3.0, "sigmaY": 1.5}  # across and along the beam: grains like those of BUSI


# === Perturbations: (image, amount, name) -> image ===
def _scale_contrast(image, factor, name):
    return _to_grey((image - image.mean()) * factor + image.mean())


def _shift_brightness(image, levels, name):
    return _to_grey(image + np.float32(levels))


def _blur(image, sigma_px, name):
    return cv2.GaussianBlur(image, (0, 0), sigma_px)


def _add_speckle(image, deviation, name):
    # Seeded by the name: the noise does not depend on the order of the images, and only its amount grows with strength.
    random = np.random.default_rng(zlib.crc32(name.encode()))
    noise = cv2.GaussianBlur(random.standard_normal(image.shape, np.float32), (0, 0), **_GRAIN_PX)
    # White noise blurred by a Gaussian keeps 1 / (4 pi sigma_x sigma_y) of its variance.
    noise *= 2 * np.sqrt(np.pi * _GRAIN_PX["sigmaX"] * _GRAIN_PX["sigmaY"])
    return _to_grey(image * (1 + deviation * noise))


def _down_sample(image, divisor, name):
    height, width = image.shape
    small = (max(1, round(width / divisor)), max(1, round(height / divisor)))
    small = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _flip(image, direction, name):
    axis = {"vertical": 0, "horizontal": 1, "both": (0, 1)}[direction]
    return np.ascontiguousarray(np.flip(image, axis))


def _to_grey(values):
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


_TABLE = {
    "contrast": (_scale_contrast, (0.7, 0.5, 0.3), "x{}"),
    "brightness": (_shift_brightness, (-20, -40, -60), "{}"),
    "blur": (_blur, (1, 2, 4), "sigma {} px"),
    "speckle": (_add_speckle, (0.05, 0.1, 0.2), "sd {}"),
    "down-sampling": (_down_sample, (2, 4, 8), "to 1/{}"),
    "flip": (_flip, ("horizontal", "vertical", "both"), "{}"),
}
PERTURBATIONS = tuple(_TABLE)


def perturb(image: NDArray, perturbation: str, strength: int, name: str) -> NDArray:
    """Perturb an image.

    Args:
        image: Array `(height, width)`, uint8.
        perturbation: One of `PERTURBATIONS`.
        strength: 1 mild, 2 moderate, 3 strong; for a flip 1 horizontal, 2 vertical, 3 both.
        name: The sample's name, the seed of the speckle.

    Returns:
        Array of the same shape, uint8.
    """
    change, amounts, _ = _TABLE[perturbation]
    return change(image, amounts[strength - 1], name)


def describe(perturbation: str, strength: int) -> str:
    """The amount of a perturbation as text, for example `sigma 2 px`."""
    _, amounts, text = _TABLE[perturbation]
    return text.format(amounts[strength - 1])


# === Measuring ===
def measure_robustness(
    predictor: "Predictor", samples: Sequence[Sample], progress: Callable[[Iterable], Iterable] = iter
) -> list[dict]:
    """Score a model on images as they are and under each perturbation at each strength, at native size.

    That is 19 predictions an image. The mask of a flipped image is flipped back before it is scored.

    Args:
        predictor: A `Predictor` of ultrasound.
        samples: Sequence of `Sample`.
        progress: Function that wraps the iteration over the samples, for a progress bar.

    Returns:
        List of dicts with `FIELDS`: for each sample a row of the image as it is (perturbation "none", strength 0), then
        a row for each perturbation and strength; None for values that are not defined. A sample that cannot be read
        gets one row, with its error. A row for which the model gives no result holds the error, too.

    Raises:
        ValueError: If the predictor is one of histology.
    """
    if not predictor.task.has_mask:
        raise ValueError(f"Expected a model of ultrasound to measure the robustness of, found one of {predictor.task}")
    rows = []
    cases = _cases(samples, progress)
    # Batches run across samples, so that all but the last are full.
    batches = iter(lambda: list(islice(cases, _BATCH)), [])
    for scored in map_in_turn(partial(_score_batch, predictor), batches, _count_pixels):
        rows += scored
    return rows


def _cases(samples, progress):
    """Yield `(row, image, mask)` for each image to predict; `(row, None, None)` for one that cannot be read."""
    levels = [(perturbation, strength) for perturbation in PERTURBATIONS for strength in STRENGTHS]
    for sample in progress(samples):
        row = dict.fromkeys(FIELDS) | {"file": sample.name, "group": sample.group, "label": sample.label}
        row |= {"perturbation": BASELINE, "strength": 0}
        try:
            image = read_image(sample.image)
            mask = read_mask(sample.masks, image.shape)
        except (OSError, ValueError) as error:
            yield row | {"error": str(error)}, None, None
            continue
        yield row, image, mask
        for perturbation, strength in levels:
            case = {"perturbation": perturbation, "strength": strength, "level": describe(perturbation, strength)}
            yield row | case, perturb(image, perturbation, strength, sample.name), mask


def _count_pixels(batch):
    return sum(image.size for _, image, _ in batch if image is not None)


def _score_batch(predictor, batch):
    readable = [image for _, image, _ in batch if image is not None]
    predictions = iter(predictor.try_batch(readable) if readable else ())
    return [row if image is None else _score(row, mask, next(predictions)) for row, image, mask in batch]


def _score(row, mask, prediction):
    if isinstance(prediction, ValueError):
        return row | {"error": f"{prediction}: {row['file']}"}
    predicted = prediction.mask
    if row["perturbation"] == "flip":
        predicted = perturb(predicted, "flip", row["strength"], row["file"])  # a second flip undoes the first
    overlap = overlap_scores(mask, predicted)
    probabilities = dict(zip(_PROBABILITIES, map(float, prediction.probabilities)))
    known = {name: overlap[name] for name in ("dice", "clean", "true_px", "predicted_px")}
    return row | {"predicted": prediction.label} | probabilities | known


def write_robustness(path: str | Path, rows: Iterable[dict]) -> None:
    """Write the rows of `measure_robustness` to a CSV file. None becomes an empty cell."""
    write_csv(path, FIELDS, rows)


def read_robustness(path: str | Path) -> list[dict]:
    """Read the rows that `write_robustness` wrote: the same rows, to the last digit.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a table of robustness.
    """
    rows = read_csv(path, required=FIELDS)
    try:
        return [{name: _READ.get(name, str)(row[name]) if row[name] else None for name in FIELDS} for row in rows]
    except (KeyError, ValueError) as error:
        raise ValueError(f"Expected numbers in the table of robustness, found others ({error}): {path}") from error


# === Summing up ===
def summarise_robustness(rows: Iterable[dict]) -> list[dict]:
    """Sum up the rows of `measure_robustness`, one summary for each perturbation and strength.

    Args:
        rows: Sequence of dicts. Those with an error are left out.

    Returns:
        List of dicts of `perturbation`, `strength`, `level`, `images`, `scores` and `change`; the images as they are
        come first. `scores` is a dict of `SCORES` (see `point_scores`); `change` holds each score minus that of the
        images as they are; None where a score is not defined.
    """
    cases = defaultdict(list)
    for row in rows:
        if not row["error"]:
            cases[row["perturbation"], row["strength"], row["level"]].append(row)
    order = (BASELINE, *PERTURBATIONS)
    summary = []
    baseline: dict[str, float | None] = {}
    for case in sorted(cases, key=lambda case: (order.index(case[0]), case[1])):
        points = point_scores([_NOT_MEASURED | row for row in cases[case]])
        scores = {name: points[name] for name in SCORES}
        baseline = baseline or scores
        change = {name: _difference(scores[name], baseline[name]) for name in SCORES}
        heading = dict(zip(("perturbation", "strength", "level"), case))
        summary.append(heading | {"images": len(cases[case]), "scores": scores, "change": change})
    return summary


def _difference(score: float | None, baseline: float | None) -> float | None:
    return None if score is None or baseline is None else score - baseline


def format_robustness(summary: Iterable[dict]) -> str:
    """The scores of `summarise_robustness` as lines of text, with their change in brackets."""
    titles = ("Dice", "accuracy", "macro AUC", "clean normals", "missed")
    lines = [f"{'':14}{'':11}" + "".join(f" {title:14}" for title in titles)]
    former = None
    for case in summary:
        name, baseline = case["perturbation"], case["perturbation"] == BASELINE
        title = "as they are" if baseline else name if name != former else ""
        cells = (_with_change(case["scores"][score], None if baseline else case["change"][score]) for score in SCORES)
        lines.append(f"{title:14}{case['level'] or '':11}" + "".join(f" {cell:14}" for cell in cells))
        former = name
    return "\n".join(line.rstrip() for line in lines)


def _with_change(score, change):
    if score is None:
        return "n/a"
    return f"{score:.3f}" + ("" if change is None else f" ({change:+.3f})")
