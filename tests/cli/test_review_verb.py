"""The loop: predict, review, correct, train."""

import json
import shutil

import numpy as np
import pytest

from busseg.data import find_samples
from busseg.data.convert import convert_dataset
from busseg.data.phantom import write_phantoms
from busseg.imaging.images import read_image, read_mask
from busseg.storage.files import read_csv


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A dataset of six phantoms, and an output of `busseg predict` for them."""
    folder = tmp_path_factory.mktemp("truth")
    write_phantoms(folder / "phantoms", per_class=2)
    convert_dataset([folder / "phantoms"], folder / "dataset", "busseg")
    return folder / "dataset"


def correct(folder, truth, to):
    """Correct an export as a person does who draws the true masks: write what the program exports then."""
    made = folder.with_name("corrected-by-hand")
    convert_dataset([truth], made, to)
    if to == "busseg":  # a paint program changes the masks, a spreadsheet the classes
        for mask in (folder / "masks").iterdir():
            shutil.copy(made / "masks" / mask.name, mask)
        exported = {path.name for path in (folder / "images").iterdir()}
        rows = [row for row in read_csv(made / "labels.csv") if row["file"] in exported]
        text = "\n".join(["file,label", *(f"{row['file']},{row['label']}" for row in rows)])
        (folder / "labels.csv").write_text(text)
    elif to == "cvat":
        shutil.copy(made / "annotations.xml", folder / "annotations.xml")
    else:
        drawn = {task["data"]["image"]: task for task in json.loads((made / "tasks.json").read_text())}
        tasks = json.loads((folder / "tasks.json").read_text())
        for number, task in enumerate(tasks, 1):
            result = drawn[task["data"]["image"]]["predictions"][0]["result"]
            task["annotations"] = [{"id": number, "result": result, "was_cancelled": False}]
        (folder / "export.json").write_text(json.dumps(tasks))


@pytest.mark.parametrize("to", ["label-studio", "cvat", "busseg"])
def test_corrected_predictions_become_a_dataset_with_the_corrected_masks(call, truth, tmp_path, to):
    predicted, review, dataset = (tmp_path / name for name in ("predicted", "review", "dataset"))
    assert call("predict", truth / "images", "--model", "small", "--json-lines", "--out", predicted).status == 0
    done = call("review", predicted, "--out", review, "--to", to)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"Wrote 6 images to {review / to}"
    assert done.out.splitlines()[0].startswith(f"1. {read_csv(review / 'review.csv')[0]['file']}: ")
    correct(review / to, truth, to)
    assert call("convert", review / to, dataset, "--to", "busseg").status == 0
    expected = find_samples(truth)
    found = find_samples(dataset)
    names = [(one.name.removeprefix("images_"), one.label) for one in found]  # Label Studio's names have the folder
    assert names == [(one.name, one.label) for one in expected]
    changed = 0
    for corrected, true, before in zip(found, expected, sorted(predicted.glob("*_mask.png")), strict=True):
        mask = read_mask(corrected.masks, read_image(corrected.image).shape)
        np.testing.assert_array_equal(mask, read_mask(true.masks, mask.shape))
        changed += not np.array_equal(mask, read_mask([before], mask.shape))
    assert changed > 0  # else the predictions came back, not the corrections


def test_first_images_are_exported_by_rank_with_their_groups(call, truth, tmp_path):
    names = sorted(path.name for path in (truth / "images").iterdir())
    rows = [f"{name},p{number % 3}" for number, name in enumerate(names)]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *rows]))
    call("predict", truth / "images", "--model", "small", "--json-lines", "--out", tmp_path / "predicted")
    options = ["--to", "label-studio", "--first", 2, "--patients", tmp_path / "groups.csv"]
    done = call("review", tmp_path / "predicted", "--out", tmp_path / "review", *options)
    assert done.out.splitlines()[-1] == f"Wrote 2 images to {tmp_path / 'review/label-studio'}"
    tasks = json.loads((tmp_path / "review/label-studio/tasks.json").read_text())
    ranked = read_csv(tmp_path / "review/review.csv")
    assert len(ranked) == 6
    assert [task["data"]["image"].rpartition("/")[2] for task in tasks] == [
        row["file"].rpartition("/")[2] for row in ranked[:2]
    ]
    assert [task["data"]["group"] for task in tasks] == [row["group"] for row in ranked[:2]]


def test_review_of_another_folder_is_one_line(fails, dataset, tmp_path):
    line = fails(tmp_path, "review", dataset, "--out", tmp_path / "out")
    assert line.endswith(f"Expected an output of busseg predict, with predictions.csv, found none: {dataset}")
