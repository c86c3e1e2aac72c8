import numpy as np
import pytest
from scipy.stats import binom

from busseg.evaluation.operating import class_risk, decision_scores, risk_coverage, selective_scores


def row(label, p_malignant, group="g", p_benign=0.0, **others):
    probabilities = {"p_normal": 1 - p_malignant - p_benign, "p_benign": p_benign, "p_malignant": p_malignant}
    return {"label": label, "group": group, **probabilities, **others}


ROWS = [
    row("malignant", 0.9, "a"),
    row("malignant", 0.4, "b"),  # reaches the threshold exactly
    row("malignant", 0.3, "c"),
    row("benign", 0.5, "d"),
    row("benign", 0.1, "e"),
    row("normal", 0.2, "f"),
    row("normal", 0.0, "g"),
]


# === A threshold ===
def test_decision_is_scored_at_the_threshold():
    found = decision_scores([*ROWS, row(None, 0.9), row("benign", 0, error="unreadable")], 0.4)
    # True and false positives 2 and 1, true and false negatives 3 and 1.
    assert found["scores"] == {"sensitivity": 2 / 3, "specificity": 3 / 4, "ppv": 2 / 3, "npv": 3 / 4}
    assert {name: found[name] for name in ("threshold", "malignant", "others", "called")} == {
        "threshold": 0.4,
        "malignant": 3,
        "others": 4,
        "called": 3,
    }
    assert found["prevalence"] == 3 / 7


@pytest.mark.parametrize(
    ("rows", "threshold", "undefined"),
    [
        (ROWS[:3], 0.4, {"specificity"}),  # malignant images alone: of them PPV is 1 and NPV 0
        (ROWS[3:], 0.4, {"sensitivity"}),
        (ROWS, 2, {"ppv"}),  # nothing is called malignant
        (ROWS, 0, {"npv"}),
        ([], 0.4, {"sensitivity", "specificity", "ppv", "npv"}),
    ],
)
def test_score_with_nothing_to_divide_by_is_none_and_has_no_interval(rows, threshold, undefined):
    found = decision_scores(rows, threshold)
    assert {name for name, score in found["scores"].items() if score is None} == undefined
    assert found["intervals"].keys() == found["scores"].keys() - undefined


def test_interval_of_independent_images_is_the_binomial_one():
    rows = [row("malignant", float(number < 80), group=str(number)) for number in range(100)]
    low, high = decision_scores(rows, 0.5)["intervals"]["sensitivity"]
    assert (low, high) == pytest.approx(np.array(binom.ppf([0.025, 0.975], 100, 0.8)) / 100, abs=0.015)


def test_images_of_few_patients_make_a_wider_interval():
    def width(patients):
        rows = [row("malignant", float(n % patients < 0.8 * patients), group=str(n % patients)) for n in range(100)]
        low, high = decision_scores(rows, 0.5)["intervals"]["sensitivity"]
        return high - low

    assert width(10) > 2.5 * width(100)  # sqrt(10) times


# === Risk and coverage ===
def test_surest_answers_come_first():
    coverage, risk = risk_coverage(correct=[0, 1, 1, 0], confidence=[0.5, 0.9, 0.7, 0.6])
    np.testing.assert_allclose(coverage, [1 / 4, 2 / 4, 3 / 4, 1])
    np.testing.assert_allclose(risk, [0, 0, 1 / 3, 2 / 4])  # right, right, wrong, wrong


def test_ties_share_their_errors_whatever_their_order():
    for correct in ([1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]):
        _, risk = risk_coverage(correct, [0.9, 0.5, 0.5, 0.5])
        # After the first, right one, two of three in the tie are wrong.
        np.testing.assert_allclose(risk, [0, 2 / 3 / 2, 4 / 3 / 3, 2 / 4])


def test_confidence_that_knows_nothing_has_the_error_rate_everywhere():
    _, risk = risk_coverage([1, 0, 1, 1], [0.5] * 4)
    np.testing.assert_allclose(risk, 1 / 4)


def test_classes_are_answered_the_surest_first():
    rows = [
        row("malignant", 0.9),
        row("malignant", 0.2, p_benign=0.7),  # benign, wrong
        row("benign", 0.1, p_benign=0.6),
        row("normal", 0.45, p_benign=0.3),  # malignant, wrong
    ]
    _, risk = class_risk(rows)
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 2 / 4])
    found = selective_scores([*rows, row(None, 0.9), row("benign", 0, error="unreadable")])
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    by_coverage = {point["coverage"]: point["error_rate"] for point in found["risk"]}
    assert len(by_coverage) == 10
    assert (by_coverage[0.1], by_coverage[0.5], by_coverage[1.0]) == (0, 1 / 2, 2 / 4)


def test_without_classes_there_is_no_risk():
    assert selective_scores([row(None, 0.9)]) is None
