import numpy as np
import pytest

from busseg.evaluation.recognition import format_recognition, magnification_matrix, recognition_rates


def row(slide, right, magnification=40, subtype="M_DC", number=1):
    label = "malignant" if subtype.startswith("M") else "benign"
    other = {"malignant": "benign", "benign": "malignant"}[label]
    name = f"slides/SOB_{subtype}-{slide}-{magnification}-{number:03}.png"
    group = slide.rstrip("ABCDEFG")
    return {"file": name, "group": group, "label": label, "predicted": label if right else other, "error": None}


def test_patient_level_is_the_mean_of_the_patients_shares():
    # One patient of four images, of which three are right, and one of a single image that is wrong.
    rows = [row("14-1", right, number=n) for n, right in enumerate((True, True, True, False))] + [row("14-2", False)]
    rates = recognition_rates(rows)["all"]
    assert (rates["images"], rates["patients"], rates["image_level"]) == (5, 2, 3 / 5)
    assert rates["patient_level"] == pytest.approx((3 / 4 + 0) / 2)


def test_intervals_draw_whole_patients():
    # Of two patients, each drawn twice in a quarter of the draws, the rates are 3/4 or 0 at the ends.
    rows = [row("14-1", right, number=n) for n, right in enumerate((True, True, True, False))] + [row("14-2", False)]
    assert recognition_rates(rows)["all"]["intervals"] == {"image_level": [0, 3 / 4], "patient_level": [0, 3 / 4]}
    # Two slides of one case are drawn together, so that every draw is the same.
    one_case = [row("14-1A", True), row("14-1A", True, number=2), row("14-1B", False)]
    intervals = recognition_rates(one_case)["all"]["intervals"]
    assert intervals == {"image_level": [pytest.approx(2 / 3)] * 2, "patient_level": [1 / 2, 1 / 2]}


def test_letters_make_another_patient_as_breakhis_counts():
    assert recognition_rates([row("14-1A", True), row("14-1B", False)])["all"]["patients"] == 2


def test_rates_are_told_by_magnification_and_by_subtype():
    rows = [row("14-1", True, 40), row("14-1", False, 400), row("14-3", True, 400, "B_PT")]
    rates = recognition_rates(rows)
    assert list(rates) == ["all", "40", "400", "ductal_carcinoma", "phyllodes_tumor"]
    assert [one["image_level"] for one in rates.values()] == [pytest.approx(2 / 3), 1, 0.5, 0.5, 1]
    text = format_recognition(rates)
    assert "  400X                  0.500 [0.000, 1.000]  0.500 [0.000, 1.000]         2       2" in text
    assert "  phyllodes tumor " in text


def test_unreadable_images_are_left_out():
    rows = [row("14-1", True), row("14-1", False) | {"error": "broken"}]
    assert recognition_rates(rows)["all"]["images"] == 1


def test_matrix_has_a_row_a_training_and_a_column_a_magnification():
    at_40 = [row("14-1", True, 40), row("14-1", False, 100)]
    at_100 = [row("14-1", False, 40), row("14-1", True, 100)]
    matrix = magnification_matrix({40: at_40, 100: at_100})
    np.testing.assert_array_equal(matrix, [[1, 0, np.nan, np.nan], [0, 1, np.nan, np.nan]])
