import json
import re
import shutil

import pytest

from busseg.data import find_samples
from busseg.data.splits import grouped_splits, read_split
from busseg.data.tissue import write_tissue
from busseg.storage.files import read_csv

pytestmark = pytest.mark.usefixtures("light")


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
def test_audit_tells_what_is_wrong_and_writes_its_files(call, dataset, names, tmp_path):
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
