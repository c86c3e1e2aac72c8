import json

import numpy as np
import pytest
from PIL import Image

from busseg.data.sample import CLASSES
from busseg.data.task import Task
from busseg.evaluation.compare import compare
from busseg.evaluation.compare_plot import DRAWN, draw_comparison
from busseg.evaluation.compare_text import format_comparison
from busseg.evaluation.scoring import evaluate
from busseg.imaging.images import read_image
from busseg.inference.prediction import Prediction
from busseg.storage.files import read_csv


# === Files ===
@pytest.fixture(scope="module")
def written(tmp_path_factory, row, folder, plain):
    """A comparison of three folders: the folder, to be read only, and what `compare` returned."""
    base = tmp_path_factory.mktemp("comparisons")
    random = np.random.default_rng(0)
    folders = [plain(base / "card" / "evaluation")]
    for name, shift in (("light", -0.1), ("a-rather-long-name-of-a-network-with-attention", 0.02)):
        rows = [row(number, 0.5 + 0.01 * number + shift + random.normal(0, 0.05)) for number in range(30)]
        rows[1] |= {"p_malignant": 0.1, "p_benign": 0.8, "predicted": "benign"}
        folders.append(folder(base / name / "evaluation", rows))
    return base / "out", compare(folders, base / "out")


def test_folder_holds_table_plot_and_json(written):
    out, comparison = written
    assert sorted(path.name for path in out.iterdir()) == ["compare.csv", "compare.json", "compare.png"]
    assert json.loads((out / "compare.json").read_text()) == comparison


def test_table_has_a_row_for_each_score_of_each_folder(written):
    out, comparison = written
    rows = read_csv(out / "compare.csv")
    first, second, _ = comparison["models"]
    assert len(rows) == sum(value is not None for model in comparison["models"] for value in model["scores"].values())
    table = {(row["name"], row["score"]): row for row in rows}
    dice = table["card", "dice"]
    assert float(dice["value"]) == first["scores"]["dice"]
    assert [float(dice["low"]), float(dice["high"])] == first["intervals"]["dice"]
    assert (dice["part"], dice["images"], dice["common_images"], dice["difference"]) == ("test", "30", "", "")
    dice, paired = table["light", "dice"], comparison["differences"][0]["differences"]["dice"]
    assert (dice["folder"], dice["common_images"]) == (second["folder"], "30")
    for cell, name in (("first_on_common", "a"), ("value_on_common", "b"), ("difference_low", "low"), ("p", "p")):
        assert float(dice[cell]) == paired[name]
    assert table["light", "macro_auc"]["p"] == ""  # it has no test of its own


def test_plot_has_a_panel_a_score(written):
    out, comparison = written
    with Image.open(out / "compare.png") as image:
        assert image.width == round((2.4 + 2.7 * len(DRAWN)) * 110)
    without_classes = json.loads(json.dumps(comparison))
    for model in without_classes["models"]:
        model["scores"] |= {"accuracy": None, "macro_auc": None}
    draw_comparison(without_classes, out.parent / "fewer.png")
    with Image.open(out.parent / "fewer.png") as image:
        assert image.width == round((2.4 + 2.7 * (len(DRAWN) - 2)) * 110)


def test_comparison_replaces_a_former_one_and_nothing_else(plain, tmp_path):
    a = plain(tmp_path / "a", range(6))
    compare([a, a], tmp_path / "out")
    compare([a, a], tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"^Expected an empty folder or one with compare.json"):
        compare([a, a], a)


def test_without_a_folder_nothing_is_written(plain, tmp_path):
    a = plain(tmp_path / "a", range(6))
    before = sorted(tmp_path.rglob("*"))
    compare([a, a])
    assert sorted(tmp_path.rglob("*")) == before


# === Text ===
def test_text_is_no_wider_than_a_terminal(written):
    _, comparison = written
    lines = format_comparison(comparison).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].split()[:2] == ["card", "light"]
    assert lines[1].endswith("  ...-network-with-attention")  # its last 23 letters
    assert lines[2].split() == ["images", "30", "of", "test", "30", "of", "test", "30", "of", "test"]


