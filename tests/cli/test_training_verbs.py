import json
import shutil

import pytest

from busseg.data import find_samples
from busseg.data.splits import grouped_splits, read_split, train_on_all
from busseg.storage.files import read_csv

pytestmark = pytest.mark.usefixtures("light")


# === Cross-validate and compare ===
@pytest.mark.slow
def test_crossval_then_compare(call, dataset, recipe, names, tmp_path):
    out = tmp_path / "random"
    done = call("crossval", dataset, "--protocol", "random", "--recipe", recipe, "--folds", 2, "--out", out)
    assert done.status == 0
    assert "mean ± sd over the folds" in done.out
    assert done.out.endswith(f"Wrote {out / 'report.html'}\n")
    done = call("compare", out, out, "--out", tmp_path / "comparison")
    assert (done.status, done.err) == (0, "")
    assert "random (2) minus random (1), on 15 common images" in done.out
    assert names(tmp_path / "comparison") == {"compare.csv", "compare.json", "compare.png"}


def test_crossval_refuses_a_protocol_of_no_name(call, dataset, tmp_path):
    done = call("crossval", dataset, "--protocol", "holdout", "--out", tmp_path / "out")
    assert done.status == 2
    assert (
        done.err == "busseg: error: Expected a protocol of grouped, leave-one-source-out, random, tang, curated, "
        "busbra5, busbra10, patient, given, found 'holdout'\n"
    )
    assert not (tmp_path / "out").exists()


# === Train ===
def test_train_follows_recipe_splits_and_fold(call, dataset, recipe, tmp_path):
    call("split", dataset, "--out", tmp_path / "splits.csv")
    run = tmp_path / "runs" / "one"
    arguments = ["--out", run, "--recipe", recipe, "--splits", tmp_path / "splits.csv", "--fold", 3]
    done = call("train", dataset, *arguments)
    assert done.status == 0
    assert done.out.startswith(f"The model is in {run / 'model.keras'}\n")
    samples = find_samples(dataset)
    assert read_split(run / "splits.csv", samples, fold=3) == grouped_splits(samples)[3]
    assert len(read_csv(run / "history.csv")) == 1

    # A finished run has nothing to resume; its own recipe and split are taken.
    before = (run / "history.csv").read_text(), (run / "model.keras").stat().st_mtime_ns
    done = call("train", dataset, "--out", run, "--resume")
    assert (done.status, done.err) == (0, "")
    assert ((run / "history.csv").read_text(), (run / "model.keras").stat().st_mtime_ns) == before


def test_train_takes_all_images_on_request(call, dataset, recipe, tmp_path):
    with recipe.open("a") as file:
        file.write("validation = false\n")
    done = call("train", dataset, "--out", tmp_path / "run", "--recipe", recipe, "--all")
    assert done.status == 0
    samples = find_samples(dataset)
    assert read_split(tmp_path / "run/splits.csv", samples) == train_on_all(samples)


# === Evaluate ===
def test_evaluate_scores_the_parts_of_the_run(call, tiny_run, phantom_folder, phantom_samples, tmp_path):
    out = tmp_path / "evaluation"
    done = call("evaluate", tiny_run, phantom_folder, "--out", out)
    assert (done.status, done.err) == (0, "")
    split = read_split(tiny_run / "splits.csv", phantom_samples)
    summary = json.loads((out / "summary.json").read_text())["parts"]
    for part in ("train", "validation", "test"):
        assert summary[part]["images"] == len(getattr(split, part))
        assert f"=== {part} ===" in done.out
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "lesion Dice" in report
    assert "Training</h2>" in report
    assert done.out.endswith(f"Wrote {out}\n")


