import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    classification_report,
    confusion_matrix,
    f1_score,
    recall_score,
    roc_auc_score,
)

from busseg.data.sample import CLASSES
from busseg.evaluation.scores import class_scores, mask_scores, summarise_masks


def mask(*pixels):
    """A mask of 4 x 5 with the pixels (row, column) set."""
    values = np.zeros((4, 5), np.uint8)
    for pixel in pixels:
        values[pixel] = 1
    return values


# === One mask ===
ROW = mask((1, 0), (1, 1), (1, 2), (1, 3))


@pytest.mark.parametrize(
    ("y_pred", "dice", "iou", "sensitivity", "precision"),
    [
        (ROW, 1, 1, 1, 1),
        (mask((1, 0), (1, 1)), 2 * 2 / (4 + 2), 2 / 4, 2 / 4, 1),  # half of it
        (mask((1, 2), (1, 3), (1, 4), (2, 4)), 2 * 2 / (4 + 4), 2 / 6, 2 / 4, 2 / 4),  # half of it, half beside it
        (np.ones((4, 5), np.uint8), 2 * 4 / (4 + 20), 4 / 20, 1, 4 / 20),
        (mask((0, 0)), 0, 0, 0, 0),  # a lesion seen where none is
        (mask(), 0, 0, 0, None),  # missed: precision of no pixel is no number
    ],
)
def test_scores_of_a_lesion(y_pred, dice, iou, sensitivity, precision):
    scores = mask_scores(ROW, y_pred)
    assert scores == {
        "dice": pytest.approx(dice),
        "iou": pytest.approx(iou),
        "sensitivity": pytest.approx(sensitivity),
        "precision": precision if precision is None else pytest.approx(precision),
        "clean": None,
        "true_px": 4,
        "predicted_px": int(y_pred.sum()),
    }


@pytest.mark.parametrize(("y_pred", "clean"), [(mask(), True), (mask((3, 4)), False)])
def test_without_a_lesion_only_cleanness_is_told(y_pred, clean):
    assert mask_scores(mask(), y_pred) == {
        "dice": None,
        "iou": None,
        "sensitivity": None,
        "precision": None,
        "clean": clean,
        "true_px": 0,
        "predicted_px": int(y_pred.sum()),
    }


def test_values_of_255_count_as_1():
    assert mask_scores(ROW * 255, mask((1, 0)) * 255) == mask_scores(ROW, mask((1, 0)))


def test_scores_are_plain_numbers():
    assert {type(value) for value in mask_scores(ROW, ROW).values()} == {float, int, type(None)}


# === Many masks ===
def test_lesions_and_normals_are_summed_up_apart():
    rows = [
        mask_scores(ROW, ROW),  # Dice 1, IoU 1
        mask_scores(ROW, mask((1, 0), (1, 1))),  # Dice 2/3, IoU 1/2
        mask_scores(ROW, mask()),  # missed, and no pixel to have a precision
        mask_scores(ROW, mask((0, 0))),  # missed too, though something was marked
        mask_scores(mask(), mask()),
        mask_scores(mask(), mask((0, 0), (0, 1), (0, 2))),
    ]
    assert summarise_masks(rows) == {
        "lesions": 4,
        "normals": 2,
        "dice": {"mean": pytest.approx((1 + 2 / 3) / 4), "median": pytest.approx((2 / 3 + 0) / 2)},
        "iou": {"mean": pytest.approx(1.5 / 4), "median": pytest.approx(0.25)},
        "sensitivity": {"mean": pytest.approx(1.5 / 4), "median": pytest.approx(0.25)},
        "precision": {"mean": pytest.approx(2 / 3), "median": 1},  # of 1, 1, 0
        "missed": 2,
        "clean_normal_rate": 0.5,
        "false_alarm_px": 1.5,  # (0 + 3) / 2
    }


NOTHING = {"mean": None, "median": None}


def test_without_normals_there_is_no_rate_of_clean_ones():
    summary = summarise_masks([mask_scores(ROW, ROW)])
    assert (summary["normals"], summary["clean_normal_rate"], summary["false_alarm_px"]) == (0, None, None)


@pytest.mark.parametrize("rows", [[], [mask_scores(mask(), mask())]])
def test_without_lesions_there_is_no_overlap(rows):
    summary = summarise_masks(rows)
    assert (summary["lesions"], summary["missed"], summary["normals"]) == (0, 0, len(rows))
    assert [summary[name] for name in ("dice", "iou", "sensitivity", "precision")] == [NOTHING] * 4


