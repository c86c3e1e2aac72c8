"""Scores for `busseg review`: which ranks wrongly classified images first, on a table of out-of-fold predictions.

Takes the images of patients with several views; the views of a patient are a group. 1 minus the largest probability
stands for the uncertainty, because `per_image.csv` has no uncertainty. Prints the AUC of each score (the share of pairs
of a wrong and a right image where the wrong one has the larger score), its difference from that of the uncertainty
alone with a 95 % interval, drawn by patient, and the share of the wrong images among the first fifth.

Example: python -m benchmarks.review docs/evidence/hospitals/best/per_image.csv
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from busseg.data.sample import CLASSES
from busseg.evaluation.scores import scored
from busseg.evaluation.table import read_rows
from busseg.inference.review import disagreement, means_of_others

DRAWS = 1000


def read(path):
    """`(wrong, scores, patients)`: array `(n,)` of bool, a dict from name to array `(n,)`, and the patients' places."""
    views = defaultdict(list)
    for row in scored(read_rows(path)):
        if row["patient"] and row["label"]:
            views[row["source"], row["patient"]].append(row)
    views = [rows for rows in views.values() if len(rows) > 1]
    wrong = np.array([row["label"] != row["predicted"] for rows in views for row in rows])
    arrays = [np.array([[row[f"p_{label}"] for label in CLASSES] for row in rows]) for rows in views]
    uncertainty = 1 - np.concatenate(arrays).max(axis=1)
    apart = np.concatenate([disagreement(p, means_of_others(p)) for p in arrays])
    scores = {
        "uncertainty": uncertainty,
        "disagreement": apart,
        "the larger one": np.maximum(uncertainty, apart),
        "sum": uncertainty + apart,
    }
    ends = np.cumsum([len(rows) for rows in views])
    return wrong, scores, np.split(np.arange(len(wrong)), ends[:-1])


def measure(wrong, scores, patients):
    """Dict from each score's name to its `auc`, `gain` over the uncertainty, `(low, high)`, and `first_fifth`."""
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    draws = [np.concatenate([patients[i] for i in random.integers(0, len(patients), len(patients))])
             for _ in range(DRAWS)]  # fmt: skip
    draws = [places for places in draws if 0 < wrong[places].sum() < len(places)]
    known = [roc_auc_score(wrong[places], scores["uncertainty"][places]) for places in draws]
    results = {}
    for name, score in scores.items():
        gains = [roc_auc_score(wrong[p], score[p]) - auc for p, auc in zip(draws, known)]
        first = np.argsort(-score, kind="stable")[: len(wrong) // 5]
        results[name] = {
            "auc": float(roc_auc_score(wrong, score)),
            "gain": tuple(np.percentile(gains, (2.5, 97.5)).tolist()),
            "first_fifth": float(wrong[first].sum() / wrong.sum()),
        }
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="per_image.csv of a cross-validation, with patients")
    wrong, scores, patients = read(parser.parse_args().table)
    print(f"{len(wrong)} images of {len(patients)} patients, {wrong.sum()} classified wrongly")
    for name, one in measure(wrong, scores, patients).items():
        low, high = one["gain"]
        print(f"{name:15} AUC {one['auc']:.3f} ({low:+.3f} to {high:+.3f})  first fifth {one['first_fifth']:.2f}")


if __name__ == "__main__":
    main()
