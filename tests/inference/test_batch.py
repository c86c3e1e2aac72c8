import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from busseg.data.tissue import write_tissue
from busseg.imaging.images import read_image, write_image
from busseg.inference import results
from busseg.inference.batch import predict_files
from busseg.inference.inputs import find_inputs
from busseg.inference.operating_point import tabulate_thresholds
from busseg.inference.overlay import draw_overlay
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.models.classifier import build_classifier
from busseg.storage.archives import add_metadata
from busseg.storage.files import read_csv

HEADER = (
    "file,frame,regions,label,p_normal,p_benign,p_malignant,"
    "lesion_px,lesion_fraction,lesion_mm2,lesion_mm,lesion_across_mm,uncertainty,ood_score,"
    "study_instance_uid,series_instance_uid,sop_instance_uid,warning,error"
)


@pytest.fixture(scope="module")
def predictor(echo_model):
    return Predictor(echo_model)


def put(folder, *names, shape=(32, 32)):
    """Write an image to each of the names; the n-th is all grey value n."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, np.full(shape, number, np.uint8))


# === The decision at a sensitivity ===
@pytest.fixture(scope="module")
def decided(echo_file, tmp_path_factory):
    """The path of the echo model, to which every image is 0 malignant, with thresholds: of four, 0, 0.25, 0.5, 0.75."""
    path = shutil.copy(echo_file, tmp_path_factory.mktemp("decided") / "decided.keras")
    add_metadata(path, {"operating_points": tabulate_thresholds([0.0, 0.25, 0.5, 0.75])})
    return path


@pytest.mark.parametrize(("sensitivity", "name", "expected"), [(0.9, "0.9", "True"), (0.75, "0.75", "False")])
def test_decision_stands_beside_the_most_probable_class(tmp_path, decided, sensitivity, name, expected):
    put(tmp_path, "a.png")
    inputs, out = find_inputs([tmp_path / "a.png"]), tmp_path / "out"
    list(predict_files(Predictor(decided, sensitivity=sensitivity), inputs, out, json_lines=True))
    (row,) = read_csv(out / "predictions.csv")
    assert list(row) == HEADER.replace("label,", f"label,malignant_at_{name},").split(",")
    assert (row["label"], row[f"malignant_at_{name}"]) == ("normal", expected)
    assert json.loads((out / "predictions.jsonl").read_text())[f"malignant_at_{name}"] is (expected == "True")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (0.9, 0.75, r"^Expected the column 'malignant_at_0.75', found "),
        (None, 0.75, r"^Expected the column 'malignant_at_0.75', found "),
        (0.9, None, r"^Expected a table of the same options to resume, found the column 'malignant_at_0.9': "),
    ],
)
def test_decisions_of_two_sensitivities_do_not_come_into_one_table(tmp_path, decided, before, after, message):
    put(tmp_path, "a.png")
    inputs, out = find_inputs([tmp_path / "a.png"]), tmp_path / "out"
    list(predict_files(Predictor(decided, sensitivity=before), inputs, out))
    table = (out / "predictions.csv").read_text()
    with pytest.raises(ValueError, match=message):
        list(predict_files(Predictor(decided, sensitivity=after), inputs, out, resume=True))
    assert (out / "predictions.csv").read_text() == table
    (row,) = predict_files(Predictor(decided, sensitivity=before), inputs, out, resume=True)
    assert row["label"] == "normal"


# === Predicting ===
def test_every_image_gets_its_mask_its_overlay_and_its_row(names, tmp_path, predictor):
    write_image(tmp_path / "s/half.png", np.repeat(np.uint8([[0, 255]]), 16, axis=1).repeat(32, axis=0))
    write_image(tmp_path / "s/deep/black.png", np.zeros((20, 60), np.uint8))
    out = tmp_path / "out"
    inputs = find_inputs([tmp_path / "s"])
    rows = list(predict_files(predictor, inputs, out))
    assert names(out) == [
        "deep/black_mask.png", "deep/black_overlay.png", "half_mask.png", "half_overlay.png", "predictions.csv",
    ]  # fmt: skip
    assert (out / "predictions.csv").read_text().splitlines() == [
        HEADER,
        f"{tmp_path}/s/deep/black.png,,,normal,1.000000,0.000000,0.000000,0,0.000000,,,,,,,,,nearly one grey,",
        # Half of the 32 x 32 pixels are white: 512, and the mean is 1/2.
        f"{tmp_path}/s/half.png,,,normal,0.500000,0.500000,0.000000,512,0.500000,,,,,,,,,,",
    ]
    assert read_csv(out / "predictions.csv") == [{key: str(value) for key, value in row.items()} for row in rows]
    for path, target in inputs.items():
        prediction = predictor.predict(path)
        np.testing.assert_array_equal(read_image(out / f"{target}_mask.png"), prediction.mask * 255)
        with Image.open(out / f"{target}_overlay.png") as overlay:
            np.testing.assert_array_equal(np.asarray(overlay), draw_overlay(read_image(path), prediction))


def test_probability_maps_and_json_lines_come_when_asked_for(names, tmp_path, predictor):
    image = np.zeros((32, 32), np.uint8)
    image[4:8, 10:20] = 200
    write_image(tmp_path / "a.png", image)
    (tmp_path / "b.png").write_text("hello")
    inputs = find_inputs([tmp_path / "a.png", tmp_path / "b.png"])
    rows = list(predict_files(predictor, inputs, tmp_path / "out", probability_maps=True, json_lines=True))
    expected = ["a_mask.png", "a_overlay.png", "a_probability.png", "predictions.csv", "predictions.jsonl"]
    assert names(tmp_path / "out") == expected
    np.testing.assert_array_equal(read_image(tmp_path / "out/a_probability.png"), image)  # the model gives it back
    first, second = map(json.loads, (tmp_path / "out/predictions.jsonl").read_text().splitlines())
    mean = round(float(image.mean()) / 255, 6)
    assert first.pop("probabilities") == pytest.approx({"normal": 1 - mean, "benign": mean, "malignant": 0}, abs=2e-6)
    assert first.pop("contours") == [[[10, 4], [20, 4], [20, 8], [10, 8]]]
    assert first.pop("report").startswith("No lesion found. Normal, probability ")
    assert first == {
        "file": str(tmp_path / "a.png"), "label": "normal", "lesion_px": 40, "lesion_fraction": round(40 / 1024, 6),
        "uncertainty": None, "ood_score": None, "warning": None, "box": [10, 4, 10, 4], "frame": None, "regions": None,
        "lesion_mm2": None, "lesion_mm": None, "lesion_across_mm": None, "lesions": [],
        "study_instance_uid": "", "series_instance_uid": "", "sop_instance_uid": "",
    }  # fmt: skip
    assert second == {"file": str(tmp_path / "b.png"), "error": rows[1]["error"]}


def test_image_unlike_the_known_ones_is_warned_of_and_predicted_all_the_same(names, tmp_path, told_model):
    write_image(tmp_path / "dark.png", np.full((32, 32), 51, np.uint8))
    write_image(tmp_path / "bright.png", np.full((32, 32), 204, np.uint8))
    inputs = find_inputs([tmp_path / "dark.png", tmp_path / "bright.png"])
    dark, bright = predict_files(Predictor(told_model), inputs, tmp_path / "out", json_lines=True)
    # Of 51 / 255 = 0.2, the classes have 0.8, 0.2 and 0.
    assert (dark["uncertainty"], dark["ood_score"], dark["warning"]) == ("0.200000", "0.400000", "nearly one grey")
    both = f"{OUT_OF_DISTRIBUTION}; nearly one grey"
    assert (bright["ood_score"], bright["warning"], bright["error"]) == ("1.600000", both, "")
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [(line["ood_score"], line["warning"]) for line in lines] == [(0.4, "nearly one grey"), (1.6, both)]
    assert {"dark_mask.png", "bright_mask.png"} <= set(names(tmp_path / "out"))


def test_many_files_of_many_kinds_answer_as_one_by_one(tmp_path, predictor):
    random = np.random.default_rng(0)
    (tmp_path / "s").mkdir()
    for number in range(20):  # more than one batch
        mode = ("L", "RGB", "RGBA", "LA")[number % 4]
        pixels = random.integers(0, 256, (20 + number, 50 - 2 * number), np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"s/{number:02}.png")
    inputs = find_inputs([tmp_path / "s"])
    rows = list(predict_files(predictor, inputs, tmp_path / "out"))
    assert [row["file"] for row in rows] == [str(path) for path in inputs]
    for row, (path, target) in zip(rows, inputs.items(), strict=True):
        prediction = predictor.predict(path)
        assert row["label"] == prediction.label
        assert row["lesion_px"] == prediction.lesion_px
        assert float(row["p_benign"]) == pytest.approx(prediction.probabilities[1], abs=1e-6)
        np.testing.assert_array_equal(read_image(tmp_path / "out" / f"{target}_mask.png"), prediction.mask * 255)


def test_broken_files_get_a_row_and_the_others_are_predicted(names, tmp_path, predictor):
    put(tmp_path, "a.png", "z.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.png").write_text("hello")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    paths = [tmp_path / f"{name}.png" for name in ("a", "empty", "notes", "half", "z")]
    rows = list(predict_files(predictor, find_inputs(paths), tmp_path / "out"))
    assert names(tmp_path / "out") == ["a_mask.png", "a_overlay.png", "predictions.csv", "z_mask.png", "z_overlay.png"]
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, False]
    for row, path in zip(rows, paths, strict=True):
        assert row["file"] == str(path)
        assert not row["error"] or row["error"].endswith(str(path))
    assert [row["label"] for row in read_csv(tmp_path / "out/predictions.csv")] == ["normal", "", "", "", "normal"]


def test_image_that_the_model_has_no_answer_to_gets_a_row_with_its_error(names, tmp_path, torn_model):
    put(tmp_path, "a.png", "z.png")
    white = tmp_path / "white.png"
    write_image(white, np.full((32, 32), 255, np.uint8))
    paths = [tmp_path / "a.png", white, tmp_path / "z.png"]
    rows = list(predict_files(Predictor(torn_model), find_inputs(paths), tmp_path / "out"))
    assert [row["label"] for row in rows] == ["normal", "", "normal"]
    assert rows[1]["error"] == f"Expected finite numbers from the model torn, found an answer of others: {white}"
    assert names(tmp_path / "out") == ["a_mask.png", "a_overlay.png", "predictions.csv", "z_mask.png", "z_overlay.png"]


def test_batch_of_broken_files_alone_gets_its_row_too(names, tmp_path, predictor):
    (tmp_path / "a.png").touch()
    rows = list(predict_files(predictor, find_inputs([tmp_path / "a.png"]), tmp_path / "out"))
    assert names(tmp_path / "out") == ["predictions.csv"]
    assert "empty file (0 bytes)" in rows[0]["error"]


def test_again_in_the_same_folder_replaces(tmp_path, predictor):
    put(tmp_path, "a.png", "b.png")
    list(predict_files(predictor, find_inputs([tmp_path / "a.png", tmp_path / "b.png"]), tmp_path / "out"))
    write_image(tmp_path / "a.png", np.full((10, 20), 255, np.uint8))
    list(predict_files(predictor, find_inputs([tmp_path / "a.png"]), tmp_path / "out"))
    (row,) = read_csv(tmp_path / "out/predictions.csv")
    assert (row["file"], row["lesion_px"]) == (str(tmp_path / "a.png"), "200")
    assert read_image(tmp_path / "out/a_mask.png").shape == (10, 20)


def test_former_predictions_among_the_scans_are_no_scans(tmp_path, predictor):
    put(tmp_path, "s/a.png", "s/deep/b.png")
    inputs = find_inputs([tmp_path / "s"])
    list(predict_files(predictor, inputs, tmp_path / "s" / "predictions"))
    assert find_inputs([tmp_path / "s"]) == inputs


def test_folder_with_other_files_is_refused_before_anything_is_predicted(names, tmp_path, predictor):
    put(tmp_path, "a.png", "out/thesis.png")
    with pytest.raises(FileExistsError, match=rf"predictions\.csv, found other files: {re.escape(str(tmp_path))}/out$"):
        next(predict_files(predictor, find_inputs([tmp_path / "a.png"]), tmp_path / "out"))
    assert names(tmp_path / "out") == ["thesis.png"]


# === Names, sizes and kinds of all sorts ===
def test_names_of_all_sorts_get_a_row_and_results(tmp_path, predictor):
    raw = b"\xc8\xe9\xcf\xd9.png".decode("utf-8", "surrogateescape")  # GBK, as `unzip` leaves it
    sorts = ["=1+2.png", "\x1b[2J.png", "two\nlines.png", "\r.png", "e\u0301.png", "\xe9.png", "a" * 251 + ".png", raw]
    for name in sorts:
        put(tmp_path / "scans", "a.png")
        (tmp_path / "scans/a.png").rename(tmp_path / "scans" / name)
    rows = list(predict_files(predictor, find_inputs([tmp_path / "scans"]), tmp_path / "out", json_lines=True))
    assert [row["error"] for row in rows] == [""] * 8
    assert [Path(row["file"]).name for row in rows] == sorted(sorts)
    assert [row["file"] for row in read_csv(tmp_path / "out/predictions.csv")] == [row["file"] for row in rows]
    lines = (tmp_path / "out/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["file"] for line in lines] == [row["file"] for row in rows]
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == 8
    again = predict_files(predictor, find_inputs([tmp_path / "scans"]), tmp_path / "out", resume=True, json_lines=True)
    assert [row["file"] for row in again] == [row["file"] for row in rows]


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_what_is_no_file_gets_a_row_with_its_error(tmp_path, predictor):
    put(tmp_path, "scans/b.png", "scans/folder.png/c.png")
    os.mkfifo(tmp_path / "scans/a.png")
    (tmp_path / "scans/gone.png").symlink_to("nowhere.png")
    rows = predict_files(predictor, find_inputs([tmp_path / "scans"]), tmp_path / "out")
    errors = {Path(row["file"]).name: row["error"] for row in rows}
    assert errors == {
        "a.png": f"Expected an image file, found a named pipe: {tmp_path}/scans/a.png",
        "b.png": "",
        "c.png": "",
        "gone.png": f"Expected an image file, found nothing: {tmp_path}/scans/gone.png",
    }


def test_what_cannot_be_drawn_is_the_error_of_its_file(tmp_path, predictor, monkeypatch):
    def fail(image, prediction):
        if image.max() == 1:
            raise cv2.error("two\nlines")
        return image

    put(tmp_path, "scans/a.png", "scans/b.png", "scans/c.png")
    monkeypatch.setitem(results.IMAGES, "_overlay.png", fail)
    rows = predict_files(predictor, find_inputs([tmp_path / "scans"]), tmp_path / "out")
    error = f"Expected results that can be written, found something else (error: two lines): {tmp_path}/scans/b.png"
    assert [row["error"] for row in rows] == ["", error, ""]


def test_results_that_cannot_be_written_end_it(tmp_path, predictor):
    put(tmp_path, "a.png", "deep/b.png")
    inputs = {tmp_path / "a.png": Path("a"), tmp_path / "deep/b.png": Path("a_mask.png/b")}  # a folder where a file is
    with pytest.raises(OSError, match=r"a_mask\.png"):
        list(predict_files(predictor, inputs, tmp_path / "out"))


# === Histology ===
def test_histology_has_a_table_and_no_images(tmp_path):
    write_tissue(tmp_path / "slides", patients=1, images=1)
    (tmp_path / "slides/broken.png").write_text("no image")
    predictor = Predictor(build_classifier(32, 2, "plain", width=4, depth=2))
    inputs = find_inputs([tmp_path / "slides"])
    rows = list(predict_files(predictor, inputs, tmp_path / "out", probability_maps=True, json_lines=True))
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["predictions.csv", "predictions.jsonl"]
    assert list(rows[0]) == ["file", "label", "p_benign", "p_malignant", "warning", "error"]
    assert read_csv(tmp_path / "out/predictions.csv") == rows
    assert [bool(row["error"]) for row in rows] == [path.name == "broken.png" for path in inputs]
    for path, row in zip(inputs, rows, strict=True):
        if not row["error"]:
            prediction = predictor.predict(path)
            assert row["label"] == prediction.label
            assert float(row["p_malignant"]) == pytest.approx(prediction.probabilities[1], abs=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert {frozenset(line) for line in lines} == {
        frozenset(("file", "error")),
        frozenset(("file", "label", "probabilities", "warning")),
    }

    again = predict_files(predictor, inputs, tmp_path / "out", resume=True)
    assert list(again) == rows
