import copy
import json
import re

from busseg.data.sample import CLASSES
from busseg.evaluation.intervals import bootstrap_intervals
from busseg.evaluation.operating import selective_scores
from busseg.evaluation.scores import calibration, class_scores, point_scores
from busseg.evaluation.summary import format_summary, summarise, write_scores
from busseg.evaluation.table import read_rows


def test_parts_are_summed_up_apart(evaluated, parts):
    _, summary, rows = evaluated
    assert list(summary) == ["validation", "test"]
    for part, samples in parts.items():
        lesions = sum(sample.label != "normal" for sample in samples)
        assert summary[part] == summarise([row for row in rows if row["part"] == part])
        counts = [summary[part][name] for name in ("images", "groups", "lesions", "normals")]
        assert counts == [len(samples), len(samples), lesions, len(samples) - lesions]


def test_summary_is_that_of_its_pieces(evaluated):
    _, _, rows = evaluated
    labels, probabilities = [row["label"] for row in rows], [[row[f"p_{label}"] for label in CLASSES] for row in rows]
    classes = class_scores(labels, probabilities)
    summary = summarise(rows)
    assert summary["scores"] == point_scores(rows)
    assert summary["intervals"] == bootstrap_intervals(rows)
    assert (summary["confusion"], summary["classes"]) == (classes["confusion"], classes["classes"])
    assert summary["reliability"] == calibration(labels, probabilities)["reliability"]


def test_groups_are_counted_once():
    rows = [
        {"file": name, "group": group, "label": None, "dice": 1.0, "true_px": 4, "predicted_px": 4, "error": None}
        for name, group in (("a", "x"), ("b", "x"), ("c", "y"))
    ]
    summary = summarise(rows)
    assert (summary["images"], summary["groups"]) == (3, 2)


def test_share_wrong_among_the_surest_is_summed_up(evaluated):
    _, summary, rows = evaluated
    mine = [row for row in rows if row["part"] == "test"]
    assert summary["test"]["selective"] == selective_scores(mine)
    assert "decision" not in summary["test"]
    aurc, wrong = summary["test"]["selective"]["aurc"], 1 - summary["test"]["scores"]["accuracy"]
    assert f", 100%: {wrong:.1%}; AURC {aurc:.3f}" in format_summary(summary)


def test_rows_of_several_folds_make_one_folder(evaluated, tmp_path):
    _, _, rows = evaluated
    pooled = [row | {"part": "test", "fold": fold} for fold, row in enumerate(rows)]
    summary = write_scores(tmp_path, pooled, protocol="grouped", size=None)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert list(summary) == ["threshold", "nsd_tolerance_px", "protocol", "size", "parts"]
    assert summary["parts"] == {"test": summarise(pooled)}
    assert read_rows(tmp_path / "per_image.csv") == pooled


def test_text_fits_a_terminal(evaluated):
    summary = copy.deepcopy(evaluated[1])
    summary["test"]["scores"]["hd95_px"], summary["test"]["intervals"]["hd95_px"] = 1234.5, [1000, 2000]
    text = format_summary(summary)
    assert max(map(len, text.splitlines())) < 100
    assert re.search(r"^  HD95 px 1234\.5 \[1000\.0, 2000\.0\]   ASSD px .*, of found lesions$", text, re.MULTILINE)
