"""The report of an evaluation or a cross-validation: one HTML file with its scores, plots and example images."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from busseg.data.sample import Sample
from busseg.data.splits import PARTS
from busseg.evaluation import plots
from busseg.evaluation.cases import draw_cases
from busseg.evaluation.comparability import describe_leak
from busseg.evaluation.known import UNKNOWN
from busseg.evaluation.operating import class_risk
from busseg.evaluation.page import embed_figure, write_page
from busseg.evaluation.patients import PATIENT_SCORES
from busseg.evaluation.robustness import read_robustness, summarise_robustness
from busseg.evaluation.scores import classes_of, labels_and_probabilities, scored
from busseg.evaluation.table import read_rows
from busseg.storage.files import blaming, read_csv, read_json
from busseg.storage.run_folder import ENVIRONMENT, HISTORY, PER_IMAGE, RECIPE, REPORT, ROBUSTNESS, SPLITS, SUMMARY

HEADLINE = ("test", "all")  # a report shows the first of these parts that is present
MAIN_SCORES = {  # in the tables of parts and folds
    "dice": "Dice",
    "iou": "IoU",
    "missed_rate": "missed",
    "clean_normal_rate": "clean normals",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "macro_auc": "macro AUC",
    "ece": "ECE",
}
SOURCE_SCORES = {  # as many as fit beside their intervals
    "dice": "Dice",
    "missed_rate": "missed",
    "clean_normal_rate": "clean normals",
    "accuracy": "accuracy",
    "malignant_auc": "malignant AUC",
    "ece": "ECE",
}
CURVES = {
    "loss": "Loss",
    "mask_lesion_dice": "Lesion Dice",
    "label_accuracy": "Accuracy",
    "accuracy": "Accuracy",  # of a network without a mask
    "mask_clean_normal_rate": "Normal images left clean",
}


def write_report(folder: str | Path, samples: Iterable[Sample], runs: Iterable[str | Path] = ()) -> Path:
    """Write `report.html` into the folder of an evaluation or of a cross-validation, from the files of that folder.

    Args:
        folder: Path of a folder with `per_image.csv`, `summary.json` and maybe `robustness.csv`.
        samples: Sequence of the dataset's `Sample`, to draw cases from. Missing ones are not drawn.
        runs: Paths of the folders of the runs that trained the models, for their curves, recipe, split and environment.
            A file that a folder lacks is left out of the report.

    Returns:
        Path of the report.

    Raises:
        FileNotFoundError: If the folder holds no evaluation.
        ValueError: If the evaluation holds no images.
    """
    folder, runs = Path(folder), [Path(run) for run in runs]
    for name in (PER_IMAGE, SUMMARY):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"Expected the folder of an evaluation, with {name}, found none: {folder}")
    with blaming(folder, "the scores of an evaluation"):
        return _write_report(folder, samples, runs)


def _write_report(folder, samples, runs):
    summary = read_json(folder / SUMMARY)
    parts = summary["parts"]
    if not parts:
        raise ValueError(f"Expected an evaluation of images, found none: {folder}")
    part = next((name for name in HEADLINE if name in parts), next(iter(parts)))
    rows = [row for row in read_rows(folder / PER_IMAGE) if row["part"] == part]
    robustness = _robustness(folder)
    write_page(
        folder / REPORT,
        REPORT,
        title=_title(summary),
        about=summary,
        part=part,
        headline=parts[part],
        plots=_draw_plots(scored(rows), parts[part], _histories(runs), robustness),
        cases=draw_cases(folder, scored(rows), samples),
        mistakes=_mistakes(scored(rows)),
        failures=[row for row in rows if row["error"]],
        robustness=robustness,
        counts=_counts(runs, rows, part),
        commands=list(dict.fromkeys(environment["command"] for environment in _environments(runs))),
        environments=[json.dumps(environment, indent=2) for environment in _environments(runs)[:1]],
        recipes=list(dict.fromkeys(path.read_text(encoding="utf-8") for path in _files(runs, RECIPE))),
        classes=classes_of(rows),
        main_scores=_defined(MAIN_SCORES, parts[part]),
        source_scores=_defined(SOURCE_SCORES, parts[part]),
        patient_scores=PATIENT_SCORES,
        curves=CURVES,
        describe_leak=describe_leak,
        unknown=UNKNOWN,
        show=show,
        show_interval=show_interval,
    )
    return folder / REPORT


def _defined(titles, one):
    return {name: title for name, title in titles.items() if one["scores"][name] is not None}


def show(name: str, value: float | None) -> str:
    """A score as text: rates and fractions in percent, lengths in pixels or mm, areas in pixels, others plain."""
    return "\N{EN DASH}" if value is None else _digits(name, value) + _unit(name)


def show_interval(name: str, low: float, high: float) -> str:
    """An interval of a score as text, such as 0.553-0.698, with an en dash."""
    return f"{_digits(name, low)}\N{EN DASH}{_digits(name, high)}{_unit(name)}"


def _digits(name, value):
    if _unit(name) == "%":
        return f"{100 * value:.1f}"
    if _unit(name) == " mm":
        return f"{value:.2f}"
    if _unit(name):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.3f}"


def _unit(name):
    if name.endswith(("_rate", "_fraction")):
        return "%"
    return {"_px": " px", "_mm": " mm"}.get(name[-3:], "")


def _title(summary):
    model = PurePath(summary.get("model") or "").name
    data = " + ".join(PurePath(name).name for name in (summary.get("data") or "").split(" + "))
    if "folds" in summary:
        return "Cross-validation" + (f" on {data}" if data else "")
    return "Evaluation" + (f" of {model}" if model else "") + (f" on {data}" if data else "")


# === Files of the runs ===
def _files(runs, name):
    return [run / name for run in runs if (run / name).is_file()]


def _histories(runs):
    return list(filter(None, (read_csv(path) for path in _files(runs, HISTORY))))


def _environments(runs):
    return [read_json(path) for path in _files(runs, ENVIRONMENT)]


def _counts(runs, rows, part):
    """The number of images of each class in each part of each fold: a list of dicts.

    Counts the runs' `splits.csv`; without them, the part that was scored.
    """
    splits = [row for path in _files(runs, SPLITS) for row in read_csv(path)]
    splits = splits or [{"fold": "", **row, "part": part} for row in rows]
    places = dict.fromkeys((row["fold"], row["part"]) for row in splits)
    order = {name: number for number, name in enumerate(PARTS)}
    counts = []
    for fold, name in sorted(places, key=lambda place: (str(place[0]), order.get(place[1], len(order)))):
        mine = [row for row in splits if (row["fold"], row["part"]) == (fold, name)]
        labels = Counter(row["label"] for row in mine)
        unclassed = sum(number for label, number in labels.items() if not label)
        groups = len({row["group"] for row in mine})
        place = {"fold": fold, "part": name}
        counts.append(place | {"labels": labels, "unclassed": unclassed, "images": len(mine), "groups": groups})
    return counts


def _robustness(folder):
    path = folder / ROBUSTNESS
    return summarise_robustness(read_robustness(path)) if path.is_file() else []


# === Content of the rows ===
def _mistakes(rows):
    """The images of the wrong class, the most confident predictions first."""
    wrong = [row for row in rows if row["label"] and row["label"] != row["predicted"]]
    return sorted(wrong, key=lambda row: -row[f"p_{row['predicted']}"])


def _draw_plots(rows, headline, histories, robustness):
    """Dict from the name of a plot to its `data:` address. A plot without data is left out."""
    figures = {}
    lesions = [row for row in rows if row.get("dice") is not None]
    if lesions:
        figures |= {"dice": plots.plot_dice(lesions), "dice_by_size": plots.plot_dice_by_size(lesions)}
    if headline["confusion"]:
        classes = classes_of(rows)
        figures["confusion"] = plots.plot_confusion(headline["confusion"], classes)
        figures["reliability"] = plots.plot_reliability(headline["reliability"], headline["scores"]["ece"])
        figures["risk_coverage"] = plots.plot_risk_coverage(*class_risk(rows))
        answers = (*labels_and_probabilities(rows), classes)
        roc = plots.roc_curves(*answers)
        if roc:
            figures["roc"] = plots.plot_roc(roc)
            figures["precision_recall"] = plots.plot_precision_recall(plots.precision_recall_curves(*answers))
    for name, title in CURVES.items():
        if histories and all(name in history[0] for history in histories):
            figures[f"history_{name}"] = plots.plot_history(histories, name, title)
    for name, title in (("dice", "Lesion Dice"), ("accuracy", "Accuracy")):
        if robustness and robustness[0]["scores"][name] is not None:
            figures[f"robustness_{name}"] = plots.plot_robustness(robustness, name, title)
    return {name: embed_figure(figure) for name, figure in figures.items()}
