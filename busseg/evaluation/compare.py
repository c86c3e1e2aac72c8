"""Compare models that were scored on the same images: one table, one plot, and paired differences."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path

from busseg.evaluation.comparability import (
    SETTINGS,
    notes_on_images,
    notes_on_leaks,
    notes_on_settings,
    warnings_of_known,
)
from busseg.evaluation.compare_plot import draw_comparison
from busseg.evaluation.intervals import image_key, paired_differences
from busseg.evaluation.known import paired_known
from busseg.evaluation.patients import paired_patients
from busseg.evaluation.scores import scored
from busseg.evaluation.sources import name_alike, paired_sources
from busseg.evaluation.table import read_rows
from busseg.storage.claims import claim_folder
from busseg.storage.files import blaming, read_json, write_csv, write_text
from busseg.storage.run_folder import COMPARISON, COMPARISON_TABLE, PER_IMAGE, SUMMARY

_FIELDS = (
    "name", "folder", "protocol", "part", "source", "images", "score", "value", "low", "high",
    "common_images", "first_on_common", "value_on_common", "difference", "difference_low", "difference_high", "p",
)  # fmt: skip


# === Compare ===
def compare(folders: Sequence[str | Path], out: str | Path | None = None, names: Sequence[str] | None = None) -> dict:
    """Compare the scores in two or more folders, and each folder with the first on the images that both scored.

    The part "test" of each folder is compared; if absent, the part "all"; if absent, the only part.

    Args:
        folders: Sequence of paths of folders of `evaluate` or of a cross-validation.
        out: Path of the folder to write `compare.csv`, `compare.json` and `compare.png` to, or None.
        names: Names of the folders; by default the part of the path in which each differs from the others.

    Returns:
        Dict as in `compare.json`:

        - `models`: for each folder a dict of `name`, `folder`, `part`, `protocol` (None for an evaluation), `size` and
          other settings, `images`, `groups`, `scores`, and `intervals` (95 %);
        - `differences`: for each folder but the first a dict of `name`; `to`, the name of the first folder; the entries
          of `paired_differences`, where the first folder is `a`; `leaked`, the same on the images of which either model
          was trained with a copy or with the patient; the entries of `paired_known` and
          `paired_sources`; and `patients`, see `paired_patients`;
        - `warnings`: sentences on models that were trained on images they are scored on;
        - `notes`: sentences on differences in settings and images.

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
            # The file that marks the folder comes first.
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
    """The rows of the images of which either model was trained with a copy or with the patient."""
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
    labels = {}
    for name, mine in zip(names, rows):
        for row in mine:
            if row["label"]:
                label, by = labels.setdefault(row["file"], (row["label"], name))
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
