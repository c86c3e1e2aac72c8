"""Gain of `busseg calibrate` at a hospital that is new to a model, with 20 of its scans.

Works on tables of `busseg evaluate` or `busseg crossval`, `per_image.csv`, without a model. The threshold for a
sensitivity is fixed on images of other hospitals, also new to the model. Scans of the hospital left out are drawn at
random, with its share of malignant ones; the images of all its other patients are scored:

- before: by the threshold of the other hospitals, with the probabilities as they are;
- temperature: the same, with threshold and probabilities scaled by the temperature fitted to the scans;
- calibrated: by `busseg calibrate` of a model that holds a table of thresholds;
- scans alone: by `busseg calibrate` of a model without such a table.

Example: python -m benchmarks.calibrate runs/left-out/per_image.csv --source breast
Example: python -m benchmarks.calibrate breast/per_image.csv --others busbra/per_image.csv
"""

import argparse
import json
from pathlib import Path

import numpy as np

from busseg.data.sample import CLASSES
from busseg.evaluation.scores import calibration, labels_and_probabilities, numbers_of, scored
from busseg.evaluation.table import read_rows
from busseg.experiments.calibrate import TEMPERATURE_SPREAD, fit_thresholds, judge_by_others
from busseg.inference.operating_point import adapt_thresholds, find_operating_point, tabulate_thresholds
from busseg.storage.files import write_text
from busseg.training.calibration import apply_temperature, fit_temperature

MALIGNANT = CLASSES.index("malignant")


def draw(labels, scans, seed):
    """The places of some scans, with malignant ones by their share, at least two of them and of the others."""
    random = np.random.default_rng(seed)
    malignant = labels == MALIGNANT
    count = int(np.clip(round(scans * malignant.mean()), 2, scans - 2))
    parts = ((malignant, count), (~malignant, scans - count))
    return np.concatenate([random.choice(np.flatnonzero(part), number, replace=False) for part, number in parts])


def score(labels, probabilities, threshold):
    called, malignant = probabilities[:, MALIGNANT] >= threshold, labels == MALIGNANT
    names = [CLASSES[label] for label in labels]
    return {
        "sensitivity": float(called[malignant].mean()),
        "specificity": float((~called[~malignant]).mean()),
        "ece": calibration(names, probabilities)["ece"],
        "brier": calibration(names, probabilities)["brier"],
    }


def run_draw(hospital, table, sensitivity, scans, seed):
    """The scores of the other patients' images by each way: dict of dicts.

    Args:
        hospital: `(labels, probabilities, groups)` of the images of the hospital left out.
        table: That of thresholds by the other hospitals; see `tabulate_thresholds`.
        sensitivity: Float in `(0, 1)`.
        scans: Number of scans to draw.
        seed: Integer.
    """
    labels, probabilities, groups = hospital
    drawn = draw(labels, scans, seed)
    rest = ~np.isin(groups, groups[drawn])
    temperature = fit_temperature(probabilities[drawn], labels[drawn], TEMPERATURE_SPREAD)
    judged = judge_by_others(probabilities[drawn], labels[drawn], groups[drawn])
    p_malignant = judged[labels[drawn] == MALIGNANT, MALIGNANT]
    scaled = apply_temperature(probabilities, temperature)
    ways = {
        "before": (probabilities, table),
        "temperature": (scaled, adapt_thresholds(table, temperature, [])),
        "calibrated": (scaled, fit_thresholds(table, temperature, p_malignant)),
        "scans alone": (scaled, fit_thresholds(None, temperature, p_malignant)),
    }
    return {
        way: score(labels[rest], answers[rest], find_operating_point(thresholds, sensitivity).threshold)
        for way, (answers, thresholds) in ways.items()
    }


def read(path, chosen=lambda row: True):
    """`(labels, probabilities, groups)` of the rows of a table that are chosen and have a class."""
    rows = [row for row in scored(read_rows(path)) if row["label"] and chosen(row)]
    names, probabilities = labels_and_probabilities(rows)
    return numbers_of(names, CLASSES), probabilities, np.array([row["group"] for row in rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="per_image.csv with the hospital left out")
    parser.add_argument("--source", help="its name, with which its files begin; all other images are the others'")
    parser.add_argument("--others", type=Path, nargs="+", default=[], help="per_image.csv of other hospitals")
    parser.add_argument("--sensitivity", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON file to write the results to")
    arguments = parser.parse_args()
    if bool(arguments.source) == bool(arguments.others):
        parser.error("expected either --source or --others")

    def is_left_out(row):
        return not arguments.source or row["file"].startswith(f"{arguments.source}/")

    hospital = read(arguments.table, is_left_out)
    others = [read(path) for path in arguments.others] or [read(arguments.table, lambda row: not is_left_out(row))]
    table = tabulate_thresholds(
        np.concatenate([probabilities[labels == MALIGNANT, MALIGNANT] for labels, probabilities, _ in others])
    )
    print(f"{len(hospital[0])} images left out, {np.sum(hospital[0] == MALIGNANT)} of them malignant")
    draws = f"{arguments.draws} draws of {arguments.scans} scans"
    print(f"thresholds by {table['images']} malignant images of others; {draws}")
    results = {}
    for sensitivity in arguments.sensitivity:
        found = [run_draw(hospital, table, sensitivity, arguments.scans, seed) for seed in range(arguments.draws)]
        results[sensitivity] = found
        print(f"\nfor sensitivity {sensitivity:g}: mean ± standard deviation over the draws")
        print(f"{'':12}" + "".join(f"{name:>17}" for name in (*found[0]["before"], "off by")))
        for way in found[0]:
            values = {name: np.array([one[way][name] for one in found]) for name in found[0][way]}
            values["off by"] = np.abs(values["sensitivity"] - sensitivity)
            print(f"{way:12}" + "".join(f"{v.mean():9.3f} ± {v.std(ddof=1):.3f}" for v in values.values()))
    if arguments.out:
        write_text(
            arguments.out, json.dumps({"settings": vars(arguments), "draws": results}, indent=2, default=str) + "\n"
        )


if __name__ == "__main__":
    main()
