import json
from dataclasses import replace

import numpy as np
import pytest

from busseg.data.task import Task
from busseg.imaging.images import read_image, write_image
from busseg.inference.batch import predict_files
from busseg.inference.inputs import find_inputs
from busseg.inference.overlay import draw_overlay
from busseg.inference.prediction import Prediction
from busseg.storage.files import read_csv


def image(grey):
    """A square of 4 x 4 px of a grey value on black."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[8:12, 8:12] = grey
    return pixels


@pytest.fixture
def predict(echo_predictor, tmp_path):
    """Function that writes an image of a grey value to a path in `tmp_path` and predicts it."""

    def predict(name, grey=200):
        write_image(tmp_path / name, image(grey))
        return echo_predictor.predict(tmp_path / name)

    return predict


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_folder_is_that_of_the_command(predict, echo_predictor, tmp_path):
    for name in ("a.png", "b.png"):
        assert predict(name).save(tmp_path / "saved") == tmp_path / "saved"
    files = find_inputs([tmp_path / "a.png", tmp_path / "b.png"])
    list(predict_files(echo_predictor, files, tmp_path / "predicted", json_lines=True))
    assert names(tmp_path / "saved") == names(tmp_path / "predicted")
    for path in (tmp_path / "predicted").iterdir():
        if not path.name.startswith("."):
            assert (tmp_path / "saved" / path.name).read_bytes() == path.read_bytes()


def test_command_continues_a_saved_folder(predict, echo_predictor, tmp_path):
    predict("a.png").save(tmp_path / "out")
    write_image(tmp_path / "b.png", image(100))
    files = find_inputs([tmp_path / "a.png", tmp_path / "b.png"])
    echo_predictor.files_read.clear()
    assert len(list(predict_files(echo_predictor, files, tmp_path / "out", resume=True, json_lines=True))) == 2
    assert len(echo_predictor.files_read) == 1  # b.png


def test_results_of_the_same_image_are_replaced_in_their_place(predict, tmp_path):
    for name, grey in (("a.png", 200), ("b.png", 200), ("a.png", 100)):
        predict(name, grey).save(tmp_path / "out")
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    # A grey of 200 / 255 is lesion, in 4 * 4 px; one of 100 / 255 is not.
    assert [int(row["lesion_px"]) for row in rows] == [line["lesion_px"] for line in lines] == [0, 16]
    assert not read_image(tmp_path / "out" / "a_mask.png").any()


def test_image_without_a_file_needs_a_name(echo_predictor, tmp_path):
    prediction = echo_predictor.predict(image(200))
    with pytest.raises(ValueError, match=r"^Expected a name .* without a file, found none: save\(folder, \"name\"\)"):
        prediction.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prediction.save(tmp_path / "out", "mine")
    assert names(tmp_path / "out") == ["mine_mask.png", "mine_overlay.png", "predictions.csv", "predictions.jsonl"]
    assert read_image(tmp_path / "out" / "mine_mask.png").sum() == 16 * 255
    overlay = read_image(tmp_path / "out" / "mine_overlay.png", colour=True)
    np.testing.assert_array_equal(overlay, draw_overlay(prediction.image, prediction))
    assert [row["file"] for row in read_csv(tmp_path / "out" / "predictions.csv")] == ["mine"]


@pytest.mark.parametrize("name", ["", "a/b", "../a", "/a"])
def test_name_stays_in_the_folder(predict, tmp_path, name):
    with pytest.raises(ValueError, match=r"^Expected a name without a folder, found "):
        predict("a.png").save(tmp_path / "out", name)


def test_frame_has_its_number_in_its_name(predict, tmp_path):
    replace(predict("a.png"), frame=7).save(tmp_path / "out")
    assert (tmp_path / "out" / "a_frame007_mask.png").is_file()


def test_results_of_another_image_of_the_same_name_stay(predict, tmp_path):
    predict("one/a.png").save(tmp_path / "out")
    other = predict("two/a.png", 100)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match=r"^Expected a new name, found the results of another image; .*a_mask"):
        other.save(tmp_path / "out")
    assert all(path.read_bytes() == content for path, content in before.items())
    other.save(tmp_path / "out", "other")
    assert len(read_csv(tmp_path / "out" / "predictions.csv")) == 2


def test_files_that_busseg_did_not_write_stay(predict, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"^Expected an empty folder or one with predictions.csv, found other"):
        predict("a.png").save(tmp_path / "mine")
    predict("a.png").save(tmp_path / "out")
    (tmp_path / "out" / "b_mask.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"^Expected a result of busseg to replace, found another file: .*b_mask"):
        predict("b.png").save(tmp_path / "out")
    assert (tmp_path / "out" / "b_mask.png").read_bytes() == b"mine"


def test_table_of_another_sensitivity_stays(predict, tmp_path):
    predict("a.png").save(tmp_path / "out")
    decided = replace(predict("b.png"), malignant=True, sensitivity=0.95)
    with pytest.raises(
        ValueError,
        match=r"^Expected a table of the same task and sensitivity, .*'malignant_at_0.95': .*\.csv$",
    ):
        decided.save(tmp_path / "out")


def test_histology_has_a_row_and_a_line(tmp_path):
    slide = np.full((8, 8, 3), 200, np.uint8)
    Prediction("benign", np.float32([0.75, 0.25]), task=Task.HISTOLOGY, image=slide).save(tmp_path / "out", "slide")
    assert names(tmp_path / "out") == ["predictions.csv", "predictions.jsonl"]
    (row,) = read_csv(tmp_path / "out" / "predictions.csv")
    assert (row["file"], row["label"], row["p_benign"]) == ("slide", "benign", "0.750000")
