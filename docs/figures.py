"""Draw the figures of the documentation into `docs/images/`, from `docs/evidence/` and the sample images.

python docs/figures.py
"""

import csv
import json
import re
from pathlib import Path

from matplotlib.figure import Figure

from busseg.data.sample_images import samples
from busseg.evaluation.scores import calibration, labels_and_probabilities
from busseg.imaging.images import read_image
from busseg.inference.overlay import draw_contour
from busseg.inference.predictor import Predictor
from busseg.storage.files import read_csv

DOCS = Path(__file__).parent
EVIDENCE, IMAGES = DOCS / "evidence", DOCS / "images"
NEW_HOSPITAL = EVIDENCE / "hospital_left_out/best"
GREY, BLUE, RED = "#8a8f98", "#1f6f8b", "#c0503a"


def draw_predictions():
    """The sample images, and below each the outline of the predicted lesion, the predicted and the true class."""
    predictor = Predictor()
    figure = Figure(figsize=(7.6, 5.4), layout="constrained", dpi=110)
    for (above, below), sample in zip(figure.subplots(2, len(samples())).T, samples()):
        image = read_image(sample.path)
        prediction = predictor.predict(image)
        above.imshow(image, cmap="gray", vmin=0, vmax=255)
        below.imshow(draw_contour(image, prediction.mask))
        below.set_xlabel(f"{prediction.label}, {prediction.confidence:.2f}\nhistology: {sample.label}", fontsize=9)
        for axis in (above, below):
            axis.set(xticks=[], yticks=[])
    figure.axes[0].set_ylabel("image")
    figure.axes[len(samples())].set_ylabel("lesion and class")
    return figure


def draw_leak():
    """Scores of the images with a copy in training, by grouped and by random folds."""
    rows = read_table("leak.csv")
    figure = Figure(figsize=(8, 3.8), layout="constrained", dpi=110)
    for axis, score in zip(figure.subplots(1, 2, sharey=True), ("accuracy", "lesion Dice")):
        for place, row in enumerate(row for row in rows if row["score"] == score):
            values = float(row["grouped"]), float(row["random"])
            bars = axis.bar([place - 0.2, place + 0.2], values, 0.36, color=[BLUE, RED])
            axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=10)
            axis.text(place, 1.04, f"{row['difference']} [{row['low']}, {row['high']}]", ha="center", fontsize=9)
        axis.set(title=score, ylim=(0, 1.13), xlim=(-0.6, 1.6), xticks=[0, 1])
        axis.set_xticklabels(["augmented\n(recipe light)", "memorising\n(no augmentation)"])
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        bars.patches, ["copies kept together", "split at random"], loc="outside lower center", ncols=2, frameon=False
    )
    figure.axes[0].set_ylabel("118 images with a copy in training")
    return figure


def draw_calibration():
    """Accuracy by confidence on a new hospital, and the calibration error of each model."""
    rows = [row for row in read_csv(NEW_HOSPITAL / "per_image.csv") if row["source"] == "breast"]
    summary = json.loads((NEW_HOSPITAL / "summary.json").read_text(encoding="utf-8"))["parts"]["test"]["sources"][
        "breast"
    ]
    bins = calibration(*labels_and_probabilities(rows))["reliability"]
    figure = Figure(figsize=(9, 3.8), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    left.plot([0.33, 1], [0.33, 1], color=GREY, linewidth=1, linestyle=":")
    left.scatter(
        [one["confidence"] for one in bins],
        [one["accuracy"] for one in bins],
        [4 * one["images"] for one in bins],
        color=RED,
        alpha=0.8,
    )
    for one in bins:
        left.annotate(
            one["images"], (one["confidence"], one["accuracy"]), (9, -10), textcoords="offset points", fontsize=9
        )
    left.set(xlim=(0.33, 1.02), ylim=(0, 1.05), xlabel="confidence (number: images)", ylabel="share of classes right")
    left.set_title("a new hospital: BrEaST, 192 patients", fontsize=11)

    errors = [
        (row["model"], *(float(row[name]) for name in ("ece", "low", "high")))
        for row in read_table("calibration_error.csv")
    ]
    errors.append(("best, BrEaST left out", summary["scores"]["ece"], *summary["intervals"]["ece"]))
    errors.sort(key=lambda error: error[1], reverse=True)
    for place, (model, error, low, high) in enumerate(errors):
        right.plot([low, high], [place, place], color=GREY, linewidth=2)
        right.plot(error, place, "o", color=RED if "BrEaST" in model else BLUE)
    right.set_yticks(range(len(errors)), [error[0] for error in errors])
    right.set(xlim=(0, 0.3), xlabel="expected calibration error, 95 % interval")
    right.set_title("BUSI, out of fold (blue), and BrEaST (red)", fontsize=11)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_robustness():
    """Lesion Dice on disturbed images, by disturbance and strength."""
    undisturbed, *rows = read_table("robustness.csv")
    kinds = {}
    for row in rows:
        kinds.setdefault(row["images"].split()[0], []).append(row)
    del kinds["flip"]  # no strengths
    titles = {"contrast": "contrast", "brightness": "brightness", "blur": "blur, sigma in px", "speckle": "speckle, sd"}
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=110)
    for number, (axis, (kind, strengths)) in enumerate(zip(figure.subplots(1, len(kinds), sharey=True), kinds.items())):
        axis.axhline(float(undisturbed["dice"]), color=GREY, linewidth=1, linestyle=":")
        axis.plot(range(3), [float(row["dice"]) for row in strengths], "o-", color=BLUE)
        axis.set_xticks(range(3), [re.search(r"[-x]?[\d./]+", row["images"])[0] for row in strengths], fontsize=9)
        axis.set(title=titles.get(kind, kind), ylim=(0.6, 0.8), xlim=(-0.4, 2.4))
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines["left"].set_visible(number == 0)
        axis.tick_params(left=number == 0)
    figure.axes[0].set_ylabel("lesion Dice (dotted: as they are)")
    return figure


def draw_histology():
    """AUC on images of new patients by the number of training patients, of colours and of frozen features."""
    rows = read_table("histology/curve.csv")
    titles = {"efficientnet_lite0": "frozen features, fine level", "colour": "six numbers of colour"}
    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=110)
    axis = figure.subplots()
    for (kind, title), colour, shift in zip(titles.items(), (BLUE, RED), (-0.15, 0.15)):
        mine = [row for row in rows if row["kind"] == kind]
        patients, auc, low, high = (
            [float(row[name]) for row in mine] for name in ("patients", "image_auc", "image_low", "image_high")
        )
        patients = [number + shift for number in patients]
        axis.plot(patients, auc, "o-", color=colour, label=title)
        axis.vlines(patients, low, high, color=colour, linewidth=1, alpha=0.6)
    axis.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    axis.set(xticks=[5, 10, 15, 20], ylim=(0.35, 1), xlabel="training patients", ylabel="AUC by image, new patients")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper left")
    return figure


def read_table(name):
    with (EVIDENCE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for draw in (draw_predictions, draw_leak, draw_calibration, draw_robustness, draw_histology):
        draw().savefig(IMAGES / f"{draw.__name__.removeprefix('draw_')}.png")
