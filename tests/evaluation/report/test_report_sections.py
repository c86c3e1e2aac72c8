import json
import re
from html import escape

import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.report import show, show_interval
from busseg.evaluation.robustness import PERTURBATIONS, write_robustness
from busseg.evaluation.scores import point_scores
from busseg.evaluation.summary import write_scores
from busseg.storage.run_folder import ROBUSTNESS, SUMMARY

DASH = "\N{EN DASH}"


# === Parts ===
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["train", "validation", "test"], "test"),
        (["train", "all"], "all"),
        (["validation", "train"], "validation"),
    ],
)
def test_report_is_about_the_test_part_first(folder, scored, parts, expected, report):
    rows = [row | {"part": part} for count, part in enumerate(parts, 1) for row in scored[1][:: 4 - count]]
    images = {part: len(scored[1][:: 4 - count]) for count, part in enumerate(parts, 1)}
    write_scores(folder, rows)
    page = report(folder)
    assert f"<b>{images[expected]}</b>images" in page.source
    table = page.source.partition("By part")[2].partition("</table>")[0]
    assert re.findall(r"<tr><td>(?:<b>)?(\w+)", table) == parts
    assert f"<td><b>{expected}</b></td>" in table


def test_single_part_is_compared_with_nothing(folder, report):
    assert "By part" not in report(folder).text


