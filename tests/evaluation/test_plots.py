import base64

import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from busseg.data.sample import CLASSES
from busseg.evaluation import plots
from busseg.evaluation.page import embed_figure
from busseg.evaluation.scores import calibration


def random_answers(seed, images=80, classes=CLASSES):
    random = np.random.default_rng(seed)
    return [*classes, *random.choice(classes, images - len(classes))], random.dirichlet(np.ones(3), images)


def lesion(dice, label="benign", true_px=100, side=100):
    return {"dice": dice, "label": label, "true_px": true_px, "width_px": side, "height_px": side}


def lines(figure, panel=0):
    """Dict from label to the line of it; those of matplotlib's own naming are left out."""
    found = {line.get_label(): line for line in figure.axes[panel].lines}
    return {label: line for label, line in found.items() if not label.startswith("_")}


def dots(figure):
    """The coordinates of all dots of a class, by colour."""
    by_color = {to_hex(color): label for label, color in plots.COLORS.items()}
    return {
        by_color[to_hex(line.get_color())]: line.get_xydata()
        for line in figure.axes[0].lines
        if line.get_marker() == "o" and to_hex(line.get_color()) in by_color
    }


def brightness(color):
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_classes_differ_on_grey_paper():
    values = sorted(brightness(plots.COLORS[label]) for label in CLASSES)
    assert np.diff(values).min() > 30


# === Curves of classes ===
@pytest.mark.parametrize("seed", range(3))
def test_roc_curves_are_those_of_scikit_learn(seed):
    labels, probabilities = random_answers(seed)
    curves = plots.roc_curves(labels, probabilities)
    assert tuple(curves) == CLASSES
    for number, label in enumerate(CLASSES):
        truth = [one == label for one in labels]
        expected = roc_curve(truth, probabilities[:, number])
        np.testing.assert_array_equal(curves[label][0], expected[0])
        np.testing.assert_array_equal(curves[label][1], expected[1])
        assert curves[label][2] == roc_auc_score(truth, probabilities[:, number])


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_curves_are_those_of_scikit_learn(seed):
    labels, probabilities = random_answers(seed)
    curves = plots.precision_recall_curves(labels, probabilities)
    assert tuple(curves) == CLASSES
    for number, label in enumerate(CLASSES):
        truth = [one == label for one in labels]
        precision, recall, _ = precision_recall_curve(truth, probabilities[:, number])
        np.testing.assert_array_equal(curves[label][0], recall)
        np.testing.assert_array_equal(curves[label][1], precision)
        assert curves[label][2] == average_precision_score(truth, probabilities[:, number])


def test_perfect_answers_reach_the_corner():
    curves = plots.roc_curves(["normal", "benign", "malignant"], np.eye(3))
    for false_positive_rate, sensitivity, auc in curves.values():
        assert (0, 1) in set(zip(false_positive_rate, sensitivity))
        assert auc == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("curves", [plots.roc_curves, plots.precision_recall_curves])
def test_class_of_none_or_of_all_images_has_no_curve(curves):
    probabilities = random_answers(0)[1]
    assert tuple(curves(["benign", "malignant"] * 40, probabilities)) == ("benign", "malignant")
    assert curves(["benign"] * 80, probabilities) == {}


def test_roc_plot_draws_the_curves_in_the_colours_of_the_classes():
    curves = plots.roc_curves(*random_answers(0))
    drawn = lines(plots.plot_roc(curves))
    assert list(drawn) == [f"{label}, AUC {curves[label][2]:.3f}" for label in CLASSES]
    for line, label in zip(drawn.values(), CLASSES):
        np.testing.assert_array_equal(line.get_xydata().T, curves[label][:2])
        assert line.get_color() == plots.COLORS[label]


def test_precision_recall_plot_draws_steps_and_the_share_of_each_class():
    labels = ["normal"] * 8 + ["benign"] * 2
    curves = plots.precision_recall_curves(labels, random_answers(0, images=10)[1])
    figure = plots.plot_precision_recall(curves)
    for line, label in zip(lines(figure).values(), ("normal", "benign"), strict=True):
        np.testing.assert_array_equal(line.get_xydata().T, curves[label][:2])
        assert line.get_drawstyle() == "steps-post"
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert levels == pytest.approx([0.8, 0.2])


def test_confusion_plot_tells_counts_and_shares_of_the_row():
    figure = plots.plot_confusion([[3, 1, 0], [0, 0, 0], [2, 0, 6]])
    cells = [text.get_text() for text in figure.axes[0].texts]
    # 3 of 4 and 1 of 4; a class without images; 2 of 8 and 6 of 8
    assert cells == ["3\n75%", "1\n25%", "0\n0%", "0\n0%", "0\n0%", "0\n0%", "2\n25%", "0\n0%", "6\n75%"]


def test_reliability_plot_has_a_bar_a_bin_and_the_counts_below():
    found = calibration(*random_answers(1))
    figure = plots.plot_reliability(found["reliability"], found["ece"])
    bars, counts = ([(bar.get_x(), bar.get_height()) for bar in axis.patches] for axis in figure.axes)
    assert bars == [(one["low"], one["accuracy"]) for one in found["reliability"]]
    assert counts == [(one["low"], one["images"]) for one in found["reliability"]]
    assert sum(height for _, height in counts) == 80
    assert figure.axes[0].get_title() == f"ECE {found['ece']:.3f}"


