import numpy as np
import pytest
from scipy.stats import binomtest, wilcoxon

from busseg.data.sample import CLASSES
from busseg.evaluation.intervals import bootstrap_intervals, mean_intervals, paired_differences
from busseg.evaluation.scores import image_values, point_scores
from busseg.evaluation.table import fields


def make_row(file, group=None, label="benign", probabilities=(0.2, 0.5, 0.3), dice=0.5, marked=0, **others):
    """A row of a table: a lesion of 100 pixels found with this Dice, or no lesion if it is None."""
    row = dict.fromkeys(fields(CLASSES)) | {
        "file": str(file),
        "group": str(file if group is None else group),
        "label": label,
    }
    row |= {f"p_{name}": float(p) for name, p in zip(CLASSES, probabilities, strict=True)}
    row |= {"width_px": 50, "height_px": 40, "predicted_px": marked, "pixel_mm": 0.1}
    if dice is None:
        return row | {"true_px": 0, "clean": marked == 0} | others
    row |= {"true_px": 100, "dice": dice, "iou": dice / (2 - dice), "nsd": dice**2}
    row |= {"sensitivity": dice, "precision": dice}
    if dice:
        row |= {"hd95_px": 30 * (1 - dice), "assd_px": 10 * (1 - dice)}
    return row | others


def make_rows(images, groups, seed, model=0):
    """Rows of images of all kinds in groups of several, with ties and with labels that are missing."""
    truth, random = np.random.default_rng(seed), np.random.default_rng((seed, model))
    rows = []
    for i in range(images):
        label = truth.choice([*CLASSES, "normal"])
        probabilities = random.dirichlet(1 + np.eye(3)[CLASSES.index(label)]).round(1)
        lesion = label != "normal"
        rows.append(
            make_row(
                file=i,
                group=truth.integers(groups),
                label=label if truth.random() < 0.9 else None,
                probabilities=probabilities / probabilities.sum(),
                dice=float(np.clip(random.normal(0.5, 0.4), 0, 1).round(1)) if lesion else None,
                marked=int(random.integers(3)) * 40,
            )
        )
    return rows


# === Bootstrap ===
def test_means_over_images_have_the_intervals_of_scores_that_are_means():
    rows = make_rows(60, groups=25, seed=3)
    values = {name: image_values(rows)[name] for name in ("dice", "accuracy", "clean_normal_rate", "assd_px")}
    expected = bootstrap_intervals(rows)
    assert mean_intervals(rows, values) == {name: expected[name] for name in values}


def bootstrap_by_hand(rows, replicates, level, seed):
    """The same bootstrap, drawn and scored one by one."""
    groups = sorted({row["group"] for row in rows})
    random = np.random.default_rng(seed)
    draws = [random.multinomial(len(groups), [1 / len(groups)] * len(groups)) for _ in range(replicates)]
    found = {name: [] for name in point_scores(rows)}
    for counts in draws:
        times = dict(zip(groups, counts, strict=True))
        drawn = [row for row in rows for _ in range(times[row["group"]])]
        for name, score in point_scores(drawn).items():
            found[name] += [] if score is None else [score]
    ends = 100 * (1 - level) / 2, 100 * (1 + level) / 2
    return {name: list(np.percentile(scores, ends)) for name, scores in found.items() if scores}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("images", "groups", "level"), [(120, 60, 0.95), (40, 40, 0.8), (12, 5, 0.95), (60, 3, 0.5)])
def test_intervals_are_those_of_scoring_each_draw(images, groups, level):
    rows = make_rows(images, groups, seed=images)
    expected = bootstrap_by_hand(rows, replicates=40, level=level, seed=7)
    defined = {name for name, score in point_scores(rows).items() if score is not None}
    intervals = bootstrap_intervals(rows, replicates=40, level=level, seed=7)
    assert intervals.keys() == defined
    for name, interval in intervals.items():
        assert interval == pytest.approx(expected[name]), name