def test_precision_of_missed_lesions_alone_is_no_number():
    summary = summarise_masks([mask_scores(ROW, mask())])
    assert summary["precision"] == NOTHING
    assert summary["dice"] == {"mean": 0, "median": 0}


# === Classes ===
def random_answers(seed, images=60, classes=CLASSES):
    random = np.random.default_rng(seed)
    labels = [*classes, *random.choice(classes, images - len(classes))]  # each at least once
    return labels, random.dirichlet(np.ones(3), images)


def certain(*labels):
    return np.eye(3)[[CLASSES.index(label) for label in labels]]


@pytest.mark.parametrize("seed", range(5))
def test_class_scores_are_those_of_scikit_learn(seed):
    labels, probabilities = random_answers(seed)
    scores = class_scores(labels, probabilities)
    predicted = [CLASSES[i] for i in probabilities.argmax(axis=1)]
    report = classification_report(labels, predicted, labels=CLASSES, output_dict=True)
    recall = recall_score(labels, predicted, labels=CLASSES, average=None)
    for label, expected_recall in zip(CLASSES, recall, strict=True):
        row = scores["classes"][label]
        assert row["precision"] == pytest.approx(report[label]["precision"])
        assert row["sensitivity"] == pytest.approx(report[label]["recall"]) == pytest.approx(expected_recall)
        assert row["f1"] == pytest.approx(report[label]["f1-score"])
        assert row["images"] == report[label]["support"]
    assert scores["images"] == len(labels)
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert scores["confusion"] == confusion_matrix(labels, predicted, labels=CLASSES).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_one_against_the_rest_averaged_over_classes(seed):
    labels, probabilities = random_answers(seed)
    numbers = [CLASSES.index(label) for label in labels]
    expected = roc_auc_score(numbers, probabilities, multi_class="ovr", average="macro")
    assert class_scores(labels, probabilities)["macro_auc"] == pytest.approx(expected)


def test_probabilities_need_not_sum_to_one_more_exactly_than_float32():
    labels, probabilities = random_answers(seed=0)
    expected = class_scores(labels, probabilities)["macro_auc"]
    rough = (probabilities * 1.001).astype(np.float32)
    assert class_scores(labels, rough)["macro_auc"] == pytest.approx(expected)


def test_specificity_is_the_share_of_the_others_left_alone():
    truth = ["normal"] * 2 + ["benign"] * 4 + ["malignant"] * 2
    told = ["normal", "benign", "benign", "benign", "malignant", "normal", "malignant", "malignant"]
    scores = class_scores(truth, certain(*told))
    specificity = {label: row["specificity"] for label, row in scores["classes"].items()}
    assert specificity == {
        "normal": pytest.approx(5 / 6),  # one of the six others was called normal
        "benign": pytest.approx(3 / 4),
        "malignant": pytest.approx(5 / 6),
    }
    assert scores["confusion"] == [[1, 1, 0], [1, 2, 1], [0, 0, 2]]
    assert scores["accuracy"] == pytest.approx(5 / 8)
    assert scores["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 4 + 2 / 2) / 3)


@pytest.mark.filterwarnings("error")
def test_class_that_is_absent_is_left_out_of_the_averages():
    scores = class_scores(["benign", "benign", "malignant"], certain("benign", "malignant", "malignant"))
    assert scores["classes"]["normal"] == {
        "precision": 0, "sensitivity": 0, "specificity": 1, "f1": 0, "images": 0,
    }  # fmt: skip
    assert scores["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx(2 / 3)  # benign 2 * 1 * .5 / 1.5, malignant 2 * .5 * 1 / 1.5
    assert scores["macro_auc"] is None


@pytest.mark.filterwarnings("error")
def test_single_class_has_no_others_to_leave_alone():
    scores = class_scores(["benign", "benign"], certain("benign", "normal"))
    assert scores["classes"]["benign"] == {
        "precision": 1, "sensitivity": 0.5, "specificity": 0, "f1": pytest.approx(2 / 3), "images": 2,
    }  # fmt: skip
    assert (scores["balanced_accuracy"], scores["macro_auc"]) == (0.5, None)
    assert scores["classes"]["normal"]["specificity"] == 0.5