# === Sources and patients ===
def test_sources_and_patients_are_told_side_by_side(folder, scored, report):
    rows = [
        row | {"source": "here" if n % 3 else "there", "patient": str(n // 2) if n % 3 else None, "pixel_mm": 0.1}
        for n, row in enumerate(scored[1])
    ]
    summary = write_scores(folder, rows, data="here + there")["parts"]["test"]
    page = report(folder)
    assert "Evaluation on here + there" in page.text
    table = page.source.partition('<h2 id="sources">')[2].partition("</table>")[0]
    for source, images in (("here", "20"), ("there", "10")):
        (cells,) = [row for row in page.rows(source) if row[1] == images]
        one = summary["sources"][source]
        dice = f"{show('dice', one['scores']['dice'])} {show_interval('dice', *one['intervals']['dice'])}"
        assert cells[2:4] == [str(one["groups"]), dice]
        assert f"<td>{source}</td>" in table
    (mean,) = page.rows("mean of sources")
    assert mean[3] == show("dice", summary["mean_of_sources"]["dice"])
    (everything,) = [row for row in page.rows("all") if len(row) == 6]
    patients = summary["patients"]
    assert everything[1:3] == [str(patients["patients"]), "20"]
    assert everything[3].startswith(show("accuracy", patients["scores"]["accuracy"]))
    assert "there" not in page.source.partition('<h2 id="patients">')[2].partition("</table>")[0]  # it names no patient
    (distance,) = page.rows("HD95 in mm")
    assert f"for the {summary['scaled']} found lesions" in distance[0]
    assert distance[1] == f"{summary['scores']['hd95_px'] / 10:.2f} mm"


def test_one_source_without_patients_or_scale_is_told_as_ever(folder, report):
    page = report(folder)
    for heading in ("Sources", "Patients", "mean of sources", "in mm"):
        assert heading not in page.text


# === Cross-validation ===
@pytest.fixture
def crossval(folder, scored):
    """Write a cross-validation of three folds; takes what else its summary says."""

    def write(**about):
        rows = [row | {"fold": fold} for fold in range(3) for row in scored[1][fold::3]]
        each = [[row for row in rows if row["fold"] == fold] for fold in range(3)]
        folds = [{"fold": n, "images": len(mine), "scores": point_scores(mine)} for n, mine in enumerate(each)]
        write_scores(
            folder, rows, protocol="random", seed=7, data="data/phantoms", folds=folds,
            mean_sd={"dice": [0.7125, 0.0312], "missed_rate": [0.21, 0.04]}, **about,
        )  # fmt: skip
        return folder, folds

    return write


def test_cross_validation_shows_each_fold_and_their_spread(crossval, phantom_samples, report):
    folder, folds = crossval(leak={"images": 0, "share": 0.0}, size=256)
    page = report(folder, phantom_samples)
    assert "Cross-validation on phantoms" in page.text
    assert re.search(r"3 folds by the protocol\s+random\s*, seed 7", page.text)
    assert "256 x 256 pixels" in page.text
    for fold in folds:
        dice, missed = fold["scores"]["dice"], fold["scores"]["missed_rate"]
        (row,) = [row for row in page.rows(str(fold["fold"])) if len(row) == 10]
        assert row[:3] + row[4:5] == [str(fold["fold"]), "10", f"{dice:.3f}", f"{missed:.1%}"]
    (row,) = page.rows("mean ± sd")
    assert row[:5] == ["mean ± sd", "", "0.713 ± 0.031", DASH, "21.0% ± 4.0%"]
    assert ", fold 2" in page.text


def test_fold_of_a_left_out_source_bears_its_name(crossval, report):
    folder, folds = crossval(leak={"images": 0, "share": 0.0})
    summary = json.loads((folder / SUMMARY).read_text())
    summary["folds"] = [fold | {"source": f"source {fold['fold']}"} for fold in folds]
    (folder / SUMMARY).write_text(json.dumps(summary))
    page = report(folder)
    assert [len(page.rows(f"{fold} source {fold}")) for fold in range(3)] == [1, 1, 1]


def test_leak_is_said_plainly_and_in_red(crossval, report):
    page = report(crossval(leak={"images": 293, "share": 0.3756})[0])
    warning = page.source.partition('<p class="warning">')[2].partition("</p>")[0]
    assert (
        "37.6 % of the scored images (293) have a copy among the images their model was trained or chosen with."
        in warning
    )
    assert re.search(r"\.warning {[^}]*color: var\(--bad\)", page.source)


def test_no_leak_is_said_too(crossval, report):
    page = report(crossval(leak={"images": 0, "share": 0.0})[0])
    assert 'class="warning"' not in page.source
    assert "No scored image has a copy among the images its model was trained with." in page.text


# === Runs ===
def test_run_gives_curves_recipe_command_split_and_environment(folder, plots, report, write_run, tmp_path):
    page = report(folder, runs=[write_run(tmp_path / "run")])
    assert page.plots() == [*plots, "Loss over the epochs", "Lesion Dice over the epochs", "Accuracy over the epochs"]
    assert "epochs = 4" in page.text
    assert "busseg train data/phantoms" in page.text
    assert '"python": "3.12.1"' in page.text
    assert page.rows("fold, part") == [["fold, part", *CLASSES, "images", "groups"]]
    assert page.rows("0, ") == [
        ["0, train", "3", "2", "0", "5", "3"],  # groups of two: g0, g1, g2
        ["0, validation", "0", "1", "0", "1", "1"],
        ["0, test", "0", "0", "1", "1", "1"],
    ]


def test_folds_share_what_is_the_same(folder, report, write_run, tmp_path):
    runs = [write_run(tmp_path / f"fold-{fold}", fold, epochs=3 + fold) for fold in range(3)]
    page = report(folder, runs=runs)
    assert page.source.count("<pre>epochs = 4\n</pre>") == 1
    assert page.source.count("<pre>busseg train data/phantoms</pre>") == 1
    assert page.source.count(escape('"python": "3.12.1"').replace("&quot;", "&#34;")) == 1
    assert [row[0] for fold in range(3) for row in page.rows(f"{fold}, ")] == [
        f"{fold}, {part}" for fold in range(3) for part in ("train", "validation", "test")
    ]


def test_recipes_that_differ_are_both_shown(folder, report, write_run, tmp_path):
    runs = [write_run(tmp_path / name, recipe=f"width = {name}\n") for name in ("8", "16")]
    page = report(folder, runs=runs)
    assert {"Recipe 1", "Recipe 2", "width = 8", "width = 16"} <= set(page.lines)


def test_what_a_run_lacks_is_passed_over(folder, plots, report, write_run, tmp_path):
    (tmp_path / "bare").mkdir()
    run = write_run(tmp_path / "begun", epochs=0)  # no epoch done
    (run / "environment.json").unlink()
    page = report(folder, runs=[tmp_path / "bare", tmp_path / "nowhere", run])
    assert page.plots() == plots
    assert "epochs = 4" in page.text


def test_real_run_is_reported(folder, tiny_run, phantom_samples, plots, report):
    page = report(folder, phantom_samples, [tiny_run])
    assert page.plots()[len(plots) :] == [
        f"{name} over the epochs" for name in ("Loss", "Lesion Dice", "Accuracy", "Normal images left clean")
    ]


# === Robustness ===
def test_robustness_shows_scores_and_their_change(folder, robustness_rows, report):
    write_robustness(folder / ROBUSTNESS, robustness_rows)
    page = report(folder)
    assert page.plots()[-2:] == ["Dice by strength of the change", "Accuracy by strength of the change"]
    assert page.rows("as they are") == [["as they are", "0.900", "0.0%", "100.0%", "1.000", DASH]]
    assert page.rows("blur sigma 4 px") == [
        ["blur sigma 4 px", "0.500 -0.400", "0.0% +0.0", "0.0% -100.0", "1.000 +0.000", DASH]  # no malignant: no AUC
    ]
    assert len([row for name in PERTURBATIONS for row in page.rows(name)]) == 6 * 3
    assert re.findall(r'class="change bad">([^<]+)<', page.source) == ["-0.400", "-100.0"]


def test_without_robustness_nothing_is_said_of_it(folder, report):
    assert "robustness" not in report(folder).source.lower()