def test_evaluate_takes_all_images_as_one_part_where_no_split_is_known(call, echo_file, dataset, tmp_path):
    done = call("evaluate", echo_file, dataset, "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert json.loads((tmp_path / "out/summary.json").read_text())["parts"]["all"]["images"] == 15
    assert "Training</h2>" not in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_evaluate_goes_on_past_a_broken_image_and_ends_with_1(call, echo_file, dataset, tmp_path):
    broken = dataset / "benign" / "3.png"
    broken.write_bytes(b"")
    done = call("evaluate", echo_file, dataset, "--out", tmp_path / "out")
    assert done.status == 1
    assert done.err.splitlines() == [
        f"busseg: skipped: Expected an image, found an empty file (0 bytes): {broken}",
        "busseg: 1 of 15 files could not be read",
    ]
    assert json.loads((tmp_path / "out/summary.json").read_text())["parts"]["all"]["images"] == 14


# === Calibrate ===
@pytest.fixture
def calibrated(call, tiny_exports, dataset, tmp_path):
    """`tiny_exports`' ONNX file, calibrated to the fifteen images of `dataset`."""
    done = call("calibrate", tiny_exports["onnx"], dataset, "--out", tmp_path / "mine.onnx")
    assert (done.status, done.err) == (0, "")
    assert "15 scans of 15 groups: 5 benign, 5 malignant, 5 normal\n" in done.out
    assert done.out.endswith(f"Wrote {tmp_path / 'mine.onnx'}\n")
    return tmp_path / "mine.onnx"


def test_predict_and_evaluate_take_a_calibrated_model_and_a_sensitivity(call, calibrated, dataset, tmp_path):
    out = tmp_path / "out"
    done = call("predict", dataset / "malignant", "--model", calibrated, "--out", out, "--sensitivity", 0.9)
    assert (done.status, done.err) == (0, "")
    found = sum(row["malignant_at_0.9"] == "True" for row in read_csv(out / "predictions.csv"))
    assert done.out.count(", malignant at sensitivity 0.9\n") == found
    # Of five, one being the lowest: 0.025 ** (1 / 5) and 0.975 ** (1 / 5).
    line = next(line for line in done.out.splitlines() if line.startswith("Malignant at"))
    assert line.startswith("Malignant at sensitivity 0.9 (95 % interval 0.48 to 0.99), at p_malignant >= 0.")
    assert line.endswith(f": {found} of 5 images")
    again = call(
        "predict", dataset / "malignant", "--model", calibrated, "--out", out, "--sensitivity", 0.9, "--resume"
    )
    assert (again.status, again.out) == (0, done.out)
    done = call("evaluate", calibrated, dataset, "--out", tmp_path / "scores", "--sensitivity", 0.9)
    assert (done.status, done.err) == (0, "")
    assert "at a prevalence of 33.3%" in done.out


def test_calibrate_goes_on_past_a_broken_image_and_ends_with_1(call, tiny_exports, dataset, tmp_path):
    (dataset / "benign/3.png").write_bytes(b"")
    done = call("calibrate", tiny_exports["onnx"], dataset, "--out", tmp_path / "mine.onnx")
    assert done.status == 1
    assert done.err.splitlines() == [
        f"busseg: skipped: Expected an image, found an empty file (0 bytes): {dataset / 'benign/3.png'}",
        "busseg: 1 of 15 files could not be read",
    ]
    assert "14 scans" in done.out
    assert (tmp_path / "mine.onnx").exists()


def test_calibrate_overwrites_nothing(tiny_exports, dataset, fails, tmp_path):
    model = shutil.copy(tiny_exports["onnx"], tmp_path / "model.onnx")
    line = fails(tmp_path, "calibrate", model, dataset, "--out", model)
    assert line.endswith(f"Expected a new file to write the calibrated model to, found one: {model}")
    assert model.read_bytes() == tiny_exports["onnx"].read_bytes()


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_sensitivity_of_a_model_without_thresholds_is_refused_with_what_to_do(
    verb, echo_file, dataset, fails, tmp_path
):
    arguments = {"predict": [dataset, "--model", echo_file], "evaluate": [echo_file, dataset]}[verb]
    line = fails(tmp_path, verb, *arguments, "--out", tmp_path / "out", "--sensitivity", 0.95)
    assert line.endswith("make one with your own labelled scans: busseg calibrate MODEL DATA --out NEW")
