"""The plots of a report. Each returns a `matplotlib.figure.Figure`, small enough for a phone."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from busseg.data.sample import CLASSES
from busseg.data.task import Task

# Different in hue and in brightness, for colour-blind readers and grey paper. None: images without a class.
COLORS: dict[str | None, ColorType] = {
    "normal": "#4c78a8",
    "benign": "#d98c00",
    "malignant": "#9c1f52",
    None: "#555555",
}
COLORS |= {label: matplotlib.color_sequences["tab10"][number] for number, label in enumerate(Task.SUBTYPES.classes)}
TRAIN, VALIDATION = "#8fa3b5", "#c8102e"
SIZE = (4.4, 3.6)  # inches
MANY = 1500  # more dots than this are drawn as pixels: each dot takes a hundred bytes of SVG
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g} %")


def _panel(**settings):
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    _style(axis, **settings)
    return figure, axis


def _style(axis, **settings):
    axis.set(**settings)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


# === Classes ===
def plot_confusion(confusion: ArrayLike, classes: Sequence[str] = CLASSES) -> Figure:
    """The confusion matrix: counts, and shares of each true class. A darker cell is a larger share.

    Args:
        confusion: Counts, rows true and columns predicted, in the order of `classes`.
        classes: Sequence of their names.
    """
    confusion = np.asarray(confusion)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    names, places = [label.replace("_", "\n") for label in classes], range(len(classes))
    figure = Figure(figsize=(2.3 + 0.7 * len(classes), 1.7 + 0.7 * len(classes)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(confusion):
        color = "white" if share[i, j] > 0.5 else "black"
        axis.text(j, i, f"{count}\n{share[i, j]:.0%}", ha="center", va="center", color=color)
    axis.set(xticks=places, yticks=places, yticklabels=names)
    axis.set_xticklabels(names, rotation=90 if len(classes) > 4 else 0)
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def roc_curves(
    labels: Sequence[str], probabilities: ArrayLike, classes: Sequence[str] = CLASSES
) -> dict[str, tuple[NDArray, NDArray, float]]:
    """The ROC curve of each class against the rest.

    Args:
        labels: Sequence of true classes, each of `classes`.
        probabilities: Array `(images, classes)`, in their order.
        classes: Sequence of their names.

    Returns:
        Dict from class to `(false_positive_rate, sensitivity, auc)`, two arrays and a float. A class that holds no
        image or all images has no curve and is left out.
    """
    return {
        label: (*roc_curve(truth, score)[:2], float(roc_auc_score(truth, score)))
        for label, truth, score in _one_against_rest(labels, probabilities, classes)
    }


def precision_recall_curves(
    labels: Sequence[str], probabilities: ArrayLike, classes: Sequence[str] = CLASSES
) -> dict[str, tuple[NDArray, NDArray, float]]:
    """The precision-recall curve of each class against the rest.

    Args:
        labels, probabilities, classes: As for `roc_curves`.

    Returns:
        Dict from class to `(recall, precision, average_precision)`, two arrays and a float. A class without a curve is
        left out, as in `roc_curves`.
    """
    return {
        label: (*precision_recall_curve(truth, score)[1::-1], float(average_precision_score(truth, score)))
        for label, truth, score in _one_against_rest(labels, probabilities, classes)
    }


def _one_against_rest(labels, probabilities, classes):
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    for number, label in enumerate(classes):
        truth = labels == label
        if truth.any() and not truth.all():
            yield label, truth, probabilities[:, number]


def plot_roc(curves: Mapping[str, tuple[NDArray, NDArray, float]]) -> Figure:
    """Draw `roc_curves`."""
    figure, axis = _panel(xlabel="false positive rate (1 - specificity)", ylabel="sensitivity")
    axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":")
    for label, (false_positive_rate, sensitivity, auc) in curves.items():
        axis.plot(false_positive_rate, sensitivity, color=COLORS[label], label=f"{label}, AUC {auc:.3f}")
    axis.set(xlim=(-0.01, 1), ylim=(0, 1.01))
    axis.legend(loc="lower right")
    return figure


def plot_precision_recall(curves: Mapping[str, tuple[NDArray, NDArray, float]]) -> Figure:
    """Draw `precision_recall_curves` as steps: no operating point lies between two thresholds."""
    figure, axis = _panel(xlabel="recall (sensitivity)", ylabel="precision")
    for label, (recall, precision, average) in curves.items():
        # Ordered by falling recall; the first value, at recall 1, is the share of the class among all images.
        axis.step(recall, precision, where="post", color=COLORS[label], label=f"{label}, average {average:.3f}")
        axis.axhline(precision[0], color=COLORS[label], linewidth=1, linestyle=":")
    axis.set(xlim=(0, 1.01), ylim=(0, 1.02))
    axis.legend(loc="lower left")
    return figure


def plot_reliability(bins: Sequence[dict], ece: float) -> Figure:
    """The reliability diagram: accuracy by confidence, and below the number of images by confidence.

    Args:
        bins: Sequence of dicts of `low`, `high`, `images`, `confidence` and `accuracy`.
        ece: Expected calibration error, in `[0, 1]`.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axis, counts = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    low, width = np.array([one["low"] for one in bins]), np.array([one["high"] - one["low"] for one in bins])
    axis.bar(low, [one["accuracy"] for one in bins], width, align="edge", color="#9db8d2", edgecolor="white")
    axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":")
    places = [one["confidence"] for one in bins]
    axis.plot(places, [one["accuracy"] for one in bins], "o", color="#1f3f63", markersize=4)
    counts.bar(low, [one["images"] for one in bins], width, align="edge", color="#9db8d2", edgecolor="white")
    _style(axis, ylabel="share right", ylim=(0, 1.03), xlim=(min(1 / 3, *low), 1))
    _style(counts, ylabel="images", xlabel="confidence in the answer")
    axis.set_title(f"ECE {ece:.3f}", fontsize=11)
    return figure


