"""Uncertainty of the scores of a set of images: bootstrap intervals by group, and paired comparisons of two models.

A bootstrap draws thousands of images a thousand times. Scoring each draw by itself takes minutes. Here the draws are
weights of the images, and all are scored at once; the tests compare this with `point_scores` of each draw.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, wilcoxon

from busseg.evaluation.scores import (
    BINS,
    DISTANCES,
    OVERLAPS,
    classes_of,
    confidence_bins,
    image_values,
    labels_and_probabilities,
    malignancy,
    numbers_of,
    scored,
)

_BY_WILCOXON = (*OVERLAPS, *DISTANCES, "false_alarm_px", "false_alarm_fraction")
_BY_MCNEMAR = ("missed_rate", "clean_normal_rate", "accuracy")


def bootstrap_intervals(
    rows: Sequence[dict], replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, list[float]]:
    """Percentile bootstrap intervals of the scores of a set of images.

    Each draw takes as many whole groups as there are, with replacement: copies of an image and images of one patient
    are not independent.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error are left out.
        replicates: Number of draws.
        level: Share of the draws that lie inside the interval.
        seed: Integer. The same seed gives the same intervals.

    Returns:
        Dict from the name of a score to `[low, high]`, for the scores that `point_scores` defines. Draws in which a
        score is not defined are left out of its interval.

    Reference:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13
    """
    rows = scored(rows)
    draws = _scores_of_draws(rows, image_values(rows), _draw(rows, replicates, seed))
    return {name: _interval(values[1:], level) for name, values in draws.items() if not np.isnan(values[0])}


def mean_intervals(
    rows: Sequence[dict], values: Mapping[str, NDArray], replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, list[float]]:
    """`bootstrap_intervals` of scores that are means over images.

    Args:
        rows: Sequence of dicts with `group`, one an image.
        values: Dict from the name of a score to array `(images,)`, NaN where the score is not defined for an image.
        replicates, level, seed: See `bootstrap_intervals`.

    Returns:
        Dict from name to `[low, high]`, for the scores that at least one image defines.
    """
    draw = _draw(rows, replicates, seed)
    means = {name: _means(each, draw) for name, each in values.items() if not np.isnan(each).all()}
    return {name: _interval(mean[1:], level) for name, mean in means.items()}


def paired_differences(rows_a: Sequence[dict], rows_b: Sequence[dict], replicates: int = 1000, seed: int = 0) -> dict:
    """Compare two models on the images that both have scored.

    Two rows belong to one image if their file, label, size and true area agree (and their repeat or
    fold, where a file is in several). A score that is a mean over images uses only the images on which both models
    define it: distances use the lesions that both models found.

    The interval draws the same whole groups for both models; read it first. `p` tests whether chance alone explains
    the difference. Both tests assume independent images, which copies of an image and images of one patient are not:
    where groups hold many images, `p` is too small.

    - Overlaps, distances and false-alarm areas: Wilcoxon's signed-rank test, two-sided, without the images that have
      no difference. It assumes that the differences lie symmetrically about their median.
    - Accuracy, missed lesions and clean normal images: McNemar's exact test, two-sided. It assumes that of the images
      that only one model gets right, each model gets half.
    - Other scores have no test, and repeats neither, whose rows depend on each other: `p` is None.

    Args:
        rows_a: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error are left out.
        rows_b: The same of the other model.
        replicates: Number of draws.
        seed: Integer. The same seed gives the same intervals.

    Returns:
        Dict of `images` and `groups`, the numbers that both have scored (groups as in `rows_a`); `only_a` and `only_b`,
        the numbers of images that only one has scored; and `differences`, a dict from the name of a score to a dict of
        `a` and `b`, the scores on the common images, `difference` `b - a`, its 95 % bootstrap interval `low` and
        `high`, and `p`. Scores that the common images do not define are left out.
    """
    rows_a, rows_b, only_a, only_b = match_images(scored(rows_a), scored(rows_b))
    draw = _draw(rows_a, replicates, seed)
    values_a, values_b = image_values(rows_a), image_values(rows_b)
    for a, b in zip(values_a.values(), values_b.values()):
        a[np.isnan(b)] = b[np.isnan(a)] = np.nan
    draws_a, draws_b = _scores_of_draws(rows_a, values_a, draw), _scores_of_draws(rows_b, values_b, draw)
    differences = {}
    for name, a in draws_a.items():
        b = draws_b[name]
        if not np.isnan(b[0] - a[0]):
            low, high = _interval(b[1:] - a[1:])
            differences[name] = {
                "a": float(a[0]),
                "b": float(b[0]),
                "difference": float(b[0] - a[0]),
                "low": low,
                "high": high,
                "p": _p_value(name, values_a.get(name), values_b.get(name)),
            }
    groups = len({row["group"] for row in rows_a})
    if len({row.get("repeat") for row in rows_a}) > 1:
        for one in differences.values():
            one["p"] = None  # the tests take each row as independent of the others
    return {
        "images": len(rows_a),
        "groups": groups,
        "only_a": only_a,
        "only_b": only_b,
        "differences": differences,
    }


def image_key(rows_a: Sequence[dict], rows_b: Sequence[dict]) -> Callable[[dict], tuple]:
    """A function from a row to the key of its image: equal for rows of one image; see `paired_differences`."""
    names = ["file", "label", "true_px", "width_px", "height_px"]

    def key(row):
        return tuple(row.get(name) for name in names)

    for name in ("repeat", "fold"):
        if any(len(set(map(key, rows))) < len(rows) for rows in (rows_a, rows_b)):
            names.append(name)
    return key


def match_images(rows_a: Sequence[dict], rows_b: Sequence[dict]) -> tuple[list[dict], list[dict], int, int]:
    """The rows of the images in both tables, in one order, and the numbers of images that only one table has."""
    key = image_key(rows_a, rows_b)
    by_image_a, by_image_b = ({key(row): row for row in rows} for rows in (rows_a, rows_b))
    common = [image for image in by_image_a if image in by_image_b]
    return (
        [by_image_a[image] for image in common],
        [by_image_b[image] for image in common],
        len(rows_a) - len(common),
        len(rows_b) - len(common),
    )


def _p_value(name, a, b):
    if name in _BY_WILCOXON:
        changes = (b - a)[~np.isnan(a) & (a != b)]
        return float(wilcoxon(changes).pvalue) if changes.size else 1.0
    if name in _BY_MCNEMAR:
        only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
        return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return None


def _interval(values, level=0.95):
    outside = 50 * (1 - level)
    low, high = np.nanpercentile(values, (outside, 100 - outside))
    return [float(low), float(high)]


# === Draws, as weights ===
def _draw(rows, replicates, seed):
    """Weights `(1 + replicates, images)`: how often each image is drawn. The first draw takes each image once."""
    if not rows:
        return np.ones((1 + replicates, 0))
    names, group_of = np.unique([row["group"] for row in rows], return_inverse=True)
    shares = np.full(len(names), 1 / len(names))
    counts = np.random.default_rng(seed).multinomial(len(names), shares, size=replicates)
    return np.concatenate([np.ones((1, len(rows))), counts[:, group_of]])


def _scores_of_draws(rows, values, draw):
    """The `point_scores` of each draw: a dict from name to array `(1 + replicates,)`, NaN if not defined.

    Args:
        rows: Sequence of dicts, one a readable image.
        values: The `image_values` of the rows.
        draw: Weights, see `_draw`.
    """
    scores = {name: _means(each, draw) for name, each in values.items()}
    scores |= {f"{name}_median": _medians(values[name], draw) for name in (*OVERLAPS, *DISTANCES)}
    labels, probabilities = labels_and_probabilities(rows)
    labelled = np.array([bool(row["label"]) for row in rows], dtype=bool)
    classes = classes_of(rows)
    true = numbers_of(labels, classes)
    draw = draw[:, labelled]
    dice, clean = values["dice"][labelled], values["clean_normal_rate"][labelled]
    overlap_or_clean = np.where(np.isnan(dice), clean, dice)
    by_class = [_means(np.where(true == i, overlap_or_clean, np.nan), draw) for i in range(len(classes))]
    return {
        **scores,
        "class_dice": _mean_of_defined(by_class),
        **_confusion_scores(true, probabilities.argmax(axis=1), classes, draw),
        **_auc_scores(true, probabilities, classes, draw),
        "ece": _calibration_errors(true, probabilities, draw),
    }


def _divide(above, below):
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _means(values, draw):
    defined = ~np.isnan(values)
    return _divide(draw[:, defined] @ values[defined], draw[:, defined].sum(axis=1))


def _mean_of_defined(scores):
    scores = np.stack(scores)
    return _divide(np.nansum(scores, axis=0), np.sum(~np.isnan(scores), axis=0))


def _medians(values, draw):
    order = np.argsort(values)[: np.sum(~np.isnan(values))]  # NaN comes last
    if not order.size:
        return np.full(len(draw), np.nan)
    reached = np.cumsum(draw[:, order], axis=1)
    total = reached[:, -1:]
    # The middle one of an odd number of drawn images, the mean of the middle two of an even number.
    middle = [np.sum(reached < rank, axis=1) for rank in ((total + 1) // 2, total // 2 + 1)]
    low, high = (values[order[np.minimum(place, len(order) - 1)]] for place in middle)
    return np.where(total[:, 0] > 0, (low + high) / 2, np.nan)


def _confusion_scores(true, predicted, classes, draw):
    size = len(classes)
    cells = np.eye(size * size)[true * size + predicted]
    confusion = (draw @ cells).reshape(-1, size, size)
    hits, images, answers = confusion.diagonal(axis1=1, axis2=2), confusion.sum(axis=2), confusion.sum(axis=1)
    # NaN for a class that is not in the draw, so the mean leaves it out.
    sensitivity = _divide(hits, images)
    f1 = np.where(images > 0, _divide(2 * hits, images + answers), np.nan)
    return {"balanced_accuracy": _mean_of_defined(sensitivity.T), "macro_f1": _mean_of_defined(f1.T)}


def _auc_scores(true, probabilities, classes, draw):
    by_class = [_aucs(true == i, probabilities[:, i], draw) for i in range(len(classes))]
    chosen, truth, score = malignancy(true, probabilities, classes)
    return {"macro_auc": np.mean(by_class, axis=0), "malignant_auc": _aucs(truth, score, draw[:, chosen])}


def _aucs(positive, scores, draw):
    """The share of pairs of a positive and a negative image that are ranked correctly; a tie counts half."""
    if not scores.size:
        return np.full(len(draw), np.nan)
    order = np.argsort(scores)
    _, starts = np.unique(scores[order], return_index=True)
    positives, negatives = (
        np.add.reduceat((draw * chosen)[:, order], starts, axis=1) for chosen in (positive, ~positive)
    )
    below = np.cumsum(negatives, axis=1) - negatives
    right = np.sum(positives * (below + negatives / 2), axis=1)
    return _divide(right, positives.sum(axis=1) * negatives.sum(axis=1))


def _calibration_errors(true, probabilities, draw):
    gaps = (probabilities.argmax(axis=1) == true) - probabilities.max(axis=1)
    of_bins = draw @ (np.eye(BINS)[confidence_bins(probabilities)] * gaps[:, None])
    return _divide(np.abs(of_bins).sum(axis=1), draw.sum(axis=1))
