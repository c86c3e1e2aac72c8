import dataclasses
import json
import re
import shutil
from html import escape

import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.report import show, show_interval, write_report
from busseg.evaluation.summary import write_scores
from busseg.evaluation.table import read_rows
from busseg.storage.run_folder import PER_IMAGE, SUMMARY

DASH = "\N{EN DASH}"


# === The whole ===
def test_headline_and_scores_are_those_of_the_summary(folder, phantom_samples, report):
    page = report(folder, phantom_samples)
    summary = json.loads((folder / SUMMARY).read_text())["parts"]["test"]
    tiles = page.source.partition('<div class="tiles">')[2].partition("<nav>")[0]
    for name in ("dice", "accuracy", "macro_auc", "clean_normal_rate"):
        assert f"<b>{show(name, summary['scores'][name])}</b>" in tiles
        assert f"95 %: {show_interval(name, *summary['intervals'][name])}" in tiles
    assert f"<b>{summary['missed']} of 20</b>" in tiles
    assert f"95 %: {show_interval('missed_rate', *summary['intervals']['missed_rate'])}" in tiles
    assert "<b>30</b>images<span>20 with a lesion, 10 without</span>" in tiles
    titles = {"dice": "Dice", "hd95_px": "HD95", "false_alarm_px": "false alarm", "macro_f1": "macro F1", "ece": "ECE"}
    for name, title in titles.items():
        value, interval = show(name, summary["scores"][name]), show_interval(name, *summary["intervals"][name])
        assert page.rows(title)[0][1:3] == [value, interval]


def test_known_images_are_warned_of_and_the_others_scored_apart(scored, report, tmp_path, phantom_samples):
    folder = shutil.copytree(scored[0], tmp_path / "evaluation")
    write_scores(folder, [row | {"known": number >= 6} for number, row in enumerate(scored[1])])
    page = report(folder, phantom_samples)
    assert "24 of 30 scored images, or copies of them, were used to train or calibrate this model" in page.text
    unseen = json.loads((folder / SUMMARY).read_text())["parts"]["test"]["unseen"]
    ((title, images, dice, *_),) = page.rows("new to the model")
    assert (title, images) == ("new to the model", "6")
    assert dice.startswith(show("dice", unseen["scores"]["dice"]))
    assert "does not say which images" not in page.text


@pytest.mark.parametrize(("known", "expected"), [(False, False), (None, True)])
def test_report_warns_of_nothing_where_nothing_is_known(scored, report, tmp_path, phantom_samples, known, expected):
    folder = shutil.copytree(scored[0], tmp_path / "evaluation")
    write_scores(folder, [row | {"known": known} for row in scored[1]])
    page = report(folder, phantom_samples)
    assert "scored images, or copies" not in page.text
    assert ("Unknown: this model does not record which images it was trained on." in page.text) == expected


def test_title_and_text_tell_what_was_scored(folder, phantom_samples, report):
    text = report(folder, phantom_samples).text
    assert "Evaluation of card & co on phantoms" in text
    assert "Model: runs/card & co. Data: data/phantoms. Masks are compared at the images' native size." in text
    assert "Research software, not a medical device." in text


def test_plots_and_cases_are_there(folder, phantom_samples, plots, report):
    page = report(folder, phantom_samples)
    assert page.plots() == plots
    rows = read_rows(folder / PER_IMAGE)
    missed = {row["file"] for row in rows if row["dice"] == 0}
    alarms = {row["file"] for row in rows if row["clean"] is False}
    found = {row["file"] for row in rows if row["dice"]}
    assert found < set(page.cases())  # eight of each class are found, so all are shown
    assert len(missed & set(page.cases())) == min(3, len(missed)) > 0
    assert len(alarms & set(page.cases())) == min(3, len(alarms)) > 0


def test_images_of_the_wrong_class_are_listed_the_most_confident_first(folder, phantom_samples, report):
    page = report(folder, phantom_samples)
    wrong = [row for row in read_rows(folder / PER_IMAGE) if row["label"] != row["predicted"]]
    listed = page.source.partition(f"{len(wrong)} images of the wrong class, the most confident first")[2]
    listed = re.findall(r"<tr><td>([^<]+\.png)</td>", listed.partition("</details>")[0])
    assert listed == [row["file"] for row in sorted(wrong, key=lambda row: -row[f"p_{row['predicted']}"])]
    assert len(wrong) > 3


def test_class_table_is_that_of_the_summary(folder, report):
    page = report(folder)
    classes = json.loads((folder / SUMMARY).read_text())["parts"]["test"]["classes"]
    for label, one in classes.items():
        names = ("precision", "sensitivity", "specificity", "f1", "auc")
        assert [label, "10", *(f"{one[name]:.3f}" for name in names)] in page.rows(label)


