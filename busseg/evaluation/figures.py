"""The PNG figures of an evaluation: review sheet and confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from busseg.evaluation.plots import plot_confusion
from busseg.evaluation.scores import overlap_scores
from busseg.imaging.images import read_image, read_mask
from busseg.inference.overlay import TRUTH_RGB, draw_contour
from busseg.storage.files import replacing
from busseg.storage.signature import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from busseg.data.sample import Sample
    from busseg.inference.predictor import Predictor


def draw_review_sheet(predictor: Predictor, samples: Sequence[Sample], path: str | Path) -> None:
    """Draw a row a sample: image | true mask | predicted mask | overlay with the class.

    Args:
        predictor: A `Predictor`.
        samples: Sequence of readable `Sample`.
        path: Path of the PNG file.
    """
    figure = Figure(figsize=(12, 2.6 * len(samples) + 0.6), layout="constrained")
    axes = figure.subplots(len(samples), 4, squeeze=False)
    for axis, title in zip(axes[0], ("image", "true mask", "predicted mask", "overlay: green true, yellow predicted")):
        axis.set_title(title, fontsize=10)
    for row, sample in zip(axes, samples):
        image = read_image(sample.image)
        mask = read_mask(sample.masks, image.shape)
        prediction = predictor.predict(image)
        assert prediction.mask is not None  # of ultrasound
        overlay = draw_contour(draw_contour(image, mask, TRUTH_RGB), prediction.mask)
        for axis, pixels in zip(row, (image, mask * 255, prediction.mask * 255, overlay)):
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        scores = overlap_scores(mask, prediction.mask)
        verdict = (
            ("clean" if scores["clean"] else "false alarm") if scores["dice"] is None else f"Dice {scores['dice']:.2f}"
        )
        row[0].set_ylabel(sample.label or "", fontsize=10)
        row[0].set_xlabel(sample.name, fontsize=8)
        color = "black" if sample.label in (None, prediction.label) else "red"
        row[3].set_xlabel(
            f"{prediction.label} {prediction.probabilities.max():.2f}, {verdict}", fontsize=9, color=color
        )
    _save(figure, path)


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], path: str | Path) -> None:
    """Draw a confusion matrix.

    Args:
        confusion: Counts, rows true and columns predicted, in the order of `classes`.
        classes: Sequence of their names.
        path: Path of the PNG file.
    """
    _save(plot_confusion(confusion, classes), path)


def _save(figure, path):
    with replacing(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, dpi=110, metadata=SOFTWARE)
