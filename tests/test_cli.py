import dataclasses
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

import busseg.cli
from busseg.data import find_samples
from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.data.splits import grouped_splits, read_split, train_on_all, write_splits
from busseg.data.tissue import write_tissue
from busseg.imaging.images import read_image, write_image
from busseg.storage.files import read_csv
from busseg.storage.run_folder import RUN

VERBS = (
    "app",
    "audit",
    "calibrate",
    "compare",
    "convert",
    "crossval",
    "demo",
    "download",
    "evaluate",
    "explain",
    "export",
    "predict",
    "release",
    "split",
    "train",
)
pytestmark = pytest.mark.usefixtures("light")
RECIPE = "image_size = 32\nwidth = 4\ndepth = 1\nepochs = 1\n"


@dataclasses.dataclass
class Done:
    """How a call of the command line ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capfd):
    """Call the command line in this process; what it writes is caught below Python, as a terminal would see it."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["busseg", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            busseg.cli.main()
        return Done(stop.value.code or 0, *capfd.readouterr())

    return run


def start(*arguments, code="from busseg.cli import main; main()", **options):
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def finish(process):
    with process:
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
    return Done(process.returncode, out, err)


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def dataset(tmp_path):
    """A folder shaped like BUSI, five small images a class."""
    random = np.random.default_rng(0)
    for label in CLASSES:
        for number in range(5):
            image = random.integers(0, 256, (24, 32), np.uint8)
            write_image(tmp_path / f"data/{label}/{number}.png", image)
            write_image(tmp_path / f"data/{label}/{number}_mask.png", (image > 200) * np.uint8(255))
    return tmp_path / "data"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


# === Help ===
@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(call, verb):
    done = call(verb, "--help")
    assert (done.status, done.err) == (0, "")
    assert re.search(rf"Example: busseg {verb}\b", done.out)
    assert call(verb, "-h").out == done.out


def test_help_lists_every_verb(call):
    done = call("--help")
    assert set(re.findall(r"^[│ ]+(\w+)  ", done.out, re.MULTILINE)) >= set(VERBS)
    assert {command.name or command.callback.__name__ for command in busseg.cli.app.registered_commands} == set(VERBS)


def test_help_of_every_verb_and_of_the_package_loads_no_framework():
    code = (
        "import sys, busseg\n"
        "from busseg.cli import main\n"
        f"for verb in {['', *VERBS]}:\n"
        "    sys.argv = ['busseg', *verb.split(), '--help']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "print('loaded:', sorted({'keras', 'tensorflow', 'cv2', 'sklearn', 'matplotlib'} & sys.modules.keys()))"
    )
    done = finish(start(code=code))
    assert done.out.endswith("loaded: []\n")
    assert done.out.count("Usage:") == len(VERBS) + 1


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["train"], ["train", "data"], ["split", "data", "--folds", "1"], ["predict", "a.png", "--fast"]],
)
def test_wrong_use_ends_with_2_and_tells_how(call, arguments):
    done = call(*arguments)
    assert done.status == 2
    assert done.err.startswith("Usage: ")
    assert done.out == ""


# === Split ===
def test_split_comes_back_from_its_file(call, dataset, tmp_path):
    out = tmp_path / "new" / "splits.csv"
    done = call("split", dataset, "--folds", 4, "--seed", 7, "--out", out)
    assert (done.status, done.err) == (0, "")
    samples = find_samples(dataset)
    expected = grouped_splits(samples, folds=4, seed=7)
    assert [read_split(out, samples, fold) for fold in range(4)] == expected
    assert done.out.splitlines()[-1] == f"Wrote {out}"


def test_split_takes_groups_from_a_file(call, dataset, tmp_path):
    names_ = [sample.name for sample in find_samples(dataset)]
    # The second benign image is a copy of the first, so of 15 images 14 groups are tested.
    rows = [f"{name},{'benign/0.png' if name == 'benign/1.png' else name}" for name in names_]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *rows]))
    call("split", dataset, "--folds", 4, "--groups", tmp_path / "groups.csv", "--out", tmp_path / "splits.csv")
    tested = [row["file"] for row in read_csv(tmp_path / "splits.csv") if row["part"] == "test"]
    assert sorted(tested) == sorted(set(names_) - {"benign/1.png"})


def test_split_leaves_conflicting_groups_out_by_default(call, dataset, tmp_path):
    conflicting = {"benign/0.png", "malignant/0.png"}
    rows = [f"{s.name},{'both' if s.name in conflicting else s.name}" for s in find_samples(dataset)]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *rows]))
    for options, found in (([], 0), (["--keep-conflicts"], 1)):
        arguments = ["--folds", 2, "--groups", tmp_path / "groups.csv", "--out", tmp_path / "splits.csv"]
        assert call("split", dataset, *arguments, *options).status == 0
        parts = [row for row in read_csv(tmp_path / "splits.csv") if row["part"] == "test"]
        assert len(conflicting & {row["file"] for row in parts}) == found