def test_seed_makes_intervals_reproducible():
    rows = make_rows(50, 20, seed=0)
    first, again, other = (bootstrap_intervals(rows, replicates=100, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_interval_holds_the_score():
    rows = make_rows(300, 200, seed=0)
    scores = point_scores(rows)
    # ECE is the exception: a draw's noise adds to the gaps of the bins, so that its draws lie above it.
    for name, (low, high) in bootstrap_intervals(rows).items():
        assert low <= scores[name] <= high or name == "ece", name


def width(rows, name="dice"):
    low, high = bootstrap_intervals(rows)[name]
    return high - low


def test_copies_of_a_scan_do_not_narrow_the_interval():
    random = np.random.default_rng(0)
    rows = [make_row(i, dice=dice) for i, dice in enumerate(random.uniform(size=40))]
    copies = [row | {"file": f"{row['file']} copy {k}"} for row in rows for k in range(9)]
    assert width(rows + copies) == pytest.approx(width(rows), rel=1e-9)
    strangers = [row | {"group": row["file"]} for row in copies]
    # Ten times as many images that were independent would make it narrower by the root of ten.
    assert width(rows + strangers) == pytest.approx(width(rows) / np.sqrt(10), rel=0.2)


def test_level_widens_the_interval():
    rows = make_rows(60, 60, seed=0)
    (low, high), (lower, higher) = (bootstrap_intervals(rows, level=level)["dice"] for level in (0.8, 0.99))
    assert lower < low < high < higher


def test_interval_of_a_mean_covers_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        # 40 patients of three scans, each scan near its patient's own Dice; the true mean is 0.5.
        patients = np.repeat(random.uniform(0.1, 0.9, 40), 3)
        scans = patients + random.uniform(-0.1, 0.1, 120)
        rows = [make_row(i, group=i // 3, dice=float(dice)) for i, dice in enumerate(scans)]
        low, high = bootstrap_intervals(rows, replicates=300, seed=seed)["dice"]
        hits += low <= 0.5 <= high
    # 95 % of 200, and three times the deviation sqrt(200 * 0.95 * 0.05) = 3.1 to either side
    assert 181 <= hits <= 199


@pytest.mark.filterwarnings("error")
def test_rows_without_anything_to_score_have_no_interval():
    assert bootstrap_intervals([]) == {}
    assert bootstrap_intervals([{"file": "a", "group": "a", "label": "benign", "error": "broken"}]) == {}


def test_intervals_are_plain_numbers():
    for interval in bootstrap_intervals(make_rows(30, 30, seed=0)).values():
        assert [type(end) for end in interval] == [float, float]


# === Paired ===
def test_differences_are_those_of_the_scores_on_common_images():
    rows_a, rows_b = make_rows(80, 30, seed=1), make_rows(80, 30, seed=1, model=1)
    lost_a, lost_b = rows_a[3] | {"error": "broken"}, rows_b[5] | {"error": "broken"}
    paired = paired_differences([*rows_a[:3], lost_a, *rows_a[4:70]], [*rows_b[:5], lost_b, *rows_b[6:]][::-1])
    common = [i for i in range(70) if i not in (3, 5)]
    assert (paired["images"], paired["only_a"], paired["only_b"]) == (68, 1, 11)
    assert paired["groups"] == len({rows_a[i]["group"] for i in common})
    found = [i for i in common if rows_a[i]["dice"] and rows_b[i]["dice"]]
    for name, row in paired["differences"].items():
        images = found if name.startswith(("hd95", "assd")) else common
        a, b = (point_scores([rows[i] for i in images])[name] for rows in (rows_a, rows_b))
        assert (row["a"], row["b"]) == pytest.approx((a, b)), name
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
        assert row["low"] <= row["high"]
    assert paired["differences"].keys() == point_scores(rows_a).keys()


def test_overlaps_are_tested_by_wilcoxon():
    random = np.random.default_rng(0)
    a, b = random.uniform(size=30), random.uniform(size=30)
    b[:4] = a[:4]
    rows_a, rows_b = ([make_row(i, dice=float(dice)) for i, dice in enumerate(dices)] for dices in (a, b))
    row = paired_differences(rows_a, rows_b)["differences"]["dice"]
    assert row["p"] == pytest.approx(wilcoxon(a[4:], b[4:]).pvalue)


@pytest.mark.parametrize(("right_a", "right_b", "only_a", "only_b"), [("110110", "001110", 2, 1), ("10", "10", 0, 0)])
def test_accuracy_is_tested_by_mcnemar(right_a, right_b, only_a, only_b):
    def rows(right):
        return [make_row(i, probabilities=(0, 1, 0) if one == "1" else (1, 0, 0)) for i, one in enumerate(right)]

    row = paired_differences(rows(right_a), rows(right_b))["differences"]["accuracy"]
    assert row["difference"] == pytest.approx((only_b - only_a) / len(right_a))
    assert row["p"] == (pytest.approx(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1)


def test_clean_normals_are_tested_by_mcnemar():
    rows_a = [make_row(i, label="normal", dice=None, marked=20) for i in range(6)]
    rows_b = [make_row(i, label="normal", dice=None) for i in range(6)]
    row = paired_differences(rows_a, rows_b)["differences"]["clean_normal_rate"]
    assert (row["a"], row["b"]) == (0, 1)
    assert row["p"] == pytest.approx(2 * 0.5**6)  # six of six, either way


def test_distances_are_compared_over_the_lesions_that_both_found():
    rows_a = [make_row(i, dice=dice) for i, dice in enumerate((0.5, 0.5, 0, 0.9))]
    rows_b = [make_row(i, dice=dice) for i, dice in enumerate((0.9, 0, 0.9, 0.9))]
    row = paired_differences(rows_a, rows_b)["differences"]["hd95_px"]
    assert (row["a"], row["b"]) == pytest.approx(((15 + 3) / 2, (3 + 3) / 2))
    assert paired_differences(rows_a, rows_b)["differences"]["missed_rate"]["difference"] == 0


def test_better_model_shows():
    random = np.random.default_rng(0)
    dices = random.uniform(0.1, 0.8, 60)
    rows_a, rows_b = ([make_row(i, dice=float(dice + gain)) for i, dice in enumerate(dices)] for gain in (0, 0.1))
    row = paired_differences(rows_a, rows_b)["differences"]["dice"]
    # The same gain on every image, so every draw has the same difference.
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert row["p"] < 1e-6


@pytest.mark.filterwarnings("error")
def test_model_does_not_differ_from_itself():
    rows = make_rows(40, 20, seed=0)
    for row in paired_differences(rows, rows)["differences"].values():
        assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
        assert row["p"] in (1, None)


def test_only_scores_that_are_means_over_images_have_a_p():
    rows = make_rows(40, 20, seed=0)
    tested = {name for name, row in paired_differences(rows, rows)["differences"].items() if row["p"] is not None}
    assert tested == {
        "dice", "iou", "sensitivity", "precision", "nsd", "hd95_px", "assd_px", "hd95_mm", "assd_mm",
        "missed_rate", "clean_normal_rate", "false_alarm_px", "false_alarm_fraction", "accuracy",
    }  # fmt: skip


def test_scores_that_common_images_do_not_define_are_left_out():
    paired = paired_differences([make_row(0, label=None)], [make_row(0, label=None)])
    assert "dice" in paired["differences"]
    assert not {"accuracy", "macro_auc", "ece", "clean_normal_rate", "class_dice"} & paired["differences"].keys()


@pytest.mark.parametrize("other", [{"file": "1"}, {"label": "malignant"}, {"true_px": 99}, {"width_px": 256}])
def test_row_of_another_image_or_truth_is_no_partner(other):
    paired = paired_differences([make_row(0)], [make_row(0) | other])
    assert paired == {"images": 0, "groups": 0, "only_a": 1, "only_b": 1, "differences": {}}


def test_file_that_stands_in_several_folds_is_matched_within_each():
    rows_a = [make_row("x", fold=0, dice=0.2), make_row("x", fold=1, dice=0.4)]
    rows_b = [make_row("x", fold=1, dice=0.5), make_row("x", fold=0, dice=0.9)]
    row = paired_differences(rows_a, rows_b)["differences"]["dice"]
    assert (row["a"], row["b"]) == pytest.approx((0.3, 0.7))
    assert paired_differences(rows_a, rows_b)["groups"] == 1
    assert paired_differences(rows_a[:1], rows_b[:1])["images"] == 1  # other splits' folds: files suffice


def test_paired_intervals_are_reproducible():
    rows_a, rows_b = make_rows(40, 20, seed=1), make_rows(40, 20, seed=1, model=1)
    first, again, other = (paired_differences(rows_a, rows_b, replicates=100, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
