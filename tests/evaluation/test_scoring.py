import json
import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from busseg.data import find_samples
from busseg.data.fingerprints import describe_fingerprints, fingerprint_samples
from busseg.data.sample import CLASSES, Sample
from busseg.evaluation import scoring
from busseg.evaluation.scores import mask_scores, point_scores
from busseg.evaluation.scoring import evaluate
from busseg.evaluation.summary import format_summary
from busseg.evaluation.table import fields, read_rows
from busseg.imaging import threads
from busseg.imaging.images import read_image, read_mask, write_image
from busseg.inference.operating_point import tabulate_thresholds
from busseg.inference.predictor import Predictor
from busseg.storage.archives import add_metadata
from busseg.storage.files import read_csv

pytestmark = pytest.mark.usefixtures("light")


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def scan(folder, name, image, mask, label=None):
    """Write an image and its mask; return them as a sample."""
    paths = folder / f"{name}.png", folder / f"{name}_mask.png"
    write_image(paths[0], image)
    write_image(paths[1], mask)
    return Sample(f"{name}.png", paths[0], (paths[1],), label, name)


def square(value=255, rows=slice(8, 16)):
    """32 x 32 pixels, black but for rows of 10 pixels."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[rows, 10:20] = value
    return pixels


# === The folder ===
def test_folder_holds_what_is_promised(evaluated, parts):
    out, _, _ = evaluated
    figures = [f"figures/{part}_{what}.png" for part in ("test", "validation") for what in ("confusion", "review")]
    masks = sorted(f"masks/{sample.name}" for samples in parts.values() for sample in samples)
    assert names(out) == [*figures, *masks, "per_image.csv", "summary.json"]


def test_table_has_a_row_an_image(evaluated, parts):
    out, _, _ = evaluated
    assert (out / "per_image.csv").read_text().splitlines()[0] == ",".join(fields(CLASSES))
    rows = read_csv(out / "per_image.csv")
    samples = [(part, sample) for part, samples in parts.items() for sample in samples]
    columns = ("file", "fold", "part", "group", "label", "mask", "error")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        (sample.name, "3", part, sample.group, sample.label, f"masks/{sample.name}", "") for part, sample in samples
    ]


def test_rows_hold_the_scores_at_native_size(evaluated, parts, predictor):
    _, _, rows = evaluated
    for row, sample in zip(rows, [*parts["validation"], *parts["test"]], strict=True):
        image = read_image(sample.image)
        prediction = predictor.predict(image)
        expected = mask_scores(read_mask(sample.masks, image.shape), prediction.mask)
        assert {name: row[name] for name in expected} == expected
        assert (row["height_px"], row["width_px"]) == image.shape
        assert row["predicted"] == prediction.label
        assert [row[f"p_{label}"] for label in CLASSES] == pytest.approx(prediction.probabilities.tolist())


def test_batches_of_large_images_are_not_in_memory_together(echo_model, phantom_samples, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "PIXELS_AHEAD", 1)  # so that each batch is too large for company
    monkeypatch.setattr(scoring, "_BATCH", 1)
    predictor, at_work, most = Predictor(echo_model), [], []
    try_batch = predictor.try_batch

    def slow_batch(images):
        at_work.append(images)
        time.sleep(0.02)
        most.append(len(at_work))
        at_work.pop()
        return try_batch(images)

    monkeypatch.setattr(predictor, "try_batch", slow_batch)
    evaluate(predictor, {"test": phantom_samples[:4]}, tmp_path)
    assert most == [1, 1, 1, 1]


def test_predicted_masks_are_kept_at_native_size(evaluated, parts, predictor):
    out, _, rows = evaluated
    samples = [*parts["validation"], *parts["test"]]
    for row, sample in zip(rows, samples, strict=True):
        kept = read_image(out / row["mask"])
        assert set(np.unique(kept)) <= {0, 255}
        assert np.array_equal(kept, predictor.predict(sample.image).mask * 255)


def test_summary_file_holds_the_settings_and_the_returned_summary(evaluated):
    out, summary, _ = evaluated
    assert json.loads((out / "summary.json").read_text()) == {
        "threshold": 0.5,
        "nsd_tolerance_px": 5,
        "size": None,
        "model": "echo",
        "data": "phantoms",
        "parts": summary,
    }


def test_table_is_read_back_as_it_was(evaluated):
    out, _, rows = evaluated
    back = read_rows(out / "per_image.csv")
    assert back == rows
    assert [list(map(type, row.values())) for row in back] == [list(map(type, row.values())) for row in rows]


def test_many_batches_are_one_table(tmp_path, predictor, phantom_samples):
    # 30 images are two batches; the answers of each image do not depend on its neighbours.
    _, rows = evaluate(predictor, {"all": phantom_samples}, tmp_path / "out")
    _, single = evaluate(predictor, {"all": phantom_samples[17:18]}, tmp_path / "single")
    assert [row["file"] for row in rows] == [sample.name for sample in phantom_samples]
    assert rows[17] == single[0]


# === Numbers ===
@pytest.fixture
def known(tmp_path):
    """The model sees a lesion where the image is bright, and calls what is mostly dark normal."""
    return [
        scan(tmp_path, "hit", square(), square(), "benign"),
        scan(tmp_path, "half", square(rows=slice(8, 12)), square(), "malignant"),
        scan(tmp_path, "missed", square(value=100), square(), "benign"),
        scan(tmp_path, "clean", square(value=100), square(value=0), "normal"),
        scan(tmp_path, "false", square(rows=slice(0, 3)), square(value=0), "normal"),
    ]


def test_scores_are_known_where_the_answers_are(tmp_path, predictor, known):
    summary, rows = evaluate(predictor, {"all": known}, tmp_path / "out")
    assert [row["dice"] for row in rows] == [1, pytest.approx(2 * 40 / (40 + 80)), 0, None, None]
    assert [row["hd95_px"] for row in rows] == [0, 4, None, None, None]  # half of it lacks four rows
    assert [row["clean"] for row in rows] == [None, None, None, True, False]
    assert [row["predicted_px"] for row in rows] == [80, 40, 0, 0, 30]
    one, scores = summary["all"], summary["all"]["scores"]
    assert (one["images"], one["lesions"], one["normals"], one["missed"]) == (5, 3, 2, 1)
    assert scores["dice"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["hd95_px"] == (0 + 4) / 2
    assert scores["missed_rate"] == pytest.approx(1 / 3)
    assert (scores["clean_normal_rate"], scores["false_alarm_px"]) == (0.5, 15)
    assert scores["false_alarm_fraction"] == pytest.approx(30 / 32**2 / 2)
    assert scores["class_dice"] == pytest.approx(((1 + 0) / 2 + 2 / 3 + 1 / 2) / 3)
    assert one["confusion"] == [[2, 0, 0], [2, 0, 0], [1, 0, 0]]
    assert scores["accuracy"] == 2 / 5


def test_published_size_scores_in_a_square_and_keeps_masks_native(tmp_path, predictor):
    # A lesion of 8 x 10 pixels in 32 x 32 is one of 16 x 20 in 64 x 64.
    sample = scan(tmp_path, "hit", square(), square(), "benign")
    summary, (row,) = evaluate(predictor, {"all": [sample]}, tmp_path / "out", size=64)
    assert (row["width_px"], row["height_px"], row["true_px"], row["predicted_px"]) == (64, 64, 320, 320)
    assert (row["dice"], summary["all"]["scores"]["dice"]) == (1, 1)
    assert read_image(tmp_path / "out" / row["mask"]).shape == (32, 32)
    assert json.loads((tmp_path / "out/summary.json").read_text())["size"] == 64


def test_rows_hold_the_attributes_that_the_dataset_gives(tmp_path, predictor):
    attributes = {"patient": "7", "birads": "4a", "histology": "fibroadenoma", "device": "GE", "side": "left"}
    known = replace(
        scan(tmp_path, "known", square(rows=slice(8, 12)), square(), "benign"),
        source="here", pixel_mm=0.25, attributes=attributes,
    )  # fmt: skip
    bare = scan(tmp_path, "bare", square(rows=slice(8, 12)), square(), "malignant")
    summary, rows = evaluate(predictor, {"all": [known, bare]}, tmp_path / "out")
    names = ("source", "patient", "birads", "histology", "device", "side", "pixel_mm")
    assert [rows[0][name] for name in names] == ["here", "7", "4a", "fibroadenoma", "GE", "left", 0.25]
    assert [rows[1][name] for name in names] == [None] * 7
    assert read_rows(tmp_path / "out/per_image.csv") == rows
    one = summary["all"]
    # Four rows of eight are found, so the outlines are 4 px apart: 1 mm in the one image with a scale.
    assert (one["scores"]["hd95_px"], one["scores"]["hd95_mm"], one["scaled"]) == (4, 1, 1)
    assert (one["patients"]["patients"], one["patients"]["images"]) == (1, 1)
    assert list(one["sources"]) == ["", "here"]
    text = format_summary(summary)
    assert "HD95 mm 1.00 [1.00, 1.00]" in text
    assert ", of 1 found lesions with a scale" in text
    assert "by patient, 1 patients of 1 images:\n  accuracy" in text
    assert re.search(r"^here +1 +0\.667 +0\.000 +n/a ", text, re.MULTILINE)  # Dice 2 * 40 / (40 + 80)


def test_published_size_has_no_millimetres(tmp_path, predictor):
    sample = replace(scan(tmp_path, "half", square(rows=slice(8, 12)), square(), "benign"), pixel_mm=0.25)
    summary, (row,) = evaluate(predictor, {"all": [sample]}, tmp_path / "out", size=64)
    assert (row["pixel_mm"], summary["all"]["scaled"], summary["all"]["scores"]["hd95_mm"]) == (None, 0, None)
    assert " mm " not in format_summary(summary)


def test_published_size_gives_up_the_aspect(tmp_path, predictor):
    # 32 x 64 pixels, the right half bright: squeezed to 64 x 64, still the right half.
    image = np.zeros((32, 64), np.uint8)
    image[:, 32:] = 255
    sample = scan(tmp_path, "wide", image, image)
    _, (row,) = evaluate(predictor, {"all": [sample]}, tmp_path / "out", size=64)
    assert (row["true_px"], row["width_px"], row["height_px"]) == (64 * 32, 64, 64)
    assert row["dice"] > 0.95  # the model itself sees 32 x 32, so its edge is soft


def test_published_size_makes_probabilities_larger_before_they_are_cut(tmp_path, predictor):
    # Between 0 and 255 the edge is linear: of probabilities 0 | 1 enlarged four times, 1/8, 3/8, 5/8, 7/8 lie between.
    image = np.zeros((32, 32), np.uint8)
    image[:, 16:] = 255
    _, (row,) = evaluate(predictor, {"all": [scan(tmp_path, "a", image, image)]}, tmp_path / "out", size=128)
    assert (row["dice"], row["predicted_px"]) == (1, 128 * 64)


# === Words ===
def test_summary_is_printed_as_text(tmp_path, predictor):
    samples = [
        scan(tmp_path, "hit", square(), square(), "benign"),
        scan(tmp_path, "clean", square(value=0), square(value=0), "normal"),
    ]
    summary, _ = evaluate(predictor, {"test": samples}, tmp_path / "out")
    text = format_summary(summary)
    assert text.startswith("=== test ===\n2 images of 2 groups, scores [95 % interval]\n")
    assert re.search(r"^benign +0\.000 +0\.000 +1\.000 +0\.000 +1\.000 +1$", text, re.MULTILINE)
    assert "accuracy 0.500 [0.000, 1.000]   balanced accuracy 0.500 [0.000, 1.000]\n" in text
    assert "macro AUC n/a\n" in text
    assert "lesions 1, missed 0:\n  Dice 1.000 [1.000, 1.000]   median 1.000 [1.000, 1.000]\n" in text
    assert "no lesion 1: left clean 1.000 [1.000, 1.000]\n" in text
    assert "false alarm px 0 [0, 0], 0.00% of the image on average" in text


# === What may be wrong with a dataset ===
def test_broken_image_gets_a_row_with_its_error_and_the_rest_is_scored(tmp_path, predictor):
    good = scan(tmp_path, "good", square(), square(), "benign")
    empty = scan(tmp_path, "empty", square(), square(), "benign")
    empty.image.write_bytes(b"")
    small = scan(tmp_path, "small", square(), square()[:20], "malignant")
    gone = scan(tmp_path, "gone", square(), square(), "normal")
    gone.masks[0].unlink()
    summary, rows = evaluate(predictor, {"all": [empty, good, small, gone]}, tmp_path / "out")
    written = read_csv(tmp_path / "out/per_image.csv")
    assert [row["file"] for row in written] == ["empty.png", "good.png", "small.png", "gone.png"]
    for row, path in zip(written, (empty.image, None, small.masks[0], gone.masks[0]), strict=True):
        assert row["error"].endswith(str(path)) if path else row["error"] == ""
    assert {written[0][name] for name in ("predicted", "p_normal", "dice", "true_px")} == {""}
    assert [row["label"] for row in rows] == ["benign", "benign", "malignant", "normal"]
    assert {written[0][name] for name in ("nsd", "width_px", "mask")} == {""}
    assert summary["all"]["scores"]["dice"] == 1
    assert summary["all"]["images"] == 1
    assert names(tmp_path / "out/masks") == ["good.png"]
    assert read_rows(tmp_path / "out/per_image.csv") == rows


def test_image_without_a_result_gets_a_row_with_its_error(tmp_path, torn_model):
    good = scan(tmp_path, "good", square(), square(), "benign")
    white = scan(tmp_path, "white", np.full((32, 32), 255, np.uint8), square(), "benign")
    summary, (first, second) = evaluate(Predictor(torn_model), {"all": [good, white]}, tmp_path / "out")
    assert (first["error"], first["dice"]) == (None, 1)
    assert second["error"] == "Expected finite numbers from the model torn, found an answer of others: white.png"
    assert (second["predicted"], second["dice"], summary["all"]["images"]) == (None, None, 1)


def test_part_of_broken_images_alone_is_summed_up(tmp_path, predictor):
    broken = scan(tmp_path, "broken", square(), square(), "benign")
    broken.image.write_bytes(b"")
    summary, _ = evaluate(predictor, {"all": [broken]}, tmp_path / "out")
    assert names(tmp_path / "out") == ["per_image.csv", "summary.json"]
    one = summary["all"]
    assert (one["images"], one["lesions"], one["classes"], one["intervals"]) == (0, 0, None, {})
    assert "lesions 0, missed 0:\n  Dice n/a" in format_summary(summary)


def test_without_labels_only_masks_are_scored(tmp_path, predictor):
    for name in ("a", "b"):
        write_image(tmp_path / f"data/images/{name}.png", square())
        write_image(tmp_path / f"data/masks/{name}.png", square())
    samples = find_samples(tmp_path / "data")
    summary, rows = evaluate(predictor, {"all": samples}, tmp_path / "out")
    assert [summary["all"][name] for name in ("classes", "confusion", "reliability")] == [None] * 3
    assert (summary["all"]["scores"]["dice"], summary["all"]["scores"]["accuracy"]) == (1, None)
    assert [row["label"] for row in rows] == [None, None]
    masks = ["masks/a.png", "masks/b.png"]
    assert names(tmp_path / "out") == ["figures/all_review.png", *masks, "per_image.csv", "summary.json"]
    assert format_summary(summary).splitlines()[2] == "lesions 2, missed 0:"


def test_unlabelled_samples_among_labelled_ones_are_left_out_of_the_classes(tmp_path, predictor):
    samples = [scan(tmp_path, "a", square(), square()), scan(tmp_path, "b", square(), square(), "benign")]
    summary, _ = evaluate(predictor, {"all": samples}, tmp_path / "out")
    assert sum(row["images"] for row in summary["all"]["classes"].values()) == 1
    assert summary["all"]["lesions"] == 2


# === A decision ===
def test_decision_of_a_sensitivity_is_scored_and_printed(tmp_path, echo_file):
    path = shutil.copy(echo_file, tmp_path / "decided.keras")
    add_metadata(path, {"operating_points": tabulate_thresholds([0.0, 0.25, 0.5, 0.75])})
    samples = [scan(tmp_path, name, square(), square(), label) for name, label in (("a", "malignant"), ("b", "benign"))]
    summary, _ = evaluate(Predictor(path, sensitivity=0.9), {"all": samples}, tmp_path / "out")
    # Every image has 0 malignant, which reaches the threshold 0.
    assert summary["all"]["decision"]["scores"] == {"sensitivity": 1, "specificity": 0, "ppv": 0.5, "npv": None}
    point = json.loads((tmp_path / "out/summary.json").read_text())["operating_point"]
    assert (point["sensitivity"], point["threshold"]) == (0.9, 0)
    assert point["low"] < 0.9 < point["high"]
    text = format_summary(summary)
    assert "malignant at p_malignant >= 0.000: 2 of 2 images\n  sensitivity 1.000 [1.000, 1.000]" in text
    assert text.splitlines()[-1].startswith("  PPV 0.500") or "NPV n/a   at a prevalence of 50.0%" in text


# === Images that the model was trained on ===
def test_images_that_the_model_was_trained_on_are_counted(tmp_path, echo_file, phantom_samples):
    path = shutil.copy(echo_file, tmp_path / "trained.keras")
    add_metadata(path, describe_fingerprints(fingerprint_samples(phantom_samples[:20])))
    summary, rows = evaluate(Predictor(path), {"all": phantom_samples[10:]}, tmp_path / "out")
    assert [row["known"] for row in rows] == [True] * 10 + [False] * 10
    written = json.loads((tmp_path / "out/summary.json").read_text())["parts"]["all"]
    assert written == summary["all"]
    assert written["known"]["warning"].startswith("10 of 20 scored images, or copies of them, were used to train")
    assert written["unseen"]["scores"] == point_scores(rows[10:])
    assert read_rows(tmp_path / "out/per_image.csv") == rows


def test_fingerprints_can_be_passed_for_a_model_without_any(tmp_path, predictor, phantom_samples):
    known = fingerprint_samples(phantom_samples[:2])
    summary, _ = evaluate(predictor, {"all": phantom_samples[:3]}, tmp_path / "out", fingerprints=known)
    assert summary["all"]["known"]["images"] == 2
    summary, _ = evaluate(predictor, {"all": phantom_samples[:3]}, tmp_path / "out")
    assert summary["all"]["known"] is None


# === The folder again ===
def test_again_in_the_same_folder_replaces(tmp_path, predictor):
    first = scan(tmp_path, "a", square(), square(), "benign")
    second = scan(tmp_path, "b", square(value=0), square(), "malignant")
    evaluate(predictor, {"train": [first], "test": [first]}, tmp_path / "out")
    summary, _ = evaluate(predictor, {"all": [second]}, tmp_path / "out")
    assert [row["file"] for row in read_csv(tmp_path / "out/per_image.csv")] == ["b.png"]
    assert json.loads((tmp_path / "out/summary.json").read_text())["parts"] == summary
    figures = ["figures/all_confusion.png", "figures/all_review.png"]
    assert names(tmp_path / "out") == [*figures, "masks/b.png", "per_image.csv", "summary.json"]


def test_folder_with_other_files_is_refused_before_anything_is_predicted(tmp_path, predictor):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    asked = []
    with pytest.raises(FileExistsError, match=r"per_image\.csv, found other files: .*out$"):
        evaluate(predictor, {"all": []}, tmp_path / "out", progress=asked.append)
    assert names(tmp_path / "out") == ["thesis.tex"]
    assert asked == []


def test_stop_in_the_middle_leaves_the_former_evaluation(tmp_path, predictor):
    sample = scan(tmp_path, "a", square(), square(), "benign")
    evaluate(predictor, {"all": [sample]}, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}

    def stopped(batches):
        yield batches[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(predictor, {"other": [sample, sample]}, tmp_path / "out", stopped)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_summary_comes_last_so_that_a_stop_before_is_seen(tmp_path, predictor, monkeypatch):
    sample, out = scan(tmp_path, "a", square(), square(), "benign"), tmp_path / "out"
    evaluate(predictor, {"all": [sample]}, out)
    with monkeypatch.context() as stopped:
        stopped.setattr(scoring, "draw_confusion", _stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(predictor, {"all": [sample]}, out)
    assert "summary.json" not in names(out)
    evaluate(predictor, {"all": [sample]}, out)
    assert "summary.json" in names(out)


def _stop(*_):
    raise KeyboardInterrupt
