"""Does the heat of Grad-CAM and of occlusion lie on the lesion, and do the two agree?

RUNS are folders of folds, as of `busseg crossval`: each network explains lesions of its own test part, one a group, so
that no image counts twice. `factor` is the share of the heat above 0 that lies in the true lesion, divided by the
lesion's share of the image: 1 is chance. `peak` is how often the hottest pixel lies in it, the pointing game. Both are
also measured for the heat of another lesion's image, as most lesions lie in the middle; and for networks with the same
layers and random weights, whose heat should be at chance (Adebayo et al., "Sanity Checks for Saliency
Maps", NeurIPS 2018, https://arxiv.org/abs/1810.03292). `agreement` is Spearman's rank correlation with the occlusion
of the same image. Brackets: 95 % bootstrap intervals over lesions.

Example: python -m benchmarks.explain data/busi runs/card-grouped/fold-* --json explain.json
"""

from pathlib import Path

import numpy as np

from benchmarks.reporting import measure_and_report, parse_arguments

QUICK = {"count": 4, "random": 2}
_GRID = (32, 32)  # for ranks: native pixels would be the same few places many times


def measure(data, runs, count=100, random=20):
    """Explain lesions and score the heat.

    Args:
        data: Path of the dataset's folder.
        runs: Sequence of paths of run folders, whose test parts share no image.
        count: Number of lesions, from all runs in equal parts.
        random: Number of them that networks of random weights explain, too.

    Returns:
        List of rows.
    """
    import keras
    from rich.progress import track

    from busseg.data import find_samples
    from busseg.explain.files import open_model

    samples = find_samples(data)
    kinds = {}
    for number, run in enumerate(map(Path, runs)):
        _, network = open_model(run)
        blank = keras.models.model_from_json(network.to_json())
        part = slice(number, None, len(runs))  # equal parts, that add up to what was asked for
        lesions = choose_lesions(run, samples, len(range(count)[part]))
        last = None
        for index, sample in enumerate(track(lesions, f"Explaining {run}")):
            mask, heats = explain(network, sample)
            found = {"trained": heats, f"trained, {sample.label}": heats}
            if last:
                found["another image's"] = {name: resized(heat, mask.shape) for name, heat in last.items()}
            if index < len(range(random)[part]):
                found["random weights"] = explain(blank, sample)[1]
            for kind, some in found.items():
                score(kinds.setdefault(kind, {}), some, heats["occlusion"], mask)
            last = heats
    return [
        {"heat": name, "of": kind, **summarise(scores[name])}
        for kind, scores in kinds.items()
        for name in scores
        if scores[name]
    ]


def choose_lesions(run, samples, count):
    """Lesions of the test part of a run, one a group, drawn at random."""
    from busseg.data.splits import read_split

    test = [sample for sample in read_split(run / "splits.csv", samples).test if sample.label != "normal"]
    drawn = [test[i] for i in np.random.default_rng(0).permutation(len(test))]
    return list({sample.group: sample for sample in drawn}.values())[:count]


def explain(network, sample):
    """`(mask, heats)` of a lesion; explained is the class that is predicted, right or wrong."""
    from busseg.explain.grad_cam import grad_cam, mask_grad_cam
    from busseg.explain.occlusion import occlusion
    from busseg.imaging.images import read_image, read_mask
    from busseg.inference.predictor import Predictor

    image = read_image(sample.image)
    heats = {
        "grad_cam_label": grad_cam(network, image),
        "grad_cam_mask": mask_grad_cam(network, image),
        "occlusion": occlusion(Predictor(network), image),
    }
    return read_mask(sample.masks, image.shape), heats


def resized(heat, shape):
    import cv2

    return cv2.resize(heat, shape[::-1], interpolation=cv2.INTER_AREA)


def score(scores, heats, occlusion, mask):
    """Add to `scores` a dict of scores for each heat map; a map without heat above 0 is left out."""
    from scipy.stats import spearmanr

    area = float(mask.mean())
    for name, heat in heats.items():
        scores.setdefault(name, [])
        positive = np.maximum(heat, 0)
        if not positive.any():
            continue
        share = float(positive[mask > 0].sum() / positive.sum())
        peak = float(mask[np.unravel_index(heat.argmax(), heat.shape)])
        one = {"share": share, "area": area, "factor": share / area, "peak": peak}
        if heat is not occlusion:
            ranks = spearmanr(resized(heat, _GRID).ravel(), resized(occlusion, _GRID).ravel())
            one["agreement"] = float(ranks.statistic)
        scores[name].append(one)


def summarise(scores):
    """A row that sums up the scores of one kind of heat."""
    values = {name: np.array([one[name] for one in scores]) for name in scores[0]}
    if "agreement" in values:  # undefined where occlusion changes nothing, as with a saturated network
        values["agreement"] = values["agreement"][np.isfinite(values["agreement"])]
    return {
        "lesions": len(scores),
        "share in lesion": float(values["share"].mean()),
        "area of lesion": float(values["area"].mean()),
        "factor, median": interval(values["factor"], np.median),
        "above chance": float((values["factor"] > 1).mean()),
        "peak": interval(values["peak"], np.mean),
        "agreement": interval(values["agreement"], np.mean) if len(values.get("agreement", ())) else None,
        "factors": values["factor"].tolist(),
    }


def interval(values, statistic):
    """A statistic, `np.median` or `np.mean`, and its bootstrap interval, as a `spread`."""
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(statistic(values[draws], axis=1), (2.5, 97.5))
    return {"median": float(statistic(values)), "min": float(low), "max": float(high)}


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("data", {"type": Path, "help": "dataset folder, such as data/busi"}),
        ("runs", {"type": Path, "nargs": "+", "help": "run folders, such as the folds of a cross-validation"}),
        ("--count", {"type": int, "help": "lesions (100)"}),
        ("--random", {"type": int, "help": "of them also by networks of random weights (20)"}),
    )
    measure_and_report("explain", measure, settings, path)


if __name__ == "__main__":
    main()