def plot_risk_coverage(coverage: NDArray, risk: NDArray) -> Figure:
    """The risk-coverage curve: the error rate among the most confident images.

    Args:
        coverage, risk: Arrays `(images,)`; see `busseg.evaluation.operating.risk_coverage`.
    """
    figure, axis = _panel(xlabel="share of images answered, the surest first", ylabel="share of answers wrong")
    axis.step(coverage, risk, where="mid", color=COLORS["normal"])
    axis.axhline(risk[-1], color="#999999", linewidth=1, linestyle=":")
    axis.set(xlim=(0, 1.01), ylim=(0, None))
    axis.xaxis.set_major_formatter(PERCENT)
    axis.yaxis.set_major_formatter(PERCENT)
    axis.set_title(f"AURC {np.mean(risk):.3f}", fontsize=11)
    return figure


# === Lesions ===
def plot_dice(rows: Sequence[dict]) -> Figure:
    """The Dice of each lesion as a dot; a box between the quartiles, a line at the median, a diamond at the mean.

    Args:
        rows: Rows of `per_image.csv`; those with a Dice are drawn.
    """
    figure, axis = _panel(ylabel="Dice", ylim=(-0.03, 1.03))
    scores = {label: [row["dice"] for row in rows if row["label"] == label] for label in (*CLASSES, None)}
    scores = {label: [dice for dice in values if dice is not None] for label, values in scores.items()}
    scores = {label: values for label, values in scores.items() if values}
    for place, (label, values) in enumerate(scores.items()):
        # The golden ratio spreads the dots evenly, the same way every time.
        aside = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.5
        axis.plot(
            place + aside, values, "o", color=COLORS[label], alpha=0.6, markersize=4, markeredgewidth=0,
            rasterized=len(values) > MANY,
        )  # fmt: skip
    axis.boxplot(
        list(scores.values()), positions=range(len(scores)), widths=0.6, showfliers=False, showmeans=True,
        medianprops={"color": "black", "linewidth": 1.8},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5},
    )  # fmt: skip
    names = [f"{label or 'lesion'}, {len(values)}\nmedian {np.median(values):.3f}" for label, values in scores.items()]
    axis.set_xticks(range(len(scores)), names)
    axis.set_xlim(-0.6, len(scores) - 0.4)
    return figure


