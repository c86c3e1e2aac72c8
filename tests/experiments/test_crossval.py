import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from busseg.data import find_samples
from busseg.data.phantom import write_phantoms
from busseg.data.splits import grouped_splits
from busseg.evaluation.pooling import format_crossval
from busseg.evaluation.scores import point_scores
from busseg.evaluation.table import read_rows
from busseg.experiments.crossval import _settle, cross_validate
from busseg.storage.files import read_csv
from busseg.storage.run_folder import SETTINGS
from busseg.training.recipe import Recipe

RECIPE = Recipe(image_size=32, width=4, depth=1, epochs=1)


@pytest.fixture(scope="module")
def crossval(tmp_path_factory, phantom_samples, light):
    """The folder of a cross-validation of two folds, to be read only, and its summary."""
    out = tmp_path_factory.mktemp("crossval") / "grouped"
    return out, cross_validate(phantom_samples, out, RECIPE, folds=2, data="phantoms")


def test_every_image_is_predicted_once_by_a_model_that_has_not_seen_it(crossval, phantom_samples):
    out, _ = crossval
    rows = read_rows(out / "per_image.csv")
    assert sorted(row["file"] for row in rows) == sorted(sample.name for sample in phantom_samples)
    for row in rows:
        seen = read_csv(out / f"fold-{row['fold']}" / "splits.csv")
        assert [one["part"] for one in seen if one["file"] == row["file"]] == ["test"]
        assert (out / row["mask"]).is_file()


def test_folds_are_scored_alone_and_together(crossval):
    out, summary = crossval
    rows = read_rows(out / "per_image.csv")
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["parts"]["test"]["scores"] == pytest.approx(point_scores(rows), nan_ok=False)
    for fold in summary["folds"]:
        mine = [row for row in rows if int(row["fold"]) == fold["fold"]]
        assert (fold["images"], fold["known"], fold["scores"]) == (len(mine), 0, point_scores(mine))
    # Of two values the sample's standard deviation is their difference over the root of two.
    one, other = (fold["scores"]["brier"] for fold in summary["folds"])
    assert one != other
    assert summary["mean_sd"]["brier"] == pytest.approx([(one + other) / 2, abs(one - other) / 2**0.5])


def test_summary_tells_protocol_and_leak(crossval):
    _, summary = crossval
    assert (summary["protocol"], summary["seed"], summary["size"], summary["data"]) == ("grouped", 0, None, "phantoms")
    assert summary["leak"] == {"images": 0, "share": 0}
    assert summary["parts"]["test"]["known"] == {"images": 0, "share": 0, "warning": None}
    assert "copy in training" not in format_crossval(summary)


@pytest.mark.slow
def test_sources_are_left_out_one_by_one(tmp_path):
    for number, name in enumerate(("here", "there")):
        write_phantoms(tmp_path / name, per_class=5, seed=100 * number)
    samples = find_samples([tmp_path / "here", tmp_path / "there"])
    out = tmp_path / "out"
    summary = cross_validate(samples, out, RECIPE, "leave-one-source-out", data="here + there")
    assert [(fold["fold"], fold["source"], fold["images"]) for fold in summary["folds"]] == [
        (0, "here", 15),
        (1, "there", 15),
    ]
    for row in read_rows(out / "per_image.csv"):
        seen = read_csv(out / f"fold-{row['fold']}" / "splits.csv")
        assert {one["part"] for one in seen if one["file"].startswith(f"{row['source']}/")} == {"test"}
        assert (out / row["mask"]).is_file()
    assert list(summary["parts"]["test"]["sources"]) == ["here", "there"]
    assert "the source that each fold leaves out: 0 here, 1 there" in format_crossval(summary)
    report = (out / "report.html").read_text()
    assert "mean of sources" in report
    assert "Cross-validation on here + there" in report


def test_report_is_written(crossval):
    out, _ = crossval
    assert "grouped" in (out / "report.html").read_text()


def test_splits_are_written_as_busseg_split_writes_them(crossval, phantom_samples):
    out, _ = crossval
    tested = {(row["fold"], row["file"]) for row in read_csv(out / "splits.csv") if row["part"] == "test"}
    splits = grouped_splits(phantom_samples, folds=2)
    assert tested == {(str(fold), sample.name) for fold, split in enumerate(splits) for sample in split.test}


def test_second_call_trains_nothing_and_tells_the_same(crossval, phantom_samples):
    out, summary = crossval
    models = {path: path.stat().st_mtime_ns for path in out.rglob("*.keras")}
    assert cross_validate(phantom_samples, out, RECIPE, folds=2, data="phantoms") == summary
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.keras")} == models