def test_risk_coverage_curve_ends_at_the_error_rate_of_all():
    coverage, risk = np.array([0.25, 0.5, 0.75, 1]), np.array([0, 0, 1 / 3, 1 / 2])
    figure = plots.plot_risk_coverage(coverage, risk)
    curve, level = figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_xydata(), np.stack([coverage, risk], axis=1))
    assert set(level.get_ydata()) == {0.5}
    assert figure.axes[0].get_title() == "AURC 0.208"  # (0 + 0 + 1/3 + 1/2) / 4


# === Lesions ===
def test_dice_plot_has_a_dot_a_lesion():
    rows = [lesion(0.2), lesion(0.9), lesion(0.0, "malignant"), lesion(None, "normal"), lesion(0.5, None)]
    figure = plots.plot_dice(rows)
    heights = {label: sorted(points[:, 1]) for label, points in dots(figure).items()}
    assert heights == {"benign": [0.2, 0.9], "malignant": [0.0], None: [0.5]}
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names == ["benign, 2\nmedian 0.550", "malignant, 1\nmedian 0.000", "lesion, 1\nmedian 0.500"]


def test_dots_stay_over_the_name_of_their_class():
    points = dots(plots.plot_dice([lesion(0.5)] * 500 + [lesion(0.5, "malignant")] * 500))
    for place, label in enumerate(("benign", "malignant")):
        aside = points[label][:, 0] - place
        assert (aside.min(), aside.max()) == pytest.approx((-0.25, 0.25), abs=0.01)
        assert len(set(np.round(aside, 4))) > 450  # spread, not stacked


def test_size_is_the_share_of_the_image():
    rows = [lesion(0.5, true_px=100, side=100), lesion(0.7, "malignant", true_px=500, side=50), lesion(None)]
    points = dots(plots.plot_dice_by_size(rows))
    assert points["benign"].tolist() == [[0.01, 0.5]]  # 100 / (100 * 100)
    assert points["malignant"].tolist() == [[0.2, 0.7]]  # 500 / (50 * 50)


def test_median_runs_along_the_sizes():
    # Sixteen lesions make two parts of eight: the small ones with 0.1 .. 0.8, the large ones with 0.9.
    rows = [lesion(0.1 * i, true_px=100) for i in range(1, 9)] + [lesion(0.9, true_px=1000)] * 8
    line = lines(plots.plot_dice_by_size(rows[::-1]))["median"]
    np.testing.assert_allclose(line.get_xydata(), [[0.01, 0.45], [0.1, 0.9]])


def test_few_lesions_have_no_median_line():
    assert "median" not in lines(plots.plot_dice_by_size([lesion(0.5)] * 15))


@pytest.mark.parametrize("plot", [plots.plot_dice, plots.plot_dice_by_size])
def test_many_dots_do_not_make_a_large_page(plot):
    random = np.random.default_rng(0)
    rows = [lesion(dice, true_px=px) for dice, px in zip(random.random(20_000), random.integers(1, 9000, 20_000))]
    assert len(base64.b64decode(embed_figure(plot(rows)).partition(",")[2])) < 300_000


# === Training ===
def history(*losses):
    return [{"epoch": str(epoch), "loss": str(loss / 2), "val_loss": str(loss)} for epoch, loss in enumerate(losses, 1)]


def test_history_shows_training_validation_and_the_epoch_that_was_kept():
    drawn = lines(plots.plot_history([history(3, 1, 2)], "loss", "Loss"))
    assert drawn["training"].get_xydata().tolist() == [[1, 1.5], [2, 0.5], [3, 1]]
    assert drawn["validation"].get_xydata().tolist() == [[1, 3], [2, 1], [3, 2]]
    assert drawn["kept"].get_xydata().tolist() == [[2, 1]]  # the lowest validation loss


def test_run_without_validation_keeps_its_last_epoch():
    drawn = lines(plots.plot_history([[{"epoch": "1", "loss": "2"}, {"epoch": "2", "loss": "1"}]], "loss", "Loss"))
    assert list(drawn) == ["training", "kept"]
    assert drawn["kept"].get_xydata().tolist() == [[2, 1]]


def test_several_runs_are_thin_lines_with_one_legend():
    figure = plots.plot_history([history(3, 1, 2), history(4, 3), history(9)], "loss", "Loss")
    assert len(figure.axes[0].lines) == 3 * 3
    assert list(lines(figure)) == ["training", "validation", "kept"]
    (alone,) = {line.get_linewidth() for line in lines(plots.plot_history([history(1)], "loss", "")).values()} - {1.5}
    assert {line.get_linewidth() for label, line in lines(figure).items() if label != "kept"} == {0.8} != {alone}


# === Robustness ===
def test_robustness_starts_at_the_images_as_they_are():
    table = [("none", 0, 0.8), ("blur", 1, 0.7), ("blur", 2, 0.5), ("flip", 1, None), ("flip", 2, 0.6)]
    summary = [
        {"perturbation": name, "strength": strength, "level": "", "scores": {"dice": dice}}
        for name, strength, dice in table
    ]
    drawn = lines(plots.plot_robustness(summary, "dice", "Dice"))
    assert drawn["blur"].get_xydata().tolist() == [[0, 0.8], [1, 0.7], [2, 0.5]]
    assert drawn["flip"].get_xydata().tolist() == [[0, 0.8], [2, 0.6]]  # a score that is not defined has no dot
    assert list(drawn) == ["blur", "flip"]
