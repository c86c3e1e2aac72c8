import json
import re

import numpy as np
import pytest

from busseg.data import find_samples
from busseg.data.files import read_csv
from busseg.data.images import read_image, read_mask, write_image
from busseg.data.sample import CLASSES, Sample
from busseg.evaluation.protocol import evaluate, format_summary
from busseg.evaluation.scores import mask_scores
from busseg.inference.predictor import Predictor

HEADER = (
    "file,part,label,predicted,p_normal,p_benign,p_malignant,"
    "dice,iou,sensitivity,precision,clean,true_px,predicted_px,error"
)


@pytest.fixture(scope="module")
def predictor(echo_model):
    return Predictor(echo_model)


@pytest.fixture(scope="module")
def parts(phantom_samples):
    return {"validation": phantom_samples[:12:4], "test": phantom_samples[1::6]}


@pytest.fixture(scope="module")
def evaluated(predictor, parts, tmp_path_factory):
    """An evaluation of phantoms: its folder, to be read only, and what `evaluate` returned."""
    out = tmp_path_factory.mktemp("evaluations") / "phantoms"
    return out, *evaluate(predictor, parts, out)


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
def test_folder_holds_what_is_promised(evaluated):
    out, _, _ = evaluated
    figures = [f"figures/{part}_{what}.png" for part in ("test", "validation") for what in ("confusion", "review")]
    assert names(out) == [*figures, "per_image.csv", "summary.json"]


def test_table_has_a_row_an_image(evaluated, parts):
    out, _, _ = evaluated
    assert (out / "per_image.csv").read_text().splitlines()[0] == HEADER
    rows = read_csv(out / "per_image.csv")
    expected = [(sample.name, part, sample.label) for part, samples in parts.items() for sample in samples]
    assert [(row["file"], row["part"], row["label"]) for row in rows] == expected
    assert not any(row["error"] for row in rows)


def test_rows_hold_the_scores_at_native_size(evaluated, parts, predictor):
    _, _, rows = evaluated
    for row, sample in zip(rows, [*parts["validation"], *parts["test"]], strict=True):
        image = read_image(sample.image)
        prediction = predictor.predict(image)
        expected = mask_scores(read_mask(sample.masks, image.shape), prediction.mask)
        assert {name: row[name] for name in expected} == expected
        assert row["predicted"] == prediction.label
        assert [row[f"p_{label}"] for label in CLASSES] == pytest.approx(prediction.probabilities.tolist())


def test_summary_file_is_what_is_returned(evaluated):
    out, summary, _ = evaluated
    assert json.loads((out / "summary.json").read_text()) == {"threshold": 0.5, "parts": summary}


def test_returned_rows_are_those_of_the_table(evaluated):
    out, _, rows = evaluated
    for written, row in zip(read_csv(out / "per_image.csv"), rows, strict=True):
        for name in ("dice", "iou", "sensitivity", "precision", "p_normal"):
            assert written[name] == ("" if row[name] is None else f"{row[name]:.6f}")
        assert written["clean"] == ("" if row["clean"] is None else str(row["clean"]))


def test_parts_are_summed_up_apart(evaluated, parts):
    _, summary, _ = evaluated
    assert list(summary) == ["validation", "test"]
    for part, samples in parts.items():
        lesions = sum(sample.label != "normal" for sample in samples)
        assert summary[part]["masks"]["lesions"] == lesions
        assert summary[part]["masks"]["normals"] == len(samples) - lesions
        assert summary[part]["label"]["images"] == len(samples)


