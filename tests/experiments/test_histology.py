"""The second task from end to end: histology goes through the same verbs as ultrasound."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from busseg.cli import app
from busseg.data.readers.breakhis import parse_name
from busseg.data.tissue import write_tissue
from busseg.inference.predictor import Predictor
from busseg.storage.files import read_csv

RECIPE = """
task = "histology"
image_size = 32
encoder = "plain"
width = 4
depth = 2
cbam = true
augmentation = "stain"
label_loss = "crossentropy"
epochs = 1
head_epochs = 1
warmup_epochs = 0
"""


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made-up slides of four patients a class, `data/`, and the recipe, `recipe.toml`."""
    folder = tmp_path_factory.mktemp("histology")
    write_tissue(folder / "data", patients=4, images=1)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def crossval(folder, graphless):
    options = ("--recipe", folder / "recipe.toml", "--folds", 2, "--out", folder / "cv")
    with graphless():
        done = run("crossval", folder / "data", *options)
    assert done.exit_code == 0, done.output
    assert "recognition rate" in done.output
    return folder / "cv"


def test_cross_validation_is_by_patient_and_scores_every_image_once(crossval):
    assert json.loads((crossval / "crossval.json").read_text())["protocol"] == "patient"
    rows = read_csv(crossval / "per_image.csv")
    assert len({row["file"] for row in rows}) == len(rows) == 2 * 4 * 4
    for fold in (0, 1):
        parts = read_csv(crossval / f"fold-{fold}/splits.csv")
        patients = {part: {r["group"] for r in parts if r["part"] == part} for part in ("train", "validation", "test")}
        assert not patients["test"] & (patients["train"] | patients["validation"])
    rates = json.loads((crossval / "summary.json").read_text())["parts"]["test"]["recognition"]
    assert [kind for kind in rates if kind.isdigit()] == ["40", "100", "200", "400"]
    summary = json.loads((crossval / "summary.json").read_text())
    assert summary["leak"] == {"images": 0, "share": 0, "same_slide": 0}
    assert summary["parts"]["test"]["patients"]["patients"] == 8
    page = (crossval / "report.html").read_text()
    assert "Recognition rates" in page
    assert "No scored image has another field of the patient among the images" in page


@pytest.mark.slow
def test_random_folds_count_the_fields_of_a_known_patient_and_slide(folder, crossval, tmp_path):
    options = ("--recipe", folder / "recipe.toml", "--folds", 2, "--protocol", "random", "--repeats", 2)
    done = run("crossval", folder / "data", *options, "--out", tmp_path / "random")
    assert done.exit_code == 0, done.output
    rows = read_csv(tmp_path / "random/per_image.csv")
    assert len(rows) == 2 * 2 * 4 * 4
    # A patient has four fields of one slide, so that one of them is in training unless a fold tests all of them.
    leaked = sum(row["leaked"] == "True" for row in rows)
    assert f"{leaked / len(rows):.1%} of the scored images have another field of the patient in training" in done.output
    assert f"{leaked} of the {leaked} have one of their slide." in done.output
    done = run("compare", crossval, tmp_path / "random", "--out", tmp_path / "comparison")
    assert done.exit_code == 0, done.output
    assert "on 32 common images of 8 groups" in done.output


def test_run_is_evaluated_predicted_with_exported_and_compared(folder, crossval, tmp_path, graphless):
    model = crossval / "fold-0"
    assert Predictor(model).task == "histology"
    with graphless():
        done = run("evaluate", model, folder / "data", "--out", tmp_path / "evaluation")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "evaluation/masks").exists()
    scored = {row["file"]: row for row in read_csv(tmp_path / "evaluation/per_image.csv")}

    with graphless():
        done = run("predict", folder / "data", "--model", model, "--out", tmp_path / "predictions")
    assert done.exit_code == 0, done.output
    for row in read_csv(tmp_path / "predictions/predictions.csv"):
        name = row["file"].removeprefix(f"{folder}/data/")
        assert float(row["p_malignant"]) == pytest.approx(float(scored[name]["p_malignant"]), abs=1e-5)

    done = run("export", model, "--out", tmp_path / "exported")
    assert done.exit_code == 0, done.output
    done = run("compare", crossval, tmp_path / "evaluation", "--out", tmp_path / "comparison")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_only_one_magnification_is_learnt_if_told(tmp_path):
    write_tissue(tmp_path / "data", patients=4, images=2)  # five folds need five images a class and magnification
    (tmp_path / "recipe.toml").write_text(RECIPE + "magnification = 200\n")
    done = run("train", tmp_path / "data", "--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    seen = {"train": set(), "validation": set(), "test": set()}
    for row in read_csv(tmp_path / "run/splits.csv"):
        seen[row["part"]].add(parse_name(row["file"]).magnification)
    assert seen == {"train": {200}, "validation": {200}, "test": {40, 100, 200, 400}}


@pytest.mark.parametrize(("recipe", "data"), [("card", "histology"), ("recipe.toml", "ultrasound")])
def test_recipe_of_the_other_task_is_refused_in_one_line(folder, phantom_folder, tmp_path, recipe, data):
    recipe = folder / recipe if recipe.endswith(".toml") else recipe
    dataset = folder / "data" if data == "histology" else phantom_folder
    done = run("train", dataset, "--recipe", recipe, "--out", tmp_path / "run")
    assert isinstance(done.exception, ValueError)
    assert f" found {data} images: " in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_split_of_tissue_is_by_patient(folder, tmp_path):
    done = run("split", folder / "data", "--folds", 2, "--out", tmp_path / "splits.csv")
    assert done.exit_code == 0, done.output
    tested = [row["group"] for row in read_csv(tmp_path / "splits.csv") if row["part"] == "test"]
    assert len(tested) == 2 * 4 * 4
    assert len(set(tested)) == 8


def test_audit_of_tissue_tells_a_wrong_name(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "data/benign/scan.png").write_bytes(next((folder / "data").rglob("*.png")).read_bytes())
    done = run("audit", tmp_path / "data", "--out", tmp_path / "audit")
    assert "1 files not named or placed as in BreaKHis: benign/scan.png" in done.output


@pytest.mark.slow
def test_real_slides_go_through_the_same_verbs(folder, breakhis_folder, tmp_path):
    done = run("split", breakhis_folder, "--folds", 2, "--out", tmp_path / "splits.csv")
    assert done.exit_code == 0, done.output
    splits = ("--splits", tmp_path / "splits.csv", "--fold", 0)
    done = run("train", breakhis_folder, "--recipe", folder / "recipe.toml", *splits, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    done = run("predict", breakhis_folder, "--model", tmp_path / "run", "--out", tmp_path / "predictions")
    assert done.exit_code == 0, done.output
    rows = read_csv(tmp_path / "predictions/predictions.csv")
    assert rows
    assert {row["label"] for row in rows} <= {"benign", "malignant"}
