"""Compare models that were scored on the same images: one table, one plot, and paired differences."""

import json
import textwrap
from contextlib import nullcontext
from itertools import count
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from busseg.evaluation.comparability import (
    SETTINGS,
    notes_on_images,
    notes_on_leaks,
    notes_on_settings,
    notes_on_unknown,
    warnings_of_known,
)
from busseg.evaluation.intervals import image_key, paired_differences
from busseg.evaluation.known import paired_known
from busseg.evaluation.patients import PATIENT_SCORES, paired_patients
from busseg.evaluation.scores import scored
from busseg.evaluation.scoring import read_rows
from busseg.evaluation.sources import MEAN, name_alike, paired_sources
from busseg.storage.claims import claim_folder
from busseg.storage.files import blaming, read_json, replacing, write_csv, write_text
from busseg.storage.run_folder import COMPARISON, COMPARISON_TABLE, PER_IMAGE, SUMMARY
from busseg.storage.signature import SOFTWARE

# Title and digits of each score in the terminal; the files hold all scores.
TOLD = {
    "dice": ("Dice", 3),
    "dice_median": ("Dice, median", 3),
    "iou": ("IoU", 3),
    "sensitivity": ("sensitivity", 3),
    "precision": ("precision", 3),
    "hd95_px": ("HD95 px, found", 1),
    "assd_px": ("ASSD px, found", 1),
    "hd95_mm": ("HD95 mm, found", 2),
    "assd_mm": ("ASSD mm, found", 2),
    "nsd": ("NSD", 3),
    "missed_rate": ("missed", 3),
    "clean_normal_rate": ("clean normals", 3),
    "class_dice": ("Dice by class", 3),
    "accuracy": ("accuracy", 3),
    "balanced_accuracy": ("balanced acc.", 3),
    "macro_f1": ("macro F1", 3),
    "macro_auc": ("macro AUC", 3),
    "malignant_auc": ("malignant AUC", 3),
    "ece": ("ECE", 3),
    "brier": ("Brier", 3),
}
TOLD_BY_SOURCE = ("dice", "clean_normal_rate", "accuracy", "malignant_auc")
DRAWN = ("dice", "hd95_px", "clean_normal_rate", "accuracy", "macro_auc")
_LOWER_IS_BETTER = {"hd95_px"}
_FIELDS = (
    "name", "folder", "protocol", "part", "source", "images", "score", "value", "low", "high",
    "common_images", "first_on_common", "value_on_common", "difference", "difference_low", "difference_high", "p",
)  # fmt: skip
_COLUMNS = 3  # folders side by side in the terminal
_CHANGED, _UNSURE = "#0b6fa4", "#7a8794"


