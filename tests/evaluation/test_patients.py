import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.intervals import bootstrap_intervals
from busseg.evaluation.patients import PATIENT_SCORES, paired_patients, patient_scores, pool_patients
from busseg.evaluation.table import fields


def row(file, patient, label, probabilities, source="here", group=None):
    values = dict.fromkeys(fields(CLASSES)) | {"file": file, "patient": patient, "label": label, "source": source}
    values |= {f"p_{name}": p for name, p in zip(CLASSES, probabilities, strict=True)}
    return values | {"group": group or f"{source}/{patient}"}


# Patient 1 has a benign and a malignant view, 2 two benign ones, 3 one malignant one.
ROWS = [
    row("1l.png", "1", "benign", (0.0, 0.9, 0.1)),
    row("1r.png", "1", "malignant", (0.0, 0.3, 0.7)),
    row("2l.png", "2", "benign", (0.2, 0.4, 0.4)),
    row("2r.png", "2", "benign", (0.0, 0.5, 0.5)),
    row("3l.png", "3", "malignant", (0.1, 0.1, 0.8)),
]


def test_views_of_a_patient_are_pooled():
    pooled = pool_patients(ROWS)
    assert [(one["file"], one["label"], one["images"]) for one in pooled] == [
        ("here/1", "malignant", 2),  # one of its views is
        ("here/2", "benign", 2),
        ("here/3", "malignant", 1),
    ]
    probabilities = [one[f"p_{name}"] for one in pooled for name in CLASSES]
    assert probabilities == pytest.approx([0, 0.6, 0.4, 0.1, 0.45, 0.45, 0.1, 0.1, 0.8])


def test_scores_of_patients_by_hand():
    found = patient_scores(ROWS)
    assert (found["patients"], found["images"]) == (3, 5)
    # Patient 1 is taken for benign; 2 is right, for the first of two equals is taken; so is 3.
    assert found["scores"] == {
        "accuracy": pytest.approx(2 / 3),
        "balanced_accuracy": pytest.approx((1 + 1 / 2) / 2),
        # p_malignant / (p_benign + p_malignant): 0.4 and 8/9 of the malignant, 0.5 of the benign: one pair of two.
        "malignant_auc": 1 / 2,
    }
    assert found["scores"].keys() == found["intervals"].keys() == PATIENT_SCORES.keys()


def test_intervals_draw_groups_of_patients():
    found = patient_scores(ROWS)["intervals"]
    expected = bootstrap_intervals(pool_patients(ROWS))
    assert found == {name: expected[name] for name in PATIENT_SCORES}
    # In one group they are drawn together: there is but one draw.
    together = patient_scores([one | {"group": "all"} for one in ROWS])
    assert together["intervals"]["accuracy"] == pytest.approx([2 / 3, 2 / 3])


def test_patients_of_one_name_in_two_sources_are_two():
    rows = [ROWS[2], row("2l.png", "2", "malignant", (0, 0, 1), source="there")]
    labels = [(one["file"], one["label"]) for one in pool_patients(rows)]
    assert labels == [("here/2", "benign"), ("there/2", "malignant")]


def test_each_repeat_pools_its_own_and_patients_are_counted_once():
    again = [one | {"repeat": 1, "p_benign": 0.1, "p_malignant": 0.9} for one in ROWS]
    rows = [one | {"repeat": 0} for one in ROWS] + again
    assert len(pool_patients(rows)) == 6
    found = patient_scores(rows)
    assert (found["patients"], found["images"]) == (3, 10)
    # Of the first repeat 2 of 3 patients are right, see above; of the second the two malignant ones.
    assert found["scores"]["accuracy"] == pytest.approx((2 + 2) / 6)
    assert paired_patients(rows, rows[:5])["patients"] == 3
    assert paired_patients(rows, rows[:5])["differences"]["accuracy"]["a"] == pytest.approx(2 / 3)


def test_images_without_patient_or_label_or_with_an_error_are_left_out():
    rows = [row("a.png", None, "benign", (0, 1, 0)), row("b.png", "4", None, (0, 1, 0)), ROWS[4] | {"error": "broken"}]
    assert pool_patients(rows) == []
    assert patient_scores(rows) is None
    assert patient_scores([*ROWS, *rows[:2]])["images"] == 5


def test_normal_patients_have_no_auc():
    found = patient_scores([row("a.png", "1", "normal", (1, 0, 0)), row("b.png", "1", "normal", (0, 1, 0))])
    assert found["scores"] == {"accuracy": 1, "balanced_accuracy": 1, "malignant_auc": None}
    assert "malignant_auc" not in found["intervals"]


def test_patients_are_compared_on_the_images_that_both_models_scored():
    other = [one | {"p_benign": 0.1, "p_malignant": 0.9} if one["patient"] == "1" else one for one in ROWS]
    paired = paired_patients(ROWS, [*other[:4], row("4.png", "4", "benign", (0, 1, 0))])
    assert paired["patients"] == 2  # of patient 3 and of patient 4 only one of both has an image
    accuracy, auc = paired["differences"]["accuracy"], paired["differences"]["malignant_auc"]
    assert (accuracy["a"], accuracy["b"]) == (1 / 2, 1)  # patient 1 is found by the other
    assert (auc["a"], auc["b"]) == (0, 1)  # 0.4 and 0.9 against 0.5
    assert set(paired["differences"]) == set(PATIENT_SCORES)
    one_view = paired_patients(ROWS, other[1:])  # of patient 1 only the right one, which both call malignant
    assert one_view["differences"]["accuracy"]["a"] == 1