def plot_dice_by_size(rows: Sequence[dict]) -> Figure:
    """The Dice of each lesion against its share of the image, and the median by size.

    Args:
        rows: Rows of `per_image.csv`; those with a Dice are drawn.
    """
    figure, axis = _panel(xlabel="lesion, share of the image", ylabel="Dice", ylim=(-0.03, 1.03), xscale="log")
    lesions = [row for row in rows if row["dice"] is not None and row["width_px"]]
    points = np.array([(row["true_px"] / (row["width_px"] * row["height_px"]), row["dice"]) for row in lesions])
    for label in (*CLASSES, None):
        mine = points[[row["label"] == label for row in lesions]]
        if len(mine):
            axis.plot(
                *mine.T, "o", color=COLORS[label], alpha=0.65, markersize=4, markeredgewidth=0,
                rasterized=len(mine) > MANY, label=label or "lesion",
            )  # fmt: skip
    parts = np.array_split(points[np.argsort(points[:, 0], kind="stable")], min(8, len(points) // 8) or 1)
    if len(parts) > 1:
        axis.plot(*np.array([np.median(part, axis=0) for part in parts]).T, color="black", label="median")
    axis.xaxis.set_major_formatter(PERCENT)
    figure.legend(loc="outside upper center", ncols=4)  # inside, it would hide the missed lesions
    return figure


# === Training ===
def plot_history(histories: Sequence[Sequence[dict]], name: str, title: str) -> Figure:
    """One quantity over the epochs, on training and on validation images; several runs have a thin line each.

    Args:
        histories: Sequence of runs, each a sequence of dicts, one an epoch, as in `history.csv`.
        name: Column of the training images; `val_` and this name is the column of the validation images, if any.
        title: Title of the plot.
    """
    figure, axis = _panel(title=title, xlabel="epoch")
    width = 1.6 if len(histories) == 1 else 0.8
    for number, history in enumerate(histories):
        epochs = [int(row["epoch"]) for row in history]
        parts = [("", TRAIN, "training"), ("val_", VALIDATION, "validation")]
        for prefix, color, legend in (part for part in parts if part[0] + name in history[0]):
            values = [float(row[prefix + name]) for row in history]
            axis.plot(epochs, values, color=color, linewidth=width, label=None if number else legend)
        best = np.argmin([float(row["val_loss"]) for row in history]) if "val_loss" in history[0] else -1
        axis.plot(epochs[best], values[best], "o", color=color, markersize=5, label=None if number else "kept")
    axis.set_ylim(0, None if name == "loss" else 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return figure


# === Robustness ===
def plot_robustness(summary: Sequence[dict], name: str, title: str) -> Figure:
    """One score against the strength of each perturbation.

    Args:
        summary: List, as `summarise_robustness` returns it. The perturbation "none" is strength 0 of every curve.
        name: Name of the score.
        title: Title of the plot.
    """
    figure, axis = _panel(title=title, xlabel="strength")
    baseline = [(0, row["scores"][name]) for row in summary if row["perturbation"] == "none"]
    kinds = list(dict.fromkeys(row["perturbation"] for row in summary if row["perturbation"] != "none"))
    colors = matplotlib.color_sequences["Dark2"]
    for number, kind in enumerate(kinds):
        points = [(row["strength"], row["scores"][name]) for row in summary if row["perturbation"] == kind]
        points = [point for point in sorted(baseline + points) if point[1] is not None]
        marker = "osD^vPX*"[number % 8]
        axis.plot(*np.reshape(points, (-1, 2)).T, f"{marker}-", color=colors[number % 8], markersize=4, label=kind)
    axis.set_ylim(0, 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    return figure
