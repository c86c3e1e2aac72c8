"""Pictures of an evaluation: review sheet, confusion matrix, training curves."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from busseg.data.files import replacing
from busseg.data.images import read_image, read_mask
from busseg.data.sample import CLASSES
from busseg.evaluation.scores import mask_scores
from busseg.inference.overlay import TRUTH_RGB, draw_contour


def draw_review_sheet(predictor, samples, path):
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
        overlay = draw_contour(draw_contour(image, mask, TRUTH_RGB), prediction.mask)
        for axis, pixels in zip(row, (image, mask * 255, prediction.mask * 255, overlay)):
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        scores = mask_scores(mask, prediction.mask)
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


def draw_confusion(confusion, path):
    """Draw a confusion matrix.

    Args:
        confusion: Counts, rows true and columns predicted, in the order of `CLASSES`.
        path: Path of the PNG file.
    """
    confusion = np.asarray(confusion)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.4, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(confusion):
        color = "white" if share[i, j] > 0.5 else "black"
        axis.text(j, i, f"{count}\n{share[i, j]:.0%}", ha="center", va="center", color=color)
    axis.set(xticks=range(3), yticks=range(3), xticklabels=CLASSES, yticklabels=CLASSES)
    axis.set(xlabel="predicted", ylabel="true")
    _save(figure, path)


def draw_curves(history, path):
    """Draw how a training went: loss, lesion Dice and accuracy over the epochs, on training and validation images.

    Args:
        history: Sequence of dicts, one an epoch, as in `history.csv`.
        path: Path of the PNG file.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    epochs = [int(row["epoch"]) for row in history]
    wanted = (("loss", "loss"), ("mask_lesion_dice", "lesion Dice"), ("label_accuracy", "accuracy"))
    for axis, (key, title) in zip(figure.subplots(1, 3), wanted):
        for prefix, name in (("", "train"), ("val_", "validation")):
            axis.plot(epochs, [float(row[prefix + key]) for row in history], label=name)
        axis.set(title=title, xlabel="epoch")
        axis.set_ylim(0, None if key == "loss" else 1)
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)


def _save(figure, path):
    with replacing(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, dpi=110)
