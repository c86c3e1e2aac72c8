"""Scores of classes and calibration against scikit-learn and their definitions."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    classification_report,
    confusion_matrix,
    f1_score,
    recall_score,
    roc_auc_score,
)

from busseg.data.sample import CLASSES
from busseg.data.task import Task
from busseg.evaluation.scores import calibration, class_scores, malignancy


# === Classes ===
def random_answers(seed, images=60, classes=CLASSES):
    random = np.random.default_rng(seed)
    labels = [*classes, *random.choice(classes, images - len(classes))]  # each at least once
    return labels, random.dirichlet(np.ones(3), images)


def certain(*labels):
    return np.eye(3)[[CLASSES.index(label) for label in labels]]


def pairs_ranked_rightly(positive, scores):
    """AUC by its meaning: of all pairs of a positive and a negative, the share ranked rightly, a tie half."""
    apart = scores[positive][:, None] - scores[~positive][None]
    return np.mean((apart > 0) + 0.5 * (apart == 0))


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
        others = np.array(labels) != label
        assert row["specificity"] == pytest.approx(recall_score(others, np.array(predicted) != label))
        assert row["auc"] == pytest.approx(pairs_ranked_rightly(~others, probabilities[:, CLASSES.index(label)]))
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
    answers = ["normal", "benign", "benign", "benign", "malignant", "normal", "malignant", "malignant"]
    scores = class_scores(truth, certain(*answers))
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
        "precision": 0, "sensitivity": 0, "specificity": 1, "f1": 0, "auc": None, "images": 0,
    }  # fmt: skip
    assert scores["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx(2 / 3)  # benign 2 * 1 * .5 / 1.5, malignant 2 * .5 * 1 / 1.5
    assert scores["macro_auc"] is None


@pytest.mark.filterwarnings("error")
def test_single_class_has_no_others_to_leave_alone():
    scores = class_scores(["benign", "benign"], certain("benign", "normal"))
    assert scores["classes"]["benign"] == {
        "precision": 1, "sensitivity": 0.5, "specificity": 0, "f1": pytest.approx(2 / 3), "auc": None, "images": 2,
    }  # fmt: skip
    assert (scores["balanced_accuracy"], scores["macro_auc"], scores["malignant_auc"]) == (0.5, None, None)
    assert scores["classes"]["normal"]["specificity"] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_malignant_auc_ranks_malignant_against_benign_images_alone(seed):
    labels, probabilities = random_answers(seed)
    tumours = [i for i, label in enumerate(labels) if label != "normal"]
    share = np.array([probabilities[i, 2] / (probabilities[i, 1] + probabilities[i, 2]) for i in tumours])
    malignant = np.array([labels[i] == "malignant" for i in tumours])
    expected = pairs_ranked_rightly(malignant, share)
    assert class_scores(labels, probabilities)["malignant_auc"] == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_surely_normal_image_is_as_malignant_as_benign():
    probabilities = np.array([[1, 0, 0], [0.5, 0.1, 0.4], [0, 1, 0], [0.2, 0.2, 0.6]])
    chosen, truth, score = malignancy(np.array([1, 2, 1, 0]), probabilities, CLASSES)
    assert chosen.tolist() == [True, True, True, False]  # the last one is normal
    assert truth.tolist() == [False, True, False]
    assert score.tolist() == [0.5, pytest.approx(0.8), 0]
    assert malignancy(np.array([0, 1]), np.eye(2), Task.HISTOLOGY.classes)[2].tolist() == [0, 1]
    assert not malignancy(np.array([0, 1]), np.eye(8)[:2], Task.SUBTYPES.classes)[0].any()


# === Calibration ===
@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_its_definition_image_by_image(seed):
    labels, probabilities = random_answers(seed, images=200)
    error = brier = 0
    bins = [[] for _ in range(15)]
    for label, row in zip(labels, probabilities, strict=True):
        brier += sum((p - (label == name)) ** 2 for p, name in zip(row, CLASSES, strict=True)) / len(labels)
        for i, images in enumerate(bins):
            if i / 15 < max(row) <= (i + 1) / 15:
                images.append((max(row), CLASSES[list(row).index(max(row))] == label))
    for images in filter(None, bins):
        confidence, accuracy = np.mean(images, axis=0)
        error += len(images) / len(labels) * abs(accuracy - confidence)
    scores = calibration(labels, probabilities)
    assert scores["ece"] == pytest.approx(error)
    assert scores["brier"] == pytest.approx(brier)
    assert [row["images"] for row in scores["reliability"]] == [len(images) for images in bins if images]


@pytest.mark.parametrize("seed", range(5))
def test_brier_is_the_sum_of_those_of_scikit_learn_class_by_class(seed):
    labels, probabilities = random_answers(seed)
    expected = sum(brier_score_loss(np.array(labels) == label, probabilities[:, i]) for i, label in enumerate(CLASSES))
    assert calibration(labels, probabilities)["brier"] == pytest.approx(expected)


def test_calibration_by_hand():
    scores = calibration(["normal", "benign", "normal"], [[0.5, 0.3, 0.2], [0.48, 0.42, 0.1], [1, 0, 0]])
    # 0.5 and 0.48 lie in (7/15, 8/15], 1 in the last bin.
    assert scores["reliability"] == [
        {"low": 7 / 15, "high": 8 / 15, "images": 2, "confidence": pytest.approx(0.49), "accuracy": 0.5},
        {"low": 14 / 15, "high": 1, "images": 1, "confidence": 1, "accuracy": 1},
    ]
    assert scores["ece"] == pytest.approx(2 / 3 * 0.01)
    # (0.25 + 0.09 + 0.04 + 0.2304 + 0.3364 + 0.01 + 0) / 3
    assert scores["brier"] == pytest.approx(0.9568 / 3)


@pytest.mark.parametrize(("labels", "ece", "brier"), [(("benign",), 0, 0), (("normal",), 1, 2)])
def test_certainty_is_perfect_or_the_worst(labels, ece, brier):
    scores = calibration(labels, certain("benign"))
    assert (scores["ece"], scores["brier"]) == (ece, brier)


@pytest.mark.parametrize("place", range(8, 16))
def test_bin_takes_in_its_upper_edge(place):
    (row,) = calibration(["benign"], [[0, place / 15, 1 - place / 15]])["reliability"]
    assert (row["low"], row["high"]) == ((place - 1) / 15, place / 15)