# === Compare ===
def compare(folders, out=None, names=None):
    """Compare the scores in two or more folders, and each folder with the first on the images that both scored.

    Of each folder the part "test" is taken; without one, "all"; without that, the only part.

    Args:
        folders: Sequence of paths of folders of `evaluate` or of a cross-validation.
        out: Path of the folder to write `compare.csv`, `compare.json` and `compare.png` to, or None.
        names: What to call the folders; None calls each by the part of its path that tells it from the others.

    Returns:
        Dict as in `compare.json`: `models`, for each folder a dict of `name`, `folder`, `part`, `protocol` (None for an
        evaluation), `size` and other settings, `images`, `groups`, `scores`, and `intervals` (95 %); `differences`, for
        each folder but the first a dict of `name`, `to`, the first's name, those of `paired_differences`, the first
        being `a`, `leaked`, the same on the images of which one of both was trained with a copy, those of
        `paired_known` and `paired_sources`, and `patients`, see `paired_patients`; `warnings`, sentences on models that
        know what they are scored on; and `notes`, on what does not compare.

    Raises:
        FileExistsError: If `out` holds other files than a comparison.
        BlockingIOError: If another process writes there.
        ValueError: If there are fewer than two folders, a folder holds no scores, or two give a file different labels.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise ValueError(f"Expected at least two folders to compare, found {len(folders)}")
    names = list(names or _names(folders))
    if len(set(names)) != len(folders):
        raise ValueError(f"Expected a name of its own for each of {len(folders)} folders, found {', '.join(names)}")
    with nullcontext() if out is None else claim_folder(out, COMPARISON) as place:
        comparison = _compare(folders, names)
        if place:
            # First what marks the folder.
            write_text(place / COMPARISON.marker, json.dumps(comparison, indent=2) + "\n")
            write_csv(place / COMPARISON_TABLE, _FIELDS, _table(comparison))
            draw_comparison(comparison, place / "compare.png")
    return comparison


def _compare(folders, names):
    models, rows = zip(*(_read(folder, name) for folder, name in zip(folders, names)))
    with blaming(", ".join(map(str, folders)), "the scores of evaluations"):
        rows = name_alike(rows)
        _check_labels(names, rows)
        differences = [
            {
                "name": name,
                "to": names[0],
                **paired_differences(rows[0], others),
                "leaked": paired_differences(*_leaked(rows[0], others)),
                **paired_known(rows[0], others),
                **paired_sources(rows[0], others),
                "patients": paired_patients(rows[0], others),
            }
            for name, others in zip(names[1:], rows[1:])
        ]
        notes = notes_on_settings(models) + notes_on_leaks(models)
        notes += [note for one, others in zip(differences, rows[1:]) for note in notes_on_images(one, rows[0], others)]
        warnings = warnings_of_known(models)
        return {"models": list(models), "differences": differences, "warnings": warnings, "notes": notes}


def _leaked(rows_a, rows_b):
    """The rows of the images of which one of two models was trained with a copy."""
    key = image_key(rows_a, rows_b)
    images = {key(row) for row in (*rows_a, *rows_b) if row["leaked"]}
    return [[row for row in rows if key(row) in images] for rows in (rows_a, rows_b)]


def _names(folders):
    """The shortest parts of the paths that differ: `runs/a/evaluation`, `runs/b/evaluation` are a and b."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        return [f"{folder.resolve().name} ({number})" for folder, number in zip(folders, count(1))]
    while len({path[-1] for path in parts}) == 1:
        parts = [path[:-1] for path in parts]
    longest = max(map(len, parts))
    tails = (["/".join(path[-depth:]) for path in parts] for depth in range(1, longest + 1))
    return next(names for names in tails if len(set(names)) == len(names))


def _read(folder, name):
    """The model of a folder, as a dict, and its rows."""
    for file in (PER_IMAGE, SUMMARY):
        if not (folder / file).is_file():
            raise ValueError(f"Expected an evaluation or cross-validation ({file}), found none: {folder}")
    summary = read_json(folder / SUMMARY)
    with blaming(folder / SUMMARY, "the scores of an evaluation"):
        part = _choose_part(list(summary["parts"]), folder)
        headline = _headline(summary["parts"][part])
        sources = {source: _headline(one) for source, one in summary["parts"][part].get("sources", {}).items()}
    rows = [row for row in read_rows(folder / PER_IMAGE) if row["part"] == part]
    about = {key: summary.get(key) for key in (*SETTINGS, "leak", "model", "data")}
    known = summary["parts"][part].get("known")  # older summaries lack it
    model = {"name": name, "folder": str(folder), **about, "part": part, **headline, "known": known, "sources": sources}
    return model, scored(rows)


def _headline(one):
    return {key: one[key] for key in ("images", "groups", "scores", "intervals")}


def _choose_part(parts, folder):
    for part in ("test", "all"):
        if part in parts:
            return part
    if len(parts) != 1:
        raise ValueError(f"Expected the part test or all, found {', '.join(parts) or 'none'}: {folder / SUMMARY}")
    return parts[0]


def _check_labels(names, rows):
    told = {}
    for name, mine in zip(names, rows):
        for row in mine:
            if row["label"]:
                label, by = told.setdefault(row["file"], (row["label"], name))
                if label != row["label"]:
                    raise ValueError(
                        f"Expected one label for each file, found {label} in {by} and {row['label']} in {name}: "
                        f"{row['file']}"
                    )