# === Numbers ===
def test_scores_are_known_where_the_answers_are(tmp_path, predictor):
    # The model sees a lesion where the image is bright, and calls what is mostly dark normal.
    samples = [
        scan(tmp_path, "hit", square(), square(), "benign"),
        scan(tmp_path, "half", square(rows=slice(8, 12)), square(), "malignant"),
        scan(tmp_path, "missed", square(value=100), square(), "benign"),
        scan(tmp_path, "clean", square(value=100), square(value=0), "normal"),
        scan(tmp_path, "false", square(rows=slice(0, 3)), square(value=0), "normal"),
    ]
    summary, rows = evaluate(predictor, {"all": samples}, tmp_path / "out")
    assert [row["dice"] for row in rows] == [1, pytest.approx(2 * 40 / (40 + 80)), 0, None, None]
    assert [row["clean"] for row in rows] == [None, None, None, True, False]
    assert [row["predicted_px"] for row in rows] == [80, 40, 0, 0, 30]
    masks, label = summary["all"]["masks"], summary["all"]["label"]
    assert masks["dice"]["mean"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert (masks["missed"], masks["clean_normal_rate"], masks["false_alarm_px"]) == (1, 0.5, 15)
    assert label["confusion"] == [[2, 0, 0], [2, 0, 0], [1, 0, 0]]
    assert label["accuracy"] == 2 / 5


def test_summary_is_told_in_words(tmp_path, predictor):
    samples = [
        scan(tmp_path, "hit", square(), square(), "benign"),
        scan(tmp_path, "clean", square(value=0), square(value=0), "normal"),
    ]
    summary, _ = evaluate(predictor, {"test": samples}, tmp_path / "out")
    text = format_summary(summary)
    assert text.startswith("=== test ===\n")
    assert re.search(r"^benign +0\.000 +0\.000 +1\.000 +0\.000 +1$", text, re.MULTILINE)
    assert "accuracy 0.500   balanced accuracy 0.500   macro F1 0.333   macro AUC n/a" in text
    assert "lesions 1: Dice 1.000   IoU 1.000   sensitivity 1.000   precision 1.000   missed 0" in text
    assert "no lesion 1: left clean 1.000   false alarm 0 px on average" in text


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
    assert summary["all"]["masks"]["dice"] == {"mean": 1, "median": 1}
    assert summary["all"]["label"]["images"] == 1


def test_part_of_broken_images_alone_is_told_too(tmp_path, predictor):
    broken = scan(tmp_path, "broken", square(), square(), "benign")
    broken.image.write_bytes(b"")
    summary, _ = evaluate(predictor, {"all": [broken]}, tmp_path / "out")
    assert names(tmp_path / "out") == ["per_image.csv", "summary.json"]
    assert (summary["all"]["masks"]["lesions"], summary["all"]["label"]) == (0, None)
    assert "lesions 0: Dice n/a" in format_summary(summary)


def test_without_labels_only_masks_are_scored(tmp_path, predictor):
    for name in ("a", "b"):
        write_image(tmp_path / f"data/images/{name}.png", square())
        write_image(tmp_path / f"data/masks/{name}.png", square())
    samples = find_samples(tmp_path / "data")
    summary, rows = evaluate(predictor, {"all": samples}, tmp_path / "out")
    assert summary["all"]["label"] is None
    assert summary["all"]["masks"]["dice"]["mean"] == 1
    assert [row["label"] for row in rows] == [None, None]
    assert names(tmp_path / "out") == ["figures/all_review.png", "per_image.csv", "summary.json"]
    assert format_summary(summary).splitlines()[1].startswith("lesions 2: ")


def test_unlabelled_samples_among_labelled_ones_are_left_out_of_the_classes(tmp_path, predictor):
    samples = [scan(tmp_path, "a", square(), square()), scan(tmp_path, "b", square(), square(), "benign")]
    summary, _ = evaluate(predictor, {"all": samples}, tmp_path / "out")
    assert summary["all"]["label"]["images"] == 1
    assert summary["all"]["masks"]["lesions"] == 2


# === The folder again ===
def test_again_in_the_same_folder_replaces(tmp_path, predictor):
    first = scan(tmp_path, "a", square(), square(), "benign")
    second = scan(tmp_path, "b", square(value=0), square(), "malignant")
    evaluate(predictor, {"train": [first], "test": [first]}, tmp_path / "out")
    summary, _ = evaluate(predictor, {"all": [second]}, tmp_path / "out")
    assert [row["file"] for row in read_csv(tmp_path / "out/per_image.csv")] == ["b.png"]
    assert json.loads((tmp_path / "out/summary.json").read_text())["parts"] == summary
    figures = ["figures/all_confusion.png", "figures/all_review.png"]
    assert names(tmp_path / "out") == [*figures, "per_image.csv", "summary.json"]


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

    def stopped(images):
        yield images[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(predictor, {"other": [sample, sample]}, tmp_path / "out", stopped)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