# === Other formats ===
def test_dataset_is_converted_with_its_split_and_split_again_as_given(call, dataset, tmp_path):
    splits, out = tmp_path / "splits.csv", tmp_path / "coco"
    call("split", dataset, "--folds", 4, "--out", splits)
    done = call("convert", dataset, out, "--to", "coco", "--splits", splits, "--fold", 1)
    assert (done.status, done.out.splitlines()[-1]) == (0, f"Wrote 15 images to {out}")
    done = call("split", out, "--given", "--out", tmp_path / "given.csv")
    expected = grouped_splits(find_samples(dataset), folds=4)[1]
    assert done.status == 0
    counts = {line[6:16].strip(): int(line[16:27]) for line in done.out.splitlines() if line.startswith("   0")}
    assert counts == {part: len(images) for part, images in vars(expected).items()} | {"left out": 0}


def test_what_a_format_cannot_carry_and_a_broken_image_are_said(call, two, tmp_path):
    done = call("convert", *two, tmp_path / "out", "--to", "nnunet", "--splits", tmp_path / "none.csv")
    assert (done.status, done.err) == (2, f"busseg: error: No such file or directory: {tmp_path / 'none.csv'}\n")
    (two[0] / "benign/0.png").write_bytes(b"broken")
    done = call("convert", *two, tmp_path / "out", "--to", "medmnist", "--image-size", 64)
    assert done.status == 1
    assert done.out.splitlines()[-1] == f"Wrote 29 images to {tmp_path / 'out'}"
    assert done.err.splitlines()[-1] == "busseg: 1 of 30 files could not be read"
    done = call("convert", tmp_path / "out", tmp_path / "yolo", "--to", "yolo")
    notes = ["There is no validation part, so val names images/train, too.", f"Wrote 29 images to {tmp_path / 'yolo'}"]
    assert (done.status, done.out.splitlines()[-2:]) == (0, notes)
    done = call("convert", *two, tmp_path / "out", "--to", "cvat")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("busseg: error: Expected a new or empty folder for the dataset, found other files: ")


# === Several folders ===
@pytest.fixture
def two(dataset):
    """Two folders of five images a class, the second a copy of the first with other grey values."""
    other = dataset.with_name("other")
    for path in dataset.rglob("*.png"):
        pixels = read_image(path)
        write_image(other / path.relative_to(dataset), pixels if "_mask" in path.name else 255 - pixels)
    return dataset, other


def test_split_and_train_take_several_folders(call, two, recipe, tmp_path):
    out = tmp_path / "splits.csv"
    done = call("split", *two, "--folds", 4, "--out", out)
    assert (done.status, done.err) == (0, "")
    samples = find_samples(two)
    assert [read_split(out, samples, fold) for fold in range(4)] == grouped_splits(samples, folds=4)
    done = call("train", *two, "--recipe", recipe, "--splits", out, "--fold", 1, "--out", tmp_path / "run")
    assert done.status == 0
    assert read_split(tmp_path / "run/splits.csv", samples) == grouped_splits(samples, folds=4)[1]


def test_groups_of_an_audit_of_several_folders_are_taken(call, two, tmp_path):
    shutil.copy(two[0] / "benign/0.png", two[1] / "benign/0.png")
    assert call("audit", *two, "--out", tmp_path / "audit").status == 0
    path, out = tmp_path / "audit/groups.csv", tmp_path / "splits.csv"
    groups = {row["file"]: row["group"] for row in read_csv(path)}
    assert groups["data/benign/0.png"] == groups["other/benign/0.png"]
    done = call("split", *two, "--folds", 4, "--groups", path, "--out", out)
    assert (done.status, done.err) == (0, "")
    copies = [row for row in read_csv(out) if row["file"].endswith("benign/0.png")]
    assert {row["group"] for row in copies} == {groups["data/benign/0.png"]}
    assert len({(row["fold"], row["part"]) for row in copies}) == 4  # one part a fold, though they lie in two folders


