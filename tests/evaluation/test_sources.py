import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.intervals import paired_differences
from busseg.evaluation.scores import point_scores
from busseg.evaluation.sources import format_sources, mean_of_sources, paired_sources, rows_by_source
from busseg.evaluation.summary import summarise
from busseg.evaluation.table import fields


def row(source, number, dice=None, label=None):
    """The row of a lesion that was found with this Dice, or of a normal image left clean."""
    label = label or ("normal" if dice is None else "benign")
    values = dict.fromkeys(fields(CLASSES)) | {"file": f"{source}/{number}.png", "group": f"{source}/{number}"}
    values |= {"source": source, "label": label, "width_px": 10, "height_px": 10}
    values |= {f"p_{name}": 0.8 if name == label else 0.1 for name in CLASSES}
    if dice is None:
        return values | {"clean": True, "true_px": 0, "predicted_px": 0}
    return values | {"dice": dice, "iou": dice / (2 - dice), "true_px": 10, "predicted_px": 10}


# Three lesions and a normal image here, a lesion there.
ROWS = [row("here", 1, 0.9), row("here", 2, 0.8), row("here", 3, 0.7), row("here", 4), row("there", 1, 0.2)]


def test_rows_are_parted_by_source_in_the_order_of_the_names():
    parted = rows_by_source([*ROWS[::-1], {"file": "old.png"}])
    assert [(source, len(mine)) for source, mine in parted.items()] == [("", 1), ("here", 4), ("there", 1)]


def test_mean_counts_every_source_once_and_leaves_out_those_that_do_not_define_a_score():
    means = mean_of_sources([{"dice": 0.8, "clean": 1.0, "auc": None}, {"dice": 0.2, "clean": None, "auc": None}])
    assert means == {"dice": pytest.approx(0.5), "clean": 1.0, "auc": None}


def test_summary_tells_each_source_as_it_would_alone():
    summary = summarise(ROWS)
    assert list(summary["sources"]) == ["here", "there"]
    for source, one in summary["sources"].items():
        assert one == summarise([each for each in ROWS if each["source"] == source])
        assert "sources" not in one
    assert summary["scores"]["dice"] == pytest.approx((0.9 + 0.8 + 0.7 + 0.2) / 4)
    assert summary["mean_of_sources"]["dice"] == pytest.approx((0.8 + 0.2) / 2)
    assert summary["mean_of_sources"]["clean_normal_rate"] == 1  # of the only source that has normal images
    assert summary["mean_of_sources"].keys() == point_scores(ROWS).keys()


def test_summary_of_one_source_tells_no_sources():
    assert not {"sources", "mean_of_sources"} & summarise(ROWS[:4]).keys()


def test_sources_are_told_in_a_row_each():
    lines = [line.split() for line in format_sources(summarise(ROWS))]
    assert lines == [
        ["by", "source", "images", "Dice", "missed", "clean", "accuracy", "balanced", "mal.", "AUC"],
        ["here", "4", "0.800", "0.000", "1.000", "1.000", "1.000", "n/a"],
        ["there", "1", "0.200", "0.000", "n/a", "1.000", "1.000", "n/a"],
        ["mean", "of", "sources", "0.500", "0.000", "1.000", "1.000", "1.000", "n/a"],
    ]


def test_long_names_of_sources_keep_the_columns():
    rows = [each | {"source": f"a/rather/long/path/to/{each['source']}"} for each in ROWS]
    lines = format_sources(summarise(rows))
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[1].startswith("...ong/path/to/here ")


def test_models_are_compared_source_by_source():
    shifts = [0.1, 0.1, 0.1, 0, 0.5]
    better = [each | {"dice": each["dice"] and each["dice"] + shift} for each, shift in zip(ROWS, shifts, strict=True)]
    paired = paired_sources(ROWS, [*better, row("there", 2, 0.5)])
    assert list(paired["sources"]) == ["here", "there"]
    assert paired["sources"]["here"] == paired_differences(ROWS[:4], better[:4])
    assert paired["sources"]["there"]["images"] == 1
    # Every source once: (0.8 + 0.2) / 2, (0.9 + 0.7) / 2.
    assert paired["mean_of_sources"]["dice"] == pytest.approx({"a": 0.5, "b": 0.8, "difference": (0.1 + 0.5) / 2})
    assert paired["mean_of_sources"]["clean_normal_rate"] == {"a": 1, "b": 1, "difference": 0}


def test_one_source_is_not_compared_apart():
    nothing = {"sources": {}, "mean_of_sources": {}}
    assert paired_sources(ROWS[:4], ROWS) == nothing
    assert paired_sources([], ROWS) == nothing
