"""Score the search for copies against BUSI's published groups, compared with a plain correlation of thumbnails.

A pair counts as published if both images bear the same group in the list of Pawłowska et al. (2023). Two sets of
pairs are scored: those that the search names ("pairs"), and those that share a group once copies of copies are joined
("groups"), which is what splits are made of. The published pairs are of the second kind.

The groups are halved at random, and each image goes with its group. A half is scored on the pairs inside it. The
threshold is chosen on one half and scored on the other: the lowest at which, after joining, a precision of 0.99 is
kept on the choosing half.
"""

import argparse
import json
import time
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from busseg.data.duplicates import SIMILARITY, Copy, content_groups, find_copies
from busseg.data.readers.busi import find_samples
from busseg.imaging.images import read_image
from busseg.storage.files import write_text

PRECISION = 0.99  # to be kept on the choosing half; the aim is 0.97, and the other half may be less kind
STEP = 0.01
HALVINGS = 20
LOWEST = {"content": 0.1, "thumbnails": 0.85}  # thresholds tried, from here to 1


def correlate_thumbnails(paths, similarity):
    """The baseline: pairs of images whose 64 x 64 thumbnails correlate by at least `similarity`."""
    thumbnails = np.stack([cv2.resize(read_image(path), (64, 64), interpolation=cv2.INTER_AREA) for path in paths])
    correlation = np.corrcoef(thumbnails.reshape(len(paths), -1).astype(np.float32))
    pairs = np.argwhere(np.triu(correlation, 1) >= similarity)
    return [Copy(paths[i], paths[j], float(correlation[i, j]), exact=False) for i, j in pairs]


def pairs_in(group_of):
    """The pairs that share a group: set of `(path, path)`, in the order of the dict."""
    members = defaultdict(list)
    for path, group in group_of.items():
        members[group].append(path)
    return {pair for paths in members.values() for pair in combinations(paths, 2)}


def score(copies, published, threshold):
    """Precision and recall of copies, as named and as joined into groups.

    Args:
        copies: List of `Copy`; those of images outside `published` are passed over.
        published: Dict from path to published group.
        threshold: Least similarity.

    Returns:
        Dict with `threshold`, and under `pairs` and `groups` each `precision`, `recall`, and the lists `missed` and
        `false` of pairs of paths.
    """
    true = pairs_in(published)
    chosen = [c for c in copies if c.similarity >= threshold and c.first in published and c.second in published]
    found = {"pairs": {(c.first, c.second) for c in chosen}, "groups": pairs_in(content_groups(published, chosen))}
    scores = {"threshold": threshold}
    for kind, pairs in found.items():
        right = len(pairs & true)
        scores[kind] = {
            "precision": right / len(pairs) if pairs else 1.0,
            "recall": right / len(true),
            "missed": sorted(true - pairs),
            "false": sorted(pairs - true),
        }
    return scores


def halves(published, seed):
    """Two dicts like `published`, each with the images of a random half of the groups."""
    groups = sorted(set(published.values()))
    chosen = set(np.random.default_rng(seed).permutation(groups)[: len(groups) // 2].tolist())
    return [{path: group for path, group in published.items() if (group in chosen) == side} for side in (True, False)]


def choose_and_score(copies, published, lowest, seed):
    """Scores on the choosing half, on the scoring half and on all images, at the threshold chosen on the first."""
    choosing, scoring = halves(published, seed)
    thresholds = np.round(np.arange(lowest, 1, STEP), 4).tolist()
    kept = (t for t in thresholds if score(copies, choosing, t)["groups"]["precision"] >= PRECISION)
    threshold = next(kept)
    parts = {"choosing": choosing, "scoring": scoring, "all": published}
    return {part: score(copies, images, threshold) for part, images in parts.items()}


def evaluate(copies, published, lowest):
    """The scores of the first halving, and the `(mean, least, greatest)` of the scoring halves of all of them."""
    results = [choose_and_score(copies, published, lowest, seed) for seed in range(HALVINGS)]
    values = {"threshold": [result["scoring"]["threshold"] for result in results]}
    for kind in ("pairs", "groups"):
        for name in ("precision", "recall"):
            values[f"{kind}, {name}"] = [result["scoring"][kind][name] for result in results]
    return results[0], {name: (float(np.mean(v)), min(v), max(v)) for name, v in values.items()}


def print_scores(method, scores):
    for part, row in scores.items():
        numbers = [f"{row[kind][name]:9.3f}" for kind in ("pairs", "groups") for name in ("precision", "recall")]
        print(f"{method:11}{part:10}{row['threshold']:9.2f}  {''.join(numbers)}")


def print_pairs(title, pairs, similarity_of):
    print(f"\n{title}: {len(pairs)}")
    for pair in pairs:
        print(f"  {pair[0].stem} = {pair[1].stem}  (similarity {similarity_of.get(pair, 0):.2f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="BUSI's folder, such as data/busi")
    parser.add_argument("--out", type=Path, help="JSON file to write the results to")
    arguments = parser.parse_args()

    published = {sample.image: sample.group for sample in find_samples(arguments.data)}
    paths = list(published)
    start = time.perf_counter(), time.process_time()
    copies = find_copies(paths, lambda items: track(items, "Reading images"), similarity=LOWEST["content"])
    seconds = {"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}
    found = {"content": copies, "thumbnails": correlate_thumbnails(paths, LOWEST["thumbnails"])}
    results = {method: evaluate(found[method], published, LOWEST[method]) for method in found}

    print(f"\n{len(paths)} images, {len(pairs_in(published))} published pairs")
    print(f"find_copies took {seconds['wall']:.1f} s ({seconds['cpu']:.1f} s of CPU time)\n")
    print(f"{'':33}pairs             groups\n{'method':11}{'part':10}threshold  {'precision   recall ' * 2}")
    for method, (scores, _) in results.items():
        print_scores(method, scores)
    default = score(copies, published, SIMILARITY)
    print_scores("default", {"all": default})
    print(f"\nScoring halves of {HALVINGS} halvings: mean (least to greatest)")
    for method, (_, spread) in results.items():
        for name, (mean, least, greatest) in spread.items():
            print(f"  {method:11}{name:19}{mean:.3f} ({least:.3f} to {greatest:.3f})")
    similarity_of = {(copy.first, copy.second): copy.similarity for copy in copies}
    print(f"\nAt the default threshold, {SIMILARITY}, on all images:")
    for kind in ("pairs", "groups"):
        print_pairs(f"missed {kind}", default[kind]["missed"], similarity_of)
        print_pairs(f"false {kind}", default[kind]["false"], similarity_of)
    if arguments.out:
        written = {"images": len(paths), "seconds": seconds, "default": default}
        written |= {method: {**scores, "halvings": spread} for method, (scores, spread) in results.items()}
        write_text(arguments.out, json.dumps(written, indent=1, default=lambda path: path.stem))


if __name__ == "__main__":
    main()