def test_five_folders_stand_in_two_blocks(plain, tmp_path):
    a = plain(tmp_path / "a", range(6))
    lines = format_comparison(compare([a] * 5)).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split() for line in lines if line.startswith("images")] == [
        ["images", *["6", "of", "test"] * 3],
        ["images", *["6", "of", "test"] * 2],
    ]


def test_text_holds_scores_and_differences(row, folder, tmp_path):
    rows = [row(number, 0.75) for number in range(30)]
    others = [row(number, 0.5) for number in range(30)]
    text = format_comparison(compare([folder(tmp_path / "a", rows), folder(tmp_path / "b", others)]))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "Dice 0.750 [0.750, 0.750] 0.500 [0.500, 0.500]" in lines
    assert "HD95 px, found 25.0 [25.0, 25.0] 50.0 [50.0, 50.0]" in lines
    assert "HD95 and ASSD are of found lesions; in pairs, of those that both found." in lines
    assert "b minus a, on 30 common images of 30 groups" in lines
    assert "Dice 0.750 -> 0.500 -0.250 [-0.250, -0.250] < 0.001" in lines
    assert "accuracy 1.000 -> 1.000 +0.000 [+0.000, +0.000] 1.000" in lines
    assert "macro AUC 1.000 -> 1.000 +0.000 [+0.000, +0.000] n/a" in lines


def test_model_that_knows_what_it_is_scored_on_is_warned_of_first(row, folder, tmp_path):
    knowing = [row(number, 0.9, known=number >= 12) for number in range(30)]
    others = [row(number, 0.5, known=False) for number in range(30)]
    comparison = compare([folder(tmp_path / "a", knowing), folder(tmp_path / "b", others)])
    (warning,) = comparison["warnings"]
    assert warning.startswith(
        "a: 18 of 30 scored images, or copies of them, were used to train or calibrate this model"
    )
    (one,) = comparison["differences"]
    assert (one["known"], one["unseen"]["images"]) == ({"a": 18, "b": 0}, 12)
    text = format_comparison(comparison)
    assert text.startswith("WARNING: a: 18 of 30 scored images")
    assert "b minus a, on 30 common images of 30 groups; a was trained on 18 of them, b on 0\n" in text
    assert "The same on the 12 of them that neither is recorded to be trained on\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_models_without_a_record_of_their_training_images_are_named_last(plain, tmp_path):
    comparison = compare([plain(tmp_path / "a"), plain(tmp_path / "b")])
    assert comparison["warnings"] == []
    assert format_comparison(comparison).endswith("\nUnknown: the training images of a and b.")


def test_dataset_without_classes_or_normals_is_compared_by_its_masks(row, folder, tmp_path):
    rows = [row(number) | {"label": None} for number in range(9) if number % 3 != 2]
    a, b = folder(tmp_path / "a", rows), folder(tmp_path / "b", rows)
    text = format_comparison(compare([a, b], tmp_path / "out"))
    assert "Dice" in text
    assert "accuracy" not in text
    assert "clean normals" not in text


# === Real folders ===
class Bright:
    """Predicts like the echo model, without Keras: what is brighter than half is lesion, and all is benign."""

    task, classes, operating_point, path = Task.ULTRASOUND, CLASSES, None, None
    read = staticmethod(read_image)

    def predict(self, image):
        bright = (image > 127).astype(np.uint8)
        return Prediction("benign", np.float32([0.2, 0.5, 0.3]), bright, bright.astype(np.float32))

    def try_batch(self, images):
        return [self.predict(image) for image in images]


def test_evaluations_of_phantoms_are_compared(tmp_path, phantom_samples, monkeypatch):
    monkeypatch.setattr("busseg.evaluation.scoring.draw_review_sheet", lambda *_: None)  # slow, and not asked here
    evaluate(Bright(), {"test": phantom_samples[::10]}, tmp_path / "a")
    evaluate(Bright(), {"all": phantom_samples[:11:10]}, tmp_path / "b")
    comparison = compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out", names=["all", "fewer"])
    (one,) = comparison["differences"]
    assert (one["images"], one["only_a"], one["only_b"]) == (2, 1, 0)
    assert {paired["difference"] for paired in one["differences"].values()} == {0}
    assert comparison["notes"] == [
        "The parts differ: all test, fewer all.",
        "fewer and all are compared on 2 common images; 1 only in all.",
    ]