# === The table ===
def _table(comparison):
    """The rows of `compare.csv`, one a folder and score."""
    against_first = {one["name"]: one for one in comparison["differences"]}
    nothing = {"images": None, "differences": {}}
    for model in comparison["models"]:
        one = against_first.get(model["name"], {**nothing, "sources": {}})
        for source, mine in {"": model, **model["sources"]}.items():
            paired = one["sources"].get(source, nothing) if source else one
            for score, value in mine["scores"].items():
                if value is not None:
                    low, high = mine["intervals"][score]
                    row = {key: model[key] for key in ("name", "folder", "protocol", "part")}
                    row |= {"source": source, "images": mine["images"]}
                    row |= {"score": score, "value": value, "low": low, "high": high}
                    yield row | {"common_images": paired["images"]} | _paired_cells(paired["differences"].get(score))


def _paired_cells(paired):
    if not paired:
        return {}
    names = ("first_on_common", "value_on_common", "difference", "difference_low", "difference_high", "p")
    return {name: paired[key] for name, key in zip(names, ("a", "b", "difference", "low", "high", "p"))}


def format_comparison(comparison):
    """The scores of each folder, the paired differences and the notes as lines of text, at most 100 columns wide."""
    models = comparison["models"]
    lines = _wrapped(comparison["warnings"], "WARNING: ")
    lines.append("Scores, each on the folder's own images [95 % interval]")
    for start in range(0, len(models), _COLUMNS):
        lines += [*_format_models(models[start : start + _COLUMNS]), ""]
    if any(model["scores"].get("hd95_px") is not None for model in models):
        lines += ["HD95 and ASSD are of found lesions; in pairs, of those that both found.", ""]
    for one in comparison["differences"]:
        lines += [*_format_differences(one), ""]
    lines += _wrapped(comparison["notes"], "Note: ") + _wrapped(notes_on_unknown(models), "")
    return "\n".join(line.rstrip() for line in lines).rstrip()


def _wrapped(sentences, title):
    return [
        line
        for one in sentences
        for line in textwrap.wrap(one, 100, initial_indent=title, subsequent_indent=" " * len(title))
    ]


def _format_models(models):
    lines = [f"{'':16}" + "".join(f"{_short(model['name'], 26):>28}" for model in models)]
    told = [f"{model['images']} of {model['part']}" for model in models]
    lines.append(f"{'images':16}" + "".join(f"{text:>28}" for text in told))
    for score, (title, digits) in TOLD.items():
        if any(model["scores"].get(score) is not None for model in models):
            lines.append(f"{title:16}" + "".join(f"{_with_interval(model, score, digits):>28}" for model in models))
    return lines


def _short(name, width):
    return name if len(name) <= width else "..." + name[3 - width :]  # paths differ at their ends


def _with_interval(model, score, digits):
    value = model["scores"].get(score)
    if value is None:
        return "n/a"
    low, high = model["intervals"][score]
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _format_differences(one):
    name, first = _short(one["name"], 30), _short(one["to"], 30)
    if not one["differences"]:
        return [f"{name} and {first} have no scored image in common"]
    heading = f"{name} minus {first}, on {one['images']} common images of {one['groups']} groups"
    if any(one["known"].values()):
        a, b = ("an unknown number" if count is None else count for count in one["known"].values())
        heading += f"; {first} learnt from {a} of them, {name} from {b}"
    lines = [*textwrap.wrap(heading, 100), *_format_paired(one["differences"])]
    if one["leaked"]["differences"]:
        heading = f"The same on the {one['leaked']['images']} of them with a copy in training"
        lines += ["", heading, *_format_paired(one["leaked"]["differences"])]
    if one["unseen"]:
        heading = f"The same on the {one['unseen']['images']} of them that neither is known to have learnt from"
        lines += ["", heading, *_format_paired(one["unseen"]["differences"])]
    if one["sources"]:
        lines += ["", *_format_paired_sources(one)]
    if one["patients"]["patients"]:
        lines += ["", f"By patient, {one['patients']['patients']} patients"]
        lines += [
            _paired_line(f"{title:26}", paired, 3)
            for name, title in PATIENT_SCORES.items()
            if (paired := one["patients"]["differences"].get(name))
        ]
    return lines