@pytest.mark.parametrize(
    ("changed", "name"),
    [({"protocol": "random"}, "protocol"), ({"folds": 3}, "folds"), ({"seed": 1}, "seed")],
)
def test_other_settings_are_refused(crossval, phantom_samples, changed, name):
    out, _ = crossval
    with pytest.raises(ValueError, match=rf"^Expected the {name} of .*, found another: .*{SETTINGS}$"):
        cross_validate(phantom_samples, out, RECIPE, **{"folds": 2} | changed)


def test_another_recipe_is_refused(crossval, phantom_samples):
    out, _ = crossval
    with pytest.raises(ValueError, match=r"^Expected the recipe of"):
        cross_validate(phantom_samples, out, replace(RECIPE, epochs=2), folds=2)


def test_broken_image_is_named_before_any_fold_is_trained(tmp_path, phantom_folder):
    data = tmp_path / "data"
    shutil.copytree(phantom_folder, data)
    samples = find_samples(data)
    tested_first = grouped_splits(samples, folds=2)[0].test[0]  # fold 0 could be trained without it
    tested_first.image.write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(str(tested_first.image))):
        cross_validate(samples, tmp_path / "out", RECIPE, folds=2)
    assert list((tmp_path / "out").glob("fold-*")) == []


def test_folder_of_something_else_is_refused(tmp_path, phantom_samples):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(FileExistsError, match=SETTINGS):
        cross_validate(phantom_samples, tmp_path, RECIPE)


@pytest.mark.slow
def test_leak_of_random_folds_is_told(tmp_path, phantom_samples):
    # Every two neighbours are copies of each other: ten groups of three classes, each image twice.
    copies = [replace(sample, group=f"{sample.label} {i // 2}") for i, sample in enumerate(phantom_samples)]
    summary = cross_validate(copies, tmp_path / "random", RECIPE, protocol="random", folds=2)
    rows = read_rows(tmp_path / "random" / "per_image.csv")
    fold_of = {row["file"]: row["fold"] for row in rows}
    parted = sum(
        any(fold_of[other.name] != fold_of[one.name] for other in copies if other.group == one.group) for one in copies
    )
    # A copy in another fold is trained or chosen with, for of two folds one is tested and all the rest is used.
    assert 0 < parted == summary["leak"]["images"]
    assert summary["leak"]["share"] == parted / 30
    assert sum(row["leaked"] for row in rows) == parted
    assert {row["group"] for row in rows} == {sample.group for sample in copies}  # intervals go by the true groups
    assert f"{parted / 30:.1%} of the scored images have a copy in training" in format_crossval(summary)


RUN = """
from busseg.experiments.crossval import cross_validate
from busseg.data import find_samples
from busseg.training.recipe import Recipe

if __name__ == "__main__":
    recipe = Recipe(image_size=32, width=4, depth=2, epochs=2)
    cross_validate(find_samples({data!r}), {out!r}, recipe, folds=2, jobs={jobs})
"""


def run(script, **settings):
    return subprocess.Popen(
        [sys.executable, script], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_cross_validation_ends_as_one_that_was_not(tmp_path, phantom_folder, jobs, wait_for):
    tables = []
    for name in ("whole", "killed"):
        out = tmp_path / name
        script = tmp_path / f"{name}.py"
        script.write_text(RUN.format(data=str(phantom_folder), out=str(out), jobs=jobs))
        if name == "killed":
            process = run(script)
            wait_for((out / "fold-0" / "history.csv").exists, process)  # the first epoch of the first fold
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
            time.sleep(2)  # the jobs of a killed process follow it
            assert not (out / "summary.json").exists()
        process = run(script)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        tables.append((out / "per_image.csv").read_text())
    assert tables[0] == tables[1]
    assert len(find_samples(phantom_folder)) == len(tables[0].splitlines()) - 1


def test_choice_that_busseg_did_not_know_of_does_not_stop_it_from_going_on(tmp_path):
    settings = {"recipe": asdict(Recipe())}
    older = {"recipe": {name: value for name, value in settings["recipe"].items() if name != "task"}}
    (tmp_path / "crossval.json").write_text(json.dumps(older))
    _settle(tmp_path, Recipe(), settings)
    with pytest.raises(ValueError, match=r"^Expected the recipe of .* to resume, found another: "):
        _settle(tmp_path, Recipe(), {"recipe": asdict(Recipe(task="histology"))})
