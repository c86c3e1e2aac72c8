import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.known import count_known, format_known, paired_known, summarise_known
from busseg.evaluation.summary import format_summary, summarise
from busseg.evaluation.table import fields


def row(number, known, dice=0.5):
    values = dict.fromkeys(fields(CLASSES)) | {"file": f"{number}.png", "group": str(number), "known": known}
    overlaps = dict.fromkeys(("iou", "sensitivity", "precision", "nsd"), dice)
    values |= {"dice": dice, **overlaps, "true_px": 50, "predicted_px": 50, "width_px": 100, "height_px": 80}
    return values | {"hd95_px": 2.0, "assd_px": 1.0}


SOME = [row(0, True, 0.9), row(1, True, 0.9), row(2, False, 0.3)]
WARNING = (
    "2 of 3 scored images, or copies of them, were used to train or calibrate this model, so its scores may "
    "reward memorisation."
)


@pytest.mark.parametrize(
    ("known", "expected"),
    [([True, False, True], 2), ([False, False], 0), ([True, None], None), ([None], None), ([], None)],
)
def test_count_is_of_models_that_record_their_training_images(known, expected):
    assert count_known([row(number, one) for number, one in enumerate(known)]) == expected


def test_others_are_scored_apart():
    one = summarise(SOME)
    assert one["scores"]["dice"] == pytest.approx((0.9 + 0.9 + 0.3) / 3)
    assert one["known"] == {"images": 2, "share": 2 / 3, "warning": WARNING}
    assert (one["unseen"]["images"], one["unseen"]["scores"]["dice"]) == (1, 0.3)
    assert one["unseen"]["known"] == {"images": 0, "share": 0, "warning": None}


@pytest.mark.parametrize("known", [True, False, None])
def test_nothing_is_scored_apart_where_all_are_alike(known):
    assert "unseen" not in summarise_known([row(0, known), row(1, known)], summarise)


def test_warning_comes_before_the_scores_and_the_others_after_them():
    lines = format_summary({"test": summarise(SOME)}).splitlines()
    assert lines[0] == "=== test ==="
    assert " ".join(line.strip() for line in lines[1:3]) == (
        f"WARNING: {WARNING} The other images, 1, are scored apart, below."
    )
    assert lines[3] == "3 images of 3 groups, scores [95 % interval]"
    apart = lines[lines.index("=== test, new to the model ===") :]
    assert apart[1] == "1 images of 1 groups, scores [95 % interval]"
    assert "  Dice 0.300 [0.300, 0.300]   median 0.300 [0.300, 0.300]" in apart
    assert max(map(len, lines)) <= 100


def test_images_that_are_all_new_are_no_matter():
    assert format_known(summarise([row(0, False)])) == []
    assert "know" not in format_summary({"test": summarise([row(0, False)])})


def test_unknown_is_printed_once():
    one = summarise([row(0, None)])
    assert one["known"] is None
    text = format_summary({"train": one, "test": one})
    assert text.count("does not record") == 1
    assert text.endswith("\nUnknown: this model does not record which images it was trained on.")


# === Two models ===
def test_models_are_compared_on_what_neither_knows():
    others = [row(0, False, 0.8), row(1, False, 0.8), row(2, False, 0.4), row(3, False)]  # the last is of no pair
    paired = paired_known(SOME, others)
    assert paired["known"] == {"a": 2, "b": 0}
    assert paired["unseen"]["images"] == 1
    assert paired["unseen"]["differences"]["dice"]["difference"] == pytest.approx(0.4 - 0.3)


@pytest.mark.parametrize(("known", "expected"), [(False, 0), (True, 3), (None, None)])
def test_nothing_is_compared_apart_where_all_are_alike(known, expected):
    rows = [row(number, known) for number in range(3)]
    assert paired_known(rows, rows) == {"known": {"a": expected, "b": expected}, "unseen": None}
