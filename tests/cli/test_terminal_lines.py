"""What the verbs print: results on stdout, progress on stderr, and options that are the same in every verb."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import typer

import busseg
import busseg.cli
from busseg.experiments import train as training
from busseg.imaging.images import read_image, write_image
from busseg.storage.files import read_csv
from busseg.training.recipe import load_recipe

VERBS = {
    command.name: command for command in typer.main.get_command(busseg.cli.app).commands.values()
}  # as Click has them


# === Options ===
def test_version_is_printed(call):
    assert call("--version") == (0, f"busseg {busseg.__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_out_has_the_same_short_form_in_every_verb(verb):
    options = {name: option for option in VERBS[verb].params for name in option.opts}
    assert ("--out" in options) == (verb not in ("app", "convert", "dicomweb", "download"))
    assert options.get("-o") is options.get("--out")


def test_option_of_one_name_is_described_alike_in_every_verb():
    texts = {}
    for command in VERBS.values():
        for option in command.params:
            texts.setdefault(option.name, set()).add(option.help)
    same = ("data", "splits", "fold", "groups", "epochs", "sensitivity", "robustness", "require_region")
    assert {name: len(texts[name]) for name in same} == dict.fromkeys(same, 1) | {"data": 2}  # calibrate: own scans


# === Train ===
def test_train_prints_a_line_an_epoch_and_ends_with_scores_and_the_next_command(
    call, phantom_folder, tmp_path, without_graphs
):
    (tmp_path / "recipe.toml").write_text("image_size = 32\nwidth = 4\ndepth = 1\nepochs = 9\nbatch_size = 32\n")
    run = tmp_path / "my runs/one"
    arguments = "train", phantom_folder, "--recipe", tmp_path / "recipe.toml", "--epochs", 2, "-o", run
    status, out, err = call(*arguments)
    assert status == 0
    assert [line.split()[0] for line in err.splitlines()] == ["epoch", "1/2", "2/2"]
    assert max(map(len, err.splitlines())) <= 80
    model, scores, then, command = out.splitlines()
    assert model == f"The model is in {run / 'model.keras'}"
    images = json.loads((run / "environment.json").read_text())["images"]
    assert scores.startswith(f"Validation, {images['validation']} images, by which epoch ")
    assert ": accuracy 0." in scores
    assert then == f"Next, score it on {images['test']} images it has not seen:"
    assert command == f"  busseg evaluate '{run}' {phantom_folder} --out '{run / 'evaluation'}'"
    # The number of epochs is the run's.
    assert load_recipe(run / "recipe.toml").epochs == 2
    assert call("train", phantom_folder, "--out", run, "--resume") == (0, out, "")
    assert len(read_csv(run / "history.csv")) == 2
    status, out, err = call(*arguments[:5], 3, "-o", run, "--resume")
    assert (status, out) == (2, "")
    assert err.startswith("busseg: error: Expected the recipe of the run to resume, found another: ")


def test_train_on_all_images_says_that_there_is_no_score(call, phantom_folder, tmp_path, monkeypatch):
    def train(data, out, **_):
        out.mkdir()
        (out / "environment.json").write_text('{"images": {"train": 30, "validation": 0, "test": 0}}')
        return [{"epoch": 1, "loss": 0.5}]

    monkeypatch.setattr(training, "train_model", train)
    run = tmp_path / "run"
    status, out, err = call("train", phantom_folder, "--all", "-o", run)
    assert (status, err) == (0, "")
    assert out.splitlines()[1:] == [
        "The model is that of the last epoch, 1: there was no validation part to score",
        "Next, predict scans of your own:",
        f"  busseg predict scan.png --model {run}",
    ]


def test_epochs_below_one_are_wrong_use(call, phantom_folder, tmp_path):
    for verb in ("train", "crossval"):
        status, out, err = call(verb, phantom_folder, "--epochs", 0, "-o", tmp_path / "run")
        assert (status, out) == (2, "")
        assert "--epochs" in err


# === Predict ===
@pytest.fixture
def ramp(tmp_path):
    """Path of an image whose columns are 0, 8, ..., 248: the mask of `echo_model` is that by 255."""
    write_image(tmp_path / "ramp.png", np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1)))
    return tmp_path / "ramp.png"


def test_predict_prints_class_confidence_and_probabilities(call, ramp, echo_file, tmp_path):
    status, out, err = call("predict", ramp, "--model", echo_file, "-o", tmp_path / "out")
    assert (status, err) == (0, "")
    # The mean is 124 / 255 = 0.486; of 32 columns, the 16 from 128 on are at least half of 255.
    assert out.splitlines() == [
        f"{ramp}: normal 51% (benign 49%, malignant 0%), lesion 50.0% of the image",
        f"Wrote {tmp_path / 'out'}",
    ]


def test_threshold_moves_the_mask_and_is_in_the_table(call, ramp, echo_file, tmp_path):
    out = tmp_path / "out"
    status, text, _ = call("predict", ramp, "--model", echo_file, "-o", out, "--threshold", 0.75)
    assert status == 0
    assert "lesion 25.0% of the image" in text  # 0.75 * 255 = 191.25: the 8 columns from 192 on
    assert (read_image(out / "ramp_mask.png") > 0).sum() == 8 * 32
    [row] = read_csv(out / "predictions.csv")
    assert (row["threshold"], row["lesion_px"]) == ("0.75", "256")


def test_masks_of_two_thresholds_are_not_mixed(call, ramp, echo_file, tmp_path):
    arguments = ["predict", ramp, "--model", echo_file, "-o", tmp_path / "out"]
    assert call(*arguments, "--threshold", 0.75)[0] == 0
    assert call(*arguments, "--threshold", 0.75, "--resume")[0] == 0
    status, out, err = call(*arguments, "--threshold", 0.25, "--resume")
    assert (status, out) == (2, "")
    assert err == f"busseg: error: Expected masks of threshold 0.25 to resume, found 0.75: {tmp_path / 'out'}\n"
    status, _, err = call(*arguments, "--resume")
    assert status == 2
    assert f"Expected a table of the same options to resume, found the column 'threshold': {tmp_path / 'out'}" in err


@pytest.mark.parametrize("threshold", [0, 1])
def test_threshold_that_is_no_probability_is_wrong_use(call, ramp, echo_file, tmp_path, threshold):
    status, out, err = call("predict", ramp, "--model", echo_file, "-o", tmp_path / "out", "--threshold", threshold)
    assert (status, out) == (2, "")
    assert "--threshold" in err
    with pytest.raises(ValueError, match=r"`threshold` must be in \(0, 1\)"):
        busseg.Predictor(echo_file, threshold=threshold)


def test_threshold_of_a_model_without_masks_is_refused():
    from busseg.models.classifier import build_classifier

    slides = build_classifier(32, 2, "plain", width=4, depth=2)
    with pytest.raises(ValueError, match=r"Expected a model that predicts masks .*, found one of histology"):
        busseg.Predictor(slides, threshold=0.3)


# === Streams ===
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_stdout_has_the_results_alone_where_stderr_is_a_terminal(tmp_path, ramp):
    import pty

    screen, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "busseg.cli", "predict", ramp, "--model", "small", "-o", tmp_path / "out"],
        stdout=subprocess.PIPE, stderr=terminal, text=True, check=True, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    name, wrote = done.stdout.splitlines()
    assert name.startswith(f"{ramp}: ")
    assert wrote == f"Wrote {tmp_path / 'out'}"
    assert b"Predicting" in os.read(screen, 65536)
    os.close(screen)