def _format_paired_sources(one):
    lines = [f"By source{'':23}{'':16}{'difference [95 % interval]':>31}{'p':>10}"]
    for score in TOLD_BY_SOURCE:
        title, digits = TOLD[score]
        paired = {name: mine["differences"].get(score) for name, mine in one["sources"].items()}
        paired |= {MEAN: one["mean_of_sources"].get(score)}
        for name, mine in paired.items():
            if mine:
                lines.append(_paired_line(f"{title:14}{_short(name, 16):18}", mine, digits))
                title = ""
    return lines


def _format_paired(differences):
    lines = [f"{'':18}{'':19}{'difference [95 % interval]':>33}{'p':>10}"]
    for score, (title, digits) in TOLD.items():
        if score in differences:
            lines.append(_paired_line(f"{title:18}", differences[score], digits))
    return lines


def _paired_line(title, paired, digits):
    a, b = (f"{paired[key]:.{digits}f}" for key in "ab")
    change, p = f"{paired['difference']:+.{digits}f}", ""
    if "low" in paired:
        change += f" [{paired['low']:+.{digits}f}, {paired['high']:+.{digits}f}]"
        p = _format_p(paired["p"])
    return f"{title}{a:>8} -> {b:>7}{change:>33}{p:>10}"


def _format_p(p):
    if p is None:
        return "n/a"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# === The plot ===
def draw_comparison(comparison, path):
    """Draw the main scores of each folder with their intervals, and under them the paired differences against zero.

    Args:
        comparison: What `compare` returns.
        path: Path of the PNG file.
    """
    models, differences = comparison["models"], comparison["differences"]
    drawn = [score for score in DRAWN if any(model["scores"].get(score) is not None for model in models)]
    heights = [0.9 + 0.42 * len(models), 0.9 + 0.42 * len(differences)]
    figure = Figure(figsize=(2.4 + 2.7 * len(drawn), sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(2, len(drawn), squeeze=False, sharey="row", height_ratios=heights)
    for column, score in zip(axes.T, drawn):
        upper, lower = column
        scores = [(model["scores"].get(score), *model["intervals"].get(score, ())) for model in models]
        _draw_dots(upper, scores, [_CHANGED] * len(models))
        better = "lower" if score in _LOWER_IS_BETTER else "higher"
        upper.set_title(f"{TOLD[score][0]}\n({better} is better)", fontsize=11)
        paired = [one["differences"].get(score) for one in differences]
        changes = [(None,) if not one else (one["difference"], one["low"], one["high"]) for one in paired]
        lower.axvline(0, color="black", linewidth=1)
        sure = [one and (one["low"] > 0 or one["high"] < 0) for one in paired]
        _draw_dots(lower, changes, [_CHANGED if each else _UNSURE for each in sure])
    axes[0, 0].set_yticks(range(len(models)), [_short(model["name"], 28) for model in models])
    axes[1, 0].set_yticks(range(len(differences)), [_short(one["name"], 28) for one in differences])
    figure.supxlabel(
        f"Above: scores with 95 % intervals. Below: difference to {_short(models[0]['name'], 40)} on common images; "
        "blue where its 95 % interval leaves out zero.",
        fontsize=10,
    )
    with replacing(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, dpi=110, metadata=SOFTWARE)


def _draw_dots(axis, points, colors):
    """Dots with their intervals, `(value, low, high)` or `(None,)`, one under the other."""
    for place, ((value, *interval), color) in enumerate(zip(points, colors)):
        if value is not None:
            axis.plot(interval, [place, place], color=color, linewidth=2)
            axis.plot([value], [place], "o", color=color, markersize=7)
    axis.set_ylim(len(points) - 0.4, -0.6)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
