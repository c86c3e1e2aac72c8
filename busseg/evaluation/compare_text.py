"""A comparison as lines of text: the scores of each folder, and the paired differences."""

import textwrap

from busseg.evaluation.comparability import notes_on_unknown
from busseg.evaluation.patients import PATIENT_SCORES
from busseg.evaluation.sources import MEAN

# Score -> its title and its digits in the terminal. The files hold all scores.
SHOWN = {
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
SHOWN_BY_SOURCE = ("dice", "clean_normal_rate", "accuracy", "malignant_auc")
_COLUMNS = 3  # folders side by side in the terminal


def format_comparison(comparison: dict) -> str:
    """The scores of each folder, the paired differences and the notes as lines of text, at most 100 columns wide.

    Args:
        comparison: Dict, as `busseg.evaluation.compare.compare` returns it.
    """
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
    lines = [f"{'':16}" + "".join(f"{shorten(model['name'], 26):>28}" for model in models)]
    counts = [f"{model['images']} of {model['part']}" for model in models]
    lines.append(f"{'images':16}" + "".join(f"{count:>28}" for count in counts))
    for score, (title, digits) in SHOWN.items():
        if any(model["scores"].get(score) is not None for model in models):
            lines.append(f"{title:16}" + "".join(f"{_with_interval(model, score, digits):>28}" for model in models))
    return lines


def shorten(name: str, width: int) -> str:
    """The end of a name that is longer than `width` characters, after three dots; else the name."""
    return name if len(name) <= width else "..." + name[3 - width :]  # paths differ at their ends


def _with_interval(model, score, digits):
    value = model["scores"].get(score)
    if value is None:
        return "n/a"
    low, high = model["intervals"][score]
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _format_differences(one):
    name, first = shorten(one["name"], 30), shorten(one["to"], 30)
    if not one["differences"]:
        return [f"{name} and {first} have no scored image in common"]
    heading = f"{name} minus {first}, on {one['images']} common images of {one['groups']} groups"
    if any(one["known"].values()):
        a, b = ("an unknown number" if count is None else count for count in one["known"].values())
        heading += f"; {first} was trained on {a} of them, {name} on {b}"
    lines = [*textwrap.wrap(heading, 100), *_format_paired(one["differences"])]
    if one["leaked"]["differences"] and one["leaked"]["images"] < one["images"]:
        common = "a copy or their patient" if one["patients"]["patients"] else "a copy"
        heading = f"The same on the {one['leaked']['images']} of them with {common} in training"
        lines += ["", heading, *_format_paired(one["leaked"]["differences"])]
    if one["unseen"]:
        heading = f"The same on the {one['unseen']['images']} of them that neither is recorded to be trained on"
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
    for score in SHOWN_BY_SOURCE:
        title, digits = SHOWN[score]
        paired = {name: mine["differences"].get(score) for name, mine in one["sources"].items()}
        paired |= {MEAN: one["mean_of_sources"].get(score)}
        for name, mine in paired.items():
            if mine:
                lines.append(_paired_line(f"{title:14}{shorten(name, 16):18}", mine, digits))
                title = ""
    return lines


def _format_paired(differences):
    lines = [f"{'':18}{'':19}{'difference [95 % interval]':>33}{'p':>10}"]
    for score, (title, digits) in SHOWN.items():
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