def test_evaluate_takes_several_folders_and_tells_each(call, echo_file, two, tmp_path):
    done = call("evaluate", echo_file, *two, "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["data"] == "data + other"
    assert {name: one["images"] for name, one in summary["parts"]["all"]["sources"].items()} == {
        "data": 15,
        "other": 15,
    }
    assert re.search(r"^mean of sources ", done.out, re.MULTILINE)
    assert (tmp_path / "out/masks/other/benign/0.png").is_file()


def test_wrong_folder_among_several_is_named_before_the_work(call, two, echo_file, tmp_path):
    for verb in (["audit"], ["split"], ["train"], ["crossval"], ["evaluate", echo_file]):
        done = call(*verb, *two, tmp_path / "gone", "--out", tmp_path / "out")
        assert (done.status, done.out) == (2, "")
        assert done.err == f"busseg: error: Expected a dataset folder, found nothing: {tmp_path / 'gone'}\n"
        done = call(*verb, *two, two[0], "--out", tmp_path / "out")
        assert done.err.startswith("busseg: error: Expected each dataset folder once, found one twice: ")
    assert not (tmp_path / "out").exists()


def test_split_refuses_scans_beside_tissue(call, dataset, tmp_path):
    write_tissue(tmp_path / "tissue", patients=3, images=1)
    done = call("split", dataset, tmp_path / "tissue", "--out", tmp_path / "splits.csv")
    assert done.status == 2
    assert done.err.startswith(
        "busseg: error: Expected ultrasound images for the task ultrasound, found histology images: "
    )


# === Audit ===
def test_audit_tells_what_is_wrong_and_writes_its_files(call, dataset, tmp_path):
    copy, broken = dataset / "malignant" / "9.png", dataset / "normal" / "2.png"
    shutil.copy(dataset / "benign" / "1.png", copy)
    shutil.copy(dataset / "benign" / "1_mask.png", copy.with_name("9_mask.png"))
    broken.write_bytes(b"")
    done = call("audit", dataset, "--out", tmp_path / "audit")
    assert (done.status, done.err) == (1, "")  # an image could not be read, the rest is done
    assert "normal/2.png" in done.out
    assert names(tmp_path / "audit") >= {"audit.html", "audit.json", "groups.csv"}
    groups = {row["file"]: row["group"] for row in read_csv(tmp_path / "audit" / "groups.csv")}
    assert groups["malignant/9.png"] == groups["benign/1.png"]


def test_audit_of_no_dataset_leaves_no_folder_behind(call, tmp_path):
    done = call("audit", tmp_path / "gone", "--out", tmp_path / "audit")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"busseg: error: Expected a dataset folder, found nothing: {tmp_path / 'gone'}\n"
    assert not (tmp_path / "audit").exists()


# === Cross-validate and compare ===
@pytest.mark.slow
def test_crossval_then_compare(call, dataset, recipe, tmp_path):
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


def test_calibrate_overwrites_nothing(call, tiny_exports, dataset, tmp_path):
    model = shutil.copy(tiny_exports["onnx"], tmp_path / "model.onnx")
    line = fails(call, tmp_path, "calibrate", model, dataset, "--out", model)
    assert line.endswith(f"Expected a new file to write the calibrated model to, found one: {model}")
    assert model.read_bytes() == tiny_exports["onnx"].read_bytes()


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_sensitivity_of_a_model_without_thresholds_is_refused_with_what_to_do(call, verb, echo_file, dataset, tmp_path):
    arguments = {"predict": [dataset, "--model", echo_file], "evaluate": [echo_file, dataset]}[verb]
    line = fails(call, tmp_path, verb, *arguments, "--out", tmp_path / "out", "--sensitivity", 0.95)
    assert line.endswith("make one with your own labelled scans: busseg calibrate MODEL DATA --out NEW")


# === Predict ===
def test_predict_tells_each_image_and_writes_its_files(call, echo_file, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((32, 32), np.uint8))
    write_image(tmp_path / "s/b.png", np.full((32, 64), 255, np.uint8))
    out = tmp_path / "out"
    done = call("predict", tmp_path / "a.png", tmp_path / "s", "--model", echo_file, "--out", out)
    assert done.status == 0
    assert done.err.splitlines() == [
        f"busseg: warning: nearly one grey: {tmp_path}/{name}.png" for name in ("a", "s/b")
    ]
    assert f"{tmp_path}/a.png: normal 100% (benign 0%, malignant 0%), lesion 0.0% of the image\n" in done.out
    # Half the square is white.
    assert f"{tmp_path}/s/b.png: normal 50% (benign 50%, malignant 0%), lesion 100.0% of the image\n" in done.out
    files = {f"{name}_{what}.png" for name in "ab" for what in ("mask", "overlay")}
    assert names(out) == files | {"predictions.csv"}
    assert read_image(out / "b_mask.png").shape == (32, 64)
    # Going on, only what is missing is made.
    (out / "b_mask.png").unlink()
    (out / "a_mask.png").write_text("as it was")
    again = call("predict", tmp_path / "a.png", tmp_path / "s", "--model", echo_file, "--out", out, "--resume")
    assert (again.status, again.out) == (0, done.out)
    assert names(out) == files | {"predictions.csv"}
    assert (out / "a_mask.png").read_text() == "as it was"


def test_predict_in_a_process_goes_on_past_a_broken_image_and_ends_with_1(echo_file, tmp_path):
    for name in ("a", "c"):
        write_image(tmp_path / f"s/{name}.png", np.tile(np.arange(0, 128, 4, np.uint8), (32, 1)))
    (tmp_path / "s/b.png").write_text("hello")
    done = finish(start("predict", tmp_path / "s", "--model", echo_file, "--out", tmp_path / "out"))
    assert done.status == 1
    # Nothing else is there: what TensorFlow says when it starts is not for users.
    assert done.err.splitlines() == [
        f"busseg: skipped: Expected an image or a video, found text: {tmp_path}/s/b.png",
        "busseg: 1 of 3 files could not be read",
    ]
    assert [bool(row["error"]) for row in read_csv(tmp_path / "out/predictions.csv")] == [False, True, False]
    assert {"a_mask.png", "c_overlay.png"} <= names(tmp_path / "out")


def clip_of(write_scan, path):
    """A clip of two frames, 40 px wide: of 32 x 32 in the region, with 0.5 mm a pixel, the upper 24 rows are white."""
    frame = np.zeros((32, 40), np.uint8)
    frame[:24, 4:36] = 255
    return write_scan(path, np.stack([frame, frame]), (4, 0, 32, 32), (0.05, 0.05))


def test_predict_tells_the_frames_of_a_clip_in_square_millimetres(call, echo_file, write_scan, tmp_path):
    clip, out = clip_of(write_scan, tmp_path / "clip.dcm"), tmp_path / "out"
    done = call("predict", clip, "--model", echo_file, "--out", out, "--overlay-dicom")
    assert (done.status, done.err) == (0, "")
    for number in (1, 2):  # 24 * 32 pixels of 32 * 40, 0.25 mm2 each
        # The corners are 31 * 0.5 and 23 * 0.5 mm apart: 19.3 mm.
        line = f"{clip}, frame {number}: benign 75% (normal 25%, malignant 0%), lesion 60.0% of the image"
        assert f"{line} (192 mm², 19 mm across)\n" in done.out
    kinds = ("mask.png", "overlay.png", "overlay.dcm")
    files = {f"clip_frame00{number}_{kind}" for number in (1, 2) for kind in kinds}
    assert names(out) == files | {"clip_seg.dcm", "clip_sr.dcm", "predictions.csv"}


def test_predict_warns_of_a_whole_frame_and_refuses_it_on_request(call, echo_file, write_scan, tmp_path):
    path = write_scan(tmp_path / "scans/a.dcm", np.full((32, 32), 204, np.uint8))
    arguments = ("predict", tmp_path / "scans", "--model", echo_file, "--out")
    done = call(*arguments, tmp_path / "whole")
    note = "whole frame shown, with any name on it (no region is marked)"
    assert (done.status, f"{note}: {path}\n" in done.err) == (0, True)
    assert (
        "a.dcm: benign 80% (normal 20%, malignant 0%), lesion 100.0% of the image" in done.out
    )  # which is an answer all the same
    done = call(*arguments, tmp_path / "out", "--require-region")
    refusal = f"Expected a DICOM file with a usable region, found that no region is marked: {path}"
    assert (done.status, f"busseg: skipped: {refusal}\n" in done.err) == (1, True)
    assert names(tmp_path / "out") == {"predictions.csv"}


def test_predict_tells_a_broken_clip_in_one_line_and_nothing_of_its_patient(
    call, echo_file, write_scan, patient, tmp_path
):
    clip = clip_of(write_scan, tmp_path / "s/clip.dcm")
    clip_of(write_scan, tmp_path / "s/whole.dcm")
    clip.write_bytes(clip.read_bytes()[:-2000])  # more than a frame
    done = call("predict", tmp_path / "s", "--model", echo_file, "--out", tmp_path / "out", "--json-lines")
    assert done.status == 1
    first, last = done.err.splitlines()
    assert first == f"busseg: skipped: Expected a number of frames that fit into the file, found 2: {clip}"
    assert last == "busseg: 1 of 2 files could not be read"
    written = [done.out, done.err]
    written += [(tmp_path / "out" / name).read_text() for name in ("predictions.csv", "predictions.jsonl")]
    assert not [secret for secret in patient.values() for text in written if secret in text]


@pytest.fixture
def folder_of_every_kind(write_scan, tmp_path):
    """A folder with a file of each kind that a user may have."""
    folder = tmp_path / "s"
    grey = draw_phantom("benign", seed=1, height=48, width=64)[0]
    scan = write_scan(folder / "scan.dcm", grey, (0, 0, *grey.shape[::-1]))
    write_scan(folder / "SEG", grey, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    write_scan(folder / "SR", grey, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    image = Image.fromarray(grey)
    for name in ("a.png", "b.jpg", "c.jfif", "d.bmp", "e.webp", "f.gif", "g.jp2", "h.tif"):
        image.save(folder / name, **({"format": "JPEG"} if name == "c.jfif" else {}))
    for name in ("i.gif", "j.webp", "k.tif"):
        image.save(folder / name, save_all=True, append_images=[ImageOps.invert(image)])
    for name, codec in (("l.mp4", "mp4v"), ("m.avi", "MJPG")):
        video = cv2.VideoWriter(str(folder / name), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, (64, 48))
        for _ in range(2):
            video.write(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
        video.release()
    if features.check("avif"):
        image.save(folder / "n.avif")
    contents = {
        "o.heic": b"\0\0\0\x18ftypheic", "p.nii": b"\x5c\x01", "q.nii.gz": b"\x1f\x8b", "r.nrrd": b"NRRD0004\n",
        "s.zip": b"PK\x03\x04", "t.pdf": b"%PDF-1.7", "u.txt": b"hello", "v.csv": b"a,b\n", "Thumbs.db": b"\xd0\xcf",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    assert scan.exists()
    return folder


def test_predict_answers_or_names_every_file_of_a_folder(call, echo_file, folder_of_every_kind, tmp_path):
    folder, out = folder_of_every_kind, tmp_path / "out"
    done = call("predict", folder, "--model", echo_file, "--out", out)
    assert done.status == 0
    rows = read_csv(out / "predictions.csv")
    frames = Counter(Path(row["file"]).name for row in rows)
    moving = {"i.gif", "j.webp", "k.tif", "l.mp4", "m.avi"}
    assert {name for name, count in frames.items() if count == 2} == moving
    avif = {"n.avif"} & {path.name for path in folder.iterdir()}
    still = {"a.png", "b.jpg", "c.jfif", "d.bmp", "e.webp", "f.gif", "g.jp2", "h.tif", "scan.dcm", *avif}
    assert {name for name, count in frames.items() if count == 1} == still
    (line,) = done.err.splitlines()
    assert line == (
        "busseg: passed over 11 files that are not read: 1 DICOM of Comprehensive SR Storage (SR), "
        "1 DICOM of Segmentation Storage (SEG), 1 HEIC (o.heic), 2 NIfTI (p.nii, q.nii.gz), 1 NRRD (r.nrrd), "
        "1 PDF (t.pdf), 1 ZIP (s.zip), 1 of an unknown kind (Thumbs.db), 2 text (u.txt, v.csv)"
    )


def test_predict_refuses_a_file_that_is_named_with_the_way_to_convert_it(
    call, echo_file, folder_of_every_kind, tmp_path
):
    folder = folder_of_every_kind
    named = [folder / name for name in ("q.nii.gz", "a.png", "SEG")]
    done = call("predict", *named, "--model", echo_file, "--out", tmp_path / "out")
    assert done.status == 1
    assert done.err.splitlines() == [
        "busseg: skipped: Expected an image or a video, found NIfTI; export its slices as PNG, as ITK-SNAP and 3D "
        f"Slicer do: {folder}/q.nii.gz",
        f"busseg: skipped: Expected an ultrasound image, found Segmentation Storage: {folder}/SEG",
        "busseg: 2 of 3 files could not be read",
    ]


def test_predict_prints_no_class_out_of_distribution(call, told_model, write_scan, tmp_path):
    told_model.save(tmp_path / "certain.keras")
    ramp = np.tile(np.arange(0, 128, 4, np.uint8), (32, 1))  # of mean 62: an ood_score of 0.49
    write_scan(tmp_path / "s/a.dcm", ramp, (0, 0, 32, 32))
    write_scan(tmp_path / "s/b.dcm", 255 - ramp, (0, 0, 32, 32))  # 1.51
    write_scan(tmp_path / "s/c.dcm", np.stack([ramp, 255 - ramp, 255 - ramp]), (0, 0, 32, 32))
    write_scan(tmp_path / "s/d.dcm", np.stack([ramp, 255 - ramp, ramp]), (0, 0, 32, 32))
    out = tmp_path / "out"
    done = call("predict", tmp_path / "s", "--model", tmp_path / "certain.keras", "--out", out)
    assert done.status == 0
    lines = [line.partition("/s/")[2] for line in done.out.splitlines() if "/s/" in line]
    assert [re.sub(r" \d+% .*", "", line) for line in lines] == [
        "a.dcm: normal", "b.dcm: not like breast ultrasound",
        *(f"c.dcm, frame {number}: not like breast ultrasound" for number in (1, 2, 3)),
        "d.dcm, frame 1: normal", "d.dcm, frame 2: not like breast ultrasound", "d.dcm, frame 3: normal",
    ]  # fmt: skip
    assert done.err.splitlines() == [
        f"busseg: warning: not like breast ultrasound: {tmp_path}/s/b.dcm",
        f"busseg: warning: not like breast ultrasound in 3 of 3 frames: {tmp_path}/s/c.dcm",
        f"busseg: warning: not like breast ultrasound in 1 of 3 frames: {tmp_path}/s/d.dcm",
        "busseg: 2 of 4 files are not like breast ultrasound: no class is printed, and no DICOM SEG or SR is written "
        "for 2 DICOM files",
    ]
    assert {name for name in names(out) if name.endswith(".dcm")} == {"a_seg.dcm", "a_sr.dcm", "d_seg.dcm", "d_sr.dcm"}


@pytest.mark.parametrize("package", ["pydicom", "highdicom"])
def test_predict_names_the_extra_that_is_missing(call, echo_file, write_scan, tmp_path, monkeypatch, package):
    clip = clip_of(write_scan, tmp_path / "clip.dcm")
    monkeypatch.setitem(sys.modules, package, None)
    done = call("predict", clip, "--model", echo_file, "--out", tmp_path / "out")
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert re.fullmatch(rf'busseg: error: Expected {package} .*found none; pip install "busseg\[dicom\]": {clip}', line)


# === Explain ===
def test_explain_of_a_shipped_model_starts_no_keras_and_goes_on_past_a_broken_image(tmp_path):
    write_image(tmp_path / "s/a.png", np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8))
    (tmp_path / "s/b.png").write_text("hello")
    code = (
        "import sys\nfrom busseg.cli import main\ntry: main()\n"
        "finally: print('loaded:', sorted({'keras', 'tensorflow'} & sys.modules.keys()))"
    )
    done = finish(start("explain", tmp_path / "s", "--model", "small", "--out", tmp_path / "out", code=code))
    assert done.status == 1
    assert done.out.endswith(f"Wrote {tmp_path}/out\nloaded: []\n")
    skipped = f"busseg: skipped: Expected an image or a video, found text: {tmp_path}/s/b.png"
    assert done.err.splitlines()[-2:] == [skipped, "busseg: 1 of 2 files could not be read"]
    assert names(tmp_path / "out") == {"a_occlusion.png", "a_heat.npz", "explanations.csv"}


def test_explain_refuses_a_network_that_is_none_of_busseg_in_one_line(call, echo_file, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((32, 32), np.uint8))
    done = call("explain", tmp_path / "a.png", "--model", echo_file, "--out", tmp_path / "out")
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "busseg: error: Expected a network of build_unet or build_classifier, found another one: echo\n"
    )


# === Export ===
@pytest.mark.parametrize(
    ("options", "name", "file"),
    [
        ([], "export", "export/saved_model.pb"),
        (["--format", "onnx"], "export.onnx", "export.onnx"),
        (["--format", "litert"], "export.tflite", "export.tflite"),
        (["--format", "openvino"], "export", "export/model.xml"),
    ],
)
def test_export_writes_the_format(call, with_graphs, echo_file, tmp_path, options, name, file):
    done = call("export", echo_file, "--out", tmp_path / name, *options)
    assert (done.status, done.err) == (0, "")
    assert re.search(
        rf"^Wrote {tmp_path}/{name}; its outputs differ .* by at most \de[+-]\d\d$", done.out, re.MULTILINE
    )
    assert (tmp_path / file).is_file()


# === Inputs that lack something ===
@pytest.mark.parametrize("verb", ["evaluate", "split", "audit"])
@pytest.mark.parametrize("gone", [True, False])
def test_dataset_folder_without_a_class_is_read_with_a_warning(call, dataset, echo_file, tmp_path, verb, gone):
    shutil.rmtree(dataset / "malignant")
    if not gone:
        (dataset / "malignant").mkdir()
    model = [echo_file] if verb == "evaluate" else []
    done = call(verb, *model, dataset, "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, f"busseg: warning: no image of the class malignant: {dataset}\n")
    if verb == "audit":
        assert "1 classes without an image: malignant" in done.out
    if verb == "evaluate":
        page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
        assert "No scored image is of the class malignant: no score covers it." in page


# === Bad inputs: one line, status 2, nothing half written ===
def fails(call, folder, *arguments, new=()):
    """Call; assert one line of error with status 2, and no new file in the folder but `new`. Returns the line."""
    before = names(folder)
    done = call(*arguments)
    assert done.status == 2, done
    (line,) = done.err.splitlines()
    assert line.startswith("busseg: error: ")
    assert "Traceback" not in done.out
    assert names(folder) - before <= set(new)
    assert before <= names(folder)
    return line


def without_masks(data):
    (data / "benign/3_mask.png").unlink()
    return "benign/3.png"


def without_an_image(data):
    (data / "benign/3.png").unlink()
    return "benign/3_mask.png"


def with_too_few_of_a_class(data):
    for path in (data / "normal").glob("[1-4]*"):
        path.unlink()
    return "1 of normal"


def without_anything(data):
    shutil.rmtree(data)
    return "found nothing: "


def of_another_shape(data):
    for label in CLASSES:
        (data / label).rename(data / label.upper())
    return "found none: "


@pytest.mark.parametrize("verb", ["split", "train", "evaluate"])
@pytest.mark.parametrize("spoil", [without_masks, without_an_image, without_anything, of_another_shape])
def test_bad_dataset_folder_is_named(call, dataset, echo_file, tmp_path, verb, spoil):
    name = spoil(dataset)
    model = [echo_file] if verb == "evaluate" else []
    line = fails(call, tmp_path, verb, *model, dataset, "--out", tmp_path / "out")
    assert name in line
    assert str(dataset) in line


@pytest.mark.parametrize("verb", ["split", "train"])
def test_class_too_small_to_split_is_an_error(call, dataset, tmp_path, verb):
    name = with_too_few_of_a_class(dataset)
    assert name in fails(call, tmp_path, verb, dataset, "--out", tmp_path / "out")


def test_page_without_gradio_says_what_to_install(call, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("busseg.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = call("app")
    assert (done.status, done.out) == (2, "")
    assert done.err == 'busseg: error: Expected Gradio, found it not installed: pip install "busseg[app]"\n'


def claimed_png(width, height):
    """A PNG of 8-bit grey that claims a size and holds a few bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BROKEN = {
    "zero bytes": (lambda path: path.write_bytes(b""), "an empty file"),
    "text": (lambda path: path.write_text("hello"), "something else"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "a broken file"),
    "noise": (lambda path: path.write_bytes(bytes(range(256))), "something else"),
    "bomb": (lambda path: path.write_bytes(claimed_png(60_000, 60_000)), "at most 25000000 pixels, found more"),
}
CLAIMED = ("run",)  # the empty folder of a run that did not begin


@pytest.mark.parametrize(("spoil", "found"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["benign/3.png", "benign/3_mask.png"])
def test_broken_image_stops_a_training_before_it_begins(call, dataset, recipe, tmp_path, spoil, found, name):
    write_splits(tmp_path / "splits.csv", [whole_split(dataset)])
    spoil(dataset / name)
    line = fails(
        call, tmp_path, "train", dataset, "--out", tmp_path / "run", "--recipe", recipe,
        "--splits", tmp_path / "splits.csv", new=CLAIMED,
    )  # fmt: skip
    assert found in line
    assert line.endswith(str(dataset / name))


def whole_split(dataset):
    """A split that trains on every image but those numbered 0."""
    samples = find_samples(dataset)
    split = grouped_splits(samples)[0]
    validation = tuple(sample for sample in samples if sample.image.stem == "0")
    return dataclasses.replace(
        split, train=tuple(s for s in samples if s not in validation), validation=validation, test=()
    )


def test_mask_of_another_size_stops_a_training_before_it_begins(call, dataset, recipe, tmp_path):
    write_splits(tmp_path / "splits.csv", [whole_split(dataset)])
    write_image(dataset / "normal/2_mask.png", np.zeros((24, 31), np.uint8))
    line = fails(
        call, tmp_path, "train", dataset, "--out", tmp_path / "run", "--recipe", recipe,
        "--splits", tmp_path / "splits.csv", new=CLAIMED,
    )  # fmt: skip
    assert "a mask of 32 x 24 px like its image, found 31 x 24 px" in line
    assert line.endswith("normal/2_mask.png")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "fold,file,part,group\n0,benign/0.png,train,patient 7\n0,normal/0.png,test,patient 7\n",
            "group patient 7 in one part, found it in train and test",
        ),
        ("fold,file,part\n0,benign/9.png,train\n", "'benign/9.png', which it lacks"),
        ("fold,file,part\n0,benign/0.png,train\n1,benign/0.png,train\n", "the folds 0, 1"),
        ("fold,file\n", "the column 'part'"),
        (None, "No such file"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_bad_splits_file_is_named(call, dataset, echo_file, recipe, tmp_path, verb, text, found):
    if text:
        (tmp_path / "splits.csv").write_text(text)
    before = [echo_file] if verb == "evaluate" else ["--recipe", recipe]
    arguments = [verb, *before, dataset, "--out", tmp_path / "out", "--splits", tmp_path / "splits.csv"]
    line = fails(call, tmp_path, *arguments)
    assert found in line
    assert str(tmp_path / "splits.csv") in line


def test_split_without_a_validation_part_trains_nothing(call, dataset, recipe, tmp_path):
    (tmp_path / "splits.csv").write_text("fold,file,part\n0,benign/0.png,train\n")
    arguments = ["--out", tmp_path / "out", "--recipe", recipe, "--splits", tmp_path / "splits.csv"]
    assert "Expected a validation part" in fails(call, tmp_path, "train", dataset, *arguments)


def test_all_images_are_no_fold(call, dataset, recipe, tmp_path):
    arguments = ["--out", tmp_path / "out", "--recipe", recipe, "--all", "--fold", 0]
    assert "Expected --all or a fold of a split" in fails(call, tmp_path, "train", dataset, *arguments)


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_fold_that_is_not_there_is_an_error(call, dataset, echo_file, tmp_path, verb):
    model = [echo_file] if verb == "evaluate" else []
    line = fails(call, tmp_path, verb, *model, dataset, "--out", tmp_path / "out", "--fold", 5)
    assert {"train": "a fold of 0 to 4, found 5", "evaluate": "a splits file to read fold 5 from"}[verb] in line


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("epoch = 3\n", "Unknown key 'epoch'; did you mean 'epochs'?"),
        ("epochs = 'many'\n", "`epochs` must be of type int"),
        ("mask_loss = 'dise'\n", "`mask_loss` must be one of "),
        ("epochs 3\n", "Expected TOML"),
        (RECIPE.replace("32", "33"), "`image_size` must be a multiple of 2"),
    ],
)
def test_bad_recipe_is_an_error(call, dataset, recipe, tmp_path, text, found):
    recipe.write_text(text)
    line = fails(call, tmp_path, "train", dataset, "--out", tmp_path / "out", "--recipe", recipe, new=("out",))
    assert found in line


def test_unknown_recipe_is_refused_with_the_known_ones(call, dataset, tmp_path):
    line = fails(call, tmp_path, "train", dataset, "--out", tmp_path / "out", "--recipe", "crad")
    known = "best, card, demo, histology, histology_cbam, hospitals, hospitals_small, light, pretrained, small"
    assert line.endswith(f"Expected a TOML file or one of {known}, found no such recipe: crad")


def test_other_recipe_cannot_go_on_with_a_run(call, tiny_run, phantom_folder, recipe, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    line = fails(call, tmp_path, "train", phantom_folder, "--out", run, "--recipe", recipe, "--resume")
    assert line.endswith(f"Expected the recipe of the run to resume, found another: {run / 'recipe.toml'}")


@pytest.mark.parametrize(
    ("verb", "files", "found"),
    [
        ("train", ["recipe.toml", "environment.json"], "found another run; resume continues it: "),
        ("train", ["thesis.tex"], "found other files: "),
        ("evaluate", ["recipe.toml"], "found other files: "),
        ("predict", ["recipe.toml"], "found other files: "),
        ("export", ["recipe.toml"], "found something else: "),
    ],
)
def test_output_folder_that_holds_something_else_is_left_alone(call, dataset, echo_file, tmp_path, verb, files, found):
    (tmp_path / "out").mkdir()
    for name in files:
        run = name == RUN.marker
        (tmp_path / "out" / name).write_text(json.dumps(dict.fromkeys(RUN.names)) if run else RECIPE)
    arguments = {
        "train": [dataset],
        "evaluate": [echo_file, dataset],
        "predict": [dataset, "--model", echo_file],
        "export": [echo_file],
    }
    line = fails(call, tmp_path, verb, *arguments[verb], "--out", tmp_path / "out")
    assert line.endswith(f"{found}{tmp_path / 'out'}")


def arguments_of(verb, model, dataset, out):
    return {
        "evaluate": ["evaluate", model, dataset, "--out", out],
        "predict": ["predict", dataset, "--model", model, "--out", out],
        "export": ["export", model, "--out", out],
    }[verb]


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
@pytest.mark.parametrize("name", ["gone", "gone.keras", "empty.keras", "text.keras", "other.keras"])
def test_file_that_is_not_a_model_is_named(call, dataset, tmp_path, keras_file_of_others, verb, name):
    (tmp_path / "empty.keras").touch()
    (tmp_path / "text.keras").write_text("hello")
    shutil.copy(keras_file_of_others, tmp_path / "other.keras")
    line = fails(call, tmp_path, *arguments_of(verb, tmp_path / name, dataset, tmp_path / "out"))
    assert line.endswith(str(tmp_path / name))


@pytest.fixture(scope="module")
def keras_file_of_others(tmp_path_factory):
    """The path of a Keras model not written by busseg."""
    keras = pytest.importorskip("keras")
    path = tmp_path_factory.mktemp("models") / "other.keras"
    keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Flatten()]).save(path)
    return path


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (["gone.png"], "found nothing: {folder}/gone.png"),
        (["empty"], "found none: {folder}/empty"),
        (["a/0.png", "b/0.png"], "two named 0.png: {folder}/a/0.png, {folder}/b/0.png"),
    ],
)  # fmt: skip
def test_bad_inputs_of_predict_are_named(call, echo_file, tmp_path, inputs, found):
    (tmp_path / "empty").mkdir()
    for name in ("a/0.png", "b/0.png"):
        write_image(tmp_path / name, np.zeros((32, 32), np.uint8))
    paths = [tmp_path / name for name in inputs]
    line = fails(call, tmp_path, "predict", *paths, "--model", echo_file, "--out", tmp_path / "out")
    assert line.endswith(found.format(folder=tmp_path))


def test_unknown_format_and_dataset_are_errors(call, echo_file, tmp_path):
    line = fails(call, tmp_path, "export", echo_file, "--format", "onyx", "--out", tmp_path / "out")
    assert line.endswith("Expected a format of saved_model, onnx, litert, openvino, found 'onyx'")
    line = fails(call, tmp_path, "download", "buzi", tmp_path / "out")
    assert line.endswith("Expected a dataset of busi, busbra, breast, bus_uclm, found 'buzi'")
    line = fails(call, tmp_path, "download", "udiat", tmp_path / "out")
    assert line.endswith("found udiat, which its authors send: see data/README.md")


def test_folder_that_is_not_empty_is_no_place_for_a_download(call, dataset, tmp_path):
    assert fails(call, tmp_path, "download", "busi", dataset).endswith(f"found files in it: {dataset}")


# === The disk is full ===
FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from busseg.cli import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize(
    ("verb", "limit", "name"),
    [("split", 500, ""), ("audit", 500, "audit.json"), ("predict", 100, "predictions.csv")],  # the table's header
)
def test_full_disk_is_an_error_and_leaves_no_half_file(dataset, tmp_path, verb, limit, name):
    before, out = names(tmp_path), tmp_path / "out"
    model = ["--model", "small"] if verb == "predict" else []
    done = finish(start(limit, verb, dataset, *model, "--out", out, code=FULL))
    assert done.status == 2
    assert done.err.splitlines() == [f"busseg: error: File too large: {out / name}"]
    assert names(tmp_path) == before


@contextmanager
def files_of_at_most(size):
    """A block in which this process may write no larger file, as on a full disk. Its prints go to a file, too."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
def test_full_disk_ends_a_training_and_leaves_no_half_model(call, dataset, recipe, tmp_path):
    before, out = names(tmp_path), tmp_path / "out"
    with files_of_at_most(10_000):
        done = call("train", dataset, "--recipe", recipe, "--out", out)
    assert done.status == 2
    assert done.err.splitlines() == [f"busseg: error: File too large: {out / 'model.keras'}"]
    logs = {path for path in names(tmp_path) if path.startswith("out/logs")}
    left = {"out", "out/recipe.toml", "out/splits.csv", "out/environment.json"}
    assert names(tmp_path) - before - logs == left


# === Ctrl-C ===
# Comes when the splits file is opened, in the middle of the work. A background shell would have SIGINT ignored.
STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

def stop(event, arguments):
    if event == "open" and str(arguments[0]).endswith("splits.csv"):
        signal.raise_signal(signal.SIGINT)

sys.addaudithook(stop)
from busseg.cli import main
main()
"""


def test_stop_by_the_user_ends_with_130(dataset, tmp_path):
    (tmp_path / "splits.csv").touch()
    done = finish(start("train", dataset, "--splits", tmp_path / "splits.csv", "--out", tmp_path / "run", code=STOPPED))
    assert (done.status, done.err.splitlines()[-1], done.out) == (130, "busseg: stopped", "")
    assert not (tmp_path / "run").exists()


def test_traceback_is_shown_to_who_asks_for_it(monkeypatch, tmp_path):
    monkeypatch.setenv("BUSSEG_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["busseg", "split", str(tmp_path / "gone")])
    with pytest.raises(FileNotFoundError):
        busseg.cli.main()