def test_decision_is_told_with_its_threshold_and_the_prevalence(folder, scored, report):
    point = {"sensitivity": 0.9, "threshold": 0.25, "low": 0.8, "high": 0.97}
    write_scores(folder, scored[1], operating_point=point)
    page = report(folder)
    decision = json.loads((folder / SUMMARY).read_text())["parts"]["test"]["decision"]
    assert "Malignant at a probability of 0.250 or more" in page.text
    assert f"found out of fold (95 %: 0.800{DASH}0.970)" in page.text
    assert f"Here it calls {decision['called']} of 30 images malignant; 10 are." in page.text
    assert "PPV and NPV hold where 33.3 % of the images are malignant, as here." in page.text
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        assert f"<td>{show(name, decision['scores'][name])}</td>" in page.source
        assert f"<td>{show_interval(name, *decision['intervals'][name])}</td>" in page.source


def test_without_a_sensitivity_no_decision_is_told(folder, report):
    assert "Malignant at a probability" not in report(folder).text


# === Partial evaluations ===
def test_dataset_without_classes_has_masks_alone(folder, scored, phantom_samples, plots, report):
    write_scores(folder, [row | {"label": None} for row in scored[1][::3]])
    page = report(folder, [dataclasses.replace(sample, label=None) for sample in phantom_samples])
    assert page.plots() == plots[:2]
    assert "accuracy" not in page.text.lower()
    assert "Lesions: all that were found, from the worst to the best" in page.text
    assert page.rows("part")[0] == ["part", *CLASSES, "no class", "images", "groups"]
    assert page.rows("test")[0] == ["test", "0", "0", "0", "10", "10", "10"]


def test_normal_images_alone_have_no_dice(folder, scored, phantom_samples, plots, report):
    write_scores(folder, scored[1][20:])
    page = report(folder, phantom_samples)
    assert page.plots() == ["Confusion matrix", *plots[5:]]
    assert "lesion Dice" not in page.text
    assert "ROC and precision-recall curves need images of at least two classes." in page.text
    assert "False alarms, the largest first" in page.text


def test_lesions_of_one_class_alone(folder, scored, phantom_samples, plots, report):
    write_scores(folder, scored[1][:10])
    page = report(folder, phantom_samples)
    assert page.plots() == [*plots[:3], *plots[5:]]
    assert "clean normals" not in page.source.partition('<div class="tiles">')[2].partition("<nav>")[0]


@pytest.mark.parametrize("place", [0, 1, 20])  # a lesion missed, a lesion found, a false alarm
def test_one_image_is_enough(folder, scored, phantom_samples, place, report):
    write_scores(folder, [scored[1][place]])
    page = report(folder, phantom_samples)
    assert page.cases() == [phantom_samples[place].name]
    assert "<b>1</b>images" in page.source


def test_without_samples_no_case_is_drawn(folder, plots, report):
    page = report(folder)
    assert page.plots() == plots
    assert page.cases() == []
    assert "Cases" not in page.text


def test_files_that_could_not_be_read_are_named(folder, scored, report, unreadable):
    write_scores(folder, [*scored[1], unreadable("a & b.png", "Expected <b>, found: a & b.png")])
    page = report(folder)
    assert "1 file could not be read; no score includes it" in page.text
    assert "a &amp; b.png</code>: Expected &lt;b&gt;, found: a &amp; b.png" in page.source
    assert "<b>30</b>images" in page.source


def test_evaluation_of_which_no_file_could_be_read(report, unreadable, tmp_path):
    write_scores(tmp_path, [unreadable(), unreadable("other.png")])
    page = report(tmp_path)
    assert "2 files could not be read; no score includes them" in page.text
    assert "<b>0</b>images" in page.source


def test_names_are_text_and_no_markup(folder, scored, report, write_run, tmp_path, phantom_samples):
    name = "<script>alert('x')</script> & \"co\".png"
    rows = list(scored[1])
    samples = [dataclasses.replace(phantom_samples[1], name=name), *phantom_samples]
    rows[1] = rows[1] | {"file": name, "predicted": "normal", "p_normal": 0.9}
    write_scores(folder, rows, model=name, data=name)
    run = write_run(tmp_path / "run", recipe=name, command=name)
    page = report(folder, samples, [run])
    assert name in page.cases()
    assert page.source.count(escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) > 5


# === Folders that are none ===
@pytest.mark.parametrize("missing", [PER_IMAGE, SUMMARY])
def test_folder_without_an_evaluation_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"with {missing}, found none: {re.escape(str(folder))}"):
        write_report(folder, [])


def test_evaluation_of_no_image_is_no_report(tmp_path):
    write_scores(tmp_path, [])
    with pytest.raises(ValueError, match=f"found none: {re.escape(str(tmp_path))}"):
        write_report(tmp_path, [])


# === Numbers as text ===
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dice", 0.71249, "0.712"),
        ("missed_rate", 0.1746, "17.5%"),
        ("false_alarm_fraction", 0.004, "0.4%"),
        ("hd95_px", 72.44, "72.4 px"),
        ("false_alarm_px", 7507.4, "7507 px"),
        ("macro_auc", None, DASH),
    ],
)
def test_scores_are_told_in_their_unit(name, value, expected):
    assert show(name, value) == expected


def test_unit_of_an_interval_is_told_once():
    assert show_interval("missed_rate", 0.101, 0.258) == f"10.1{DASH}25.8%"
    assert show_interval("hd95_px", 9.99, 120.4) == f"10.0{DASH}120 px"
