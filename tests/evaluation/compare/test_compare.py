import json

import numpy as np
import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.compare import compare
from busseg.evaluation.compare_text import format_comparison
from busseg.evaluation.summary import write_scores
from busseg.evaluation.table import fields
from busseg.storage.files import read_csv

IMAGES = 30


def dice_of(number):
    return 0.5 + 0.01 * number


# === Scores ===
def test_folder_compared_with_itself_differs_by_nothing(plain, tmp_path):
    a = plain(tmp_path / "a")
    comparison = compare([a, a])
    (one,) = comparison["differences"]
    assert (one["images"], one["groups"], one["only_a"], one["only_b"]) == (IMAGES, IMAGES, 0, 0)
    assert {"dice", "hd95_px", "accuracy", "macro_auc", "clean_normal_rate", "ece"} <= one["differences"].keys()
    for paired in one["differences"].values():
        assert (paired["difference"], paired["low"], paired["high"]) == (0, 0, 0)
        assert paired["p"] in (1, None)
    assert comparison["notes"] == []
    assert [model["name"] for model in comparison["models"]] == ["a (1)", "a (2)"]


def test_scores_and_intervals_are_those_of_the_summaries(plain, tmp_path):
    folders = [plain(tmp_path / "a"), plain(tmp_path / "b", range(12))]
    for path, model in zip(folders, compare(folders)["models"], strict=True):
        summary = json.loads((path / "summary.json").read_text())["parts"]["test"]
        for name in ("images", "groups", "scores", "intervals"):
            assert model[name] == summary[name]


def test_known_difference_is_found(row, folder, plain, tmp_path):
    better = [row(number, dice_of(number) + 0.1) for number in range(IMAGES)]
    wrong = {"predicted": "malignant", **{f"p_{name}": 0.1 for name in CLASSES}, "p_malignant": 0.8}
    better[0] |= wrong  # a benign one
    better[2] |= {"clean": False, "predicted_px": 7}  # a normal one
    (one,) = compare([plain(tmp_path / "a"), folder(tmp_path / "b", better)])["differences"]
    dice = one["differences"]["dice"]
    lesions = [number for number in range(IMAGES) if number % 3 != 2]
    assert dice["a"] == pytest.approx(np.mean([dice_of(number) for number in lesions]))
    # The same on every lesion, and so in every draw.
    assert [dice[key] for key in ("difference", "low", "high")] == pytest.approx([0.1] * 3)
    assert dice["p"] < 0.001
    assert one["differences"]["hd95_px"]["difference"] == pytest.approx(-10)  # 100 * (1 - dice)
    accuracy = one["differences"]["accuracy"]
    assert (accuracy["a"], accuracy["difference"]) == (1, pytest.approx(-1 / 30))
    assert accuracy["low"] < -1 / 30 < accuracy["high"] <= 0
    assert accuracy["p"] == 1  # one image against none: either way as likely
    assert one["differences"]["clean_normal_rate"]["difference"] == pytest.approx(-1 / 10)


def test_each_is_compared_with_the_first(row, folder, tmp_path):
    folders = [
        folder(tmp_path / name, [row(number, dice) for number in range(IMAGES)])
        for name, dice in (("a", 0.5), ("b", 0.6), ("c", 0.3))
    ]
    differences = compare(folders)["differences"]
    assert [(one["name"], one["to"]) for one in differences] == [("b", "a"), ("c", "a")]
    assert [one["differences"]["dice"]["difference"] for one in differences] == pytest.approx([0.1, -0.2])


# === Several sources ===
@pytest.fixture
def two_sources(row):
    """Function that returns the rows of ten images here and twenty there; of every patient there are two."""

    def rows(dice=dice_of, **more):
        rows = [row(number, dice(number)) | more for number in range(IMAGES)]
        for number, one in enumerate(rows):
            source = "here" if number < 10 else "there"
            one |= {"source": source, "file": f"{source}/{one['file']}", "patient": str(number // 2)}
        return rows

    return rows


@pytest.mark.slow
def test_sources_are_compared_apart_and_their_mean_counts_each_once(folder, two_sources, tmp_path):
    better = two_sources(lambda number: dice_of(number) + (0.1 if number < 10 else 0.3))
    comparison = compare([folder(tmp_path / "a", two_sources()), folder(tmp_path / "b", better)], tmp_path / "out")
    (one,) = comparison["differences"]
    assert [one["sources"][source]["images"] for source in ("here", "there")] == [10, 20]
    changes = {source: paired["differences"]["dice"]["difference"] for source, paired in one["sources"].items()}
    assert changes == pytest.approx({"here": 0.1, "there": 0.3})
    lesions = {"here": 7, "there": 13}  # every third image is normal: 2, 5, 8; and 11, 14, ... 29
    overall = (lesions["here"] * 0.1 + lesions["there"] * 0.3) / 20
    assert one["differences"]["dice"]["difference"] == pytest.approx(overall)
    assert one["mean_of_sources"]["dice"]["difference"] == pytest.approx((0.1 + 0.3) / 2)
    assert one["patients"]["patients"] == 15
    assert list(comparison["models"][0]["sources"]) == ["here", "there"]
    lines = [" ".join(line.split()) for line in format_comparison(comparison).splitlines()]
    start = lines.index("By source difference [95 % interval] p")
    dice = [np.mean([dice_of(n) for n in range(*ends) if n % 3 != 2]) for ends in ((0, 10), (10, 30))]
    assert lines[start + 1].startswith(f"Dice here {dice[0]:.3f} -> {dice[0] + 0.1:.3f} +0.100 [+0.100, +0.100]")
    assert lines[start + 2].startswith(f"there {dice[1]:.3f} -> {dice[1] + 0.3:.3f} +0.300 [+0.300, +0.300]")
    assert lines[start + 3] == f"mean of sources {np.mean(dice):.3f} -> {np.mean(dice) + 0.2:.3f} +0.200"
    assert "By patient, 15 patients" in lines
    assert max(map(len, format_comparison(comparison).splitlines())) <= 100
    table = {(r["name"], r["source"], r["score"]): r for r in read_csv(tmp_path / "out/compare.csv")}
    assert float(table["b", "there", "dice"]["difference"]) == pytest.approx(0.3)
    assert (table["b", "there", "dice"]["images"], table["b", "", "dice"]["images"]) == ("20", "30")


def test_one_source_is_compared_as_ever(plain, tmp_path):
    comparison = compare([plain(tmp_path / "a"), plain(tmp_path / "b")])
    assert comparison["differences"][0]["sources"] == {}
    assert comparison["models"][0]["sources"] == {}
    assert "By source" not in format_comparison(comparison)
    assert "By patient" not in format_comparison(comparison)


def test_evaluation_of_one_source_is_compared_with_that_of_several(folder, two_sources, tmp_path):
    alone = [one | {"file": one["file"].removeprefix("here/")} for one in two_sources()[:10]]
    several = folder(tmp_path / "several", two_sources())
    comparison = compare([folder(tmp_path / "alone", alone), several])
    (one,) = comparison["differences"]
    assert (one["images"], one["only_a"], one["only_b"]) == (10, 0, 20)
    assert one["sources"] == {}
    assert comparison["notes"] == ["several and alone are compared on 10 common images; 20 only in several."]


def test_names_that_clash_without_their_source_keep_it(folder, two_sources, tmp_path):
    numbers = [*range(10), *range(20)]
    rows = [one | {"file": f"{one['source']}/{n}.png"} for n, one in zip(numbers, two_sources(), strict=True)]
    alone = [one | {"file": one["file"].removeprefix("here/")} for one in rows[:10]]
    comparison = compare([folder(tmp_path / "alone", alone), folder(tmp_path / "several", rows)])
    assert comparison["differences"][0]["images"] == 0


# === What is read ===
@pytest.mark.parametrize(
    ("parts", "chosen"),
    [(("train", "validation", "test"), "test"), (("all",), "all"), (("validation",), "validation")],
)
def test_part_is_chosen(row, folder, tmp_path, parts, chosen):
    for name in "ab":
        folder(tmp_path / name, [row(number, part=part) for part in parts for number in range(6)])
    comparison = compare([tmp_path / "a", tmp_path / "b"])
    assert [model["part"] for model in comparison["models"]] == [chosen] * 2
    assert comparison["differences"][0]["images"] == 6


def test_several_parts_without_a_test_are_refused(row, folder, tmp_path):
    a = folder(tmp_path / "a", [row(1, part="train"), row(2, part="validation")])
    with pytest.raises(ValueError, match=r"^Expected the part test or all, found train, validation: .*summary\.json$"):
        compare([a, a])


def test_images_that_could_not_be_read_are_left_out(row, folder, plain, tmp_path):
    failed = dict.fromkeys(fields(CLASSES)) | {
        "file": "3.png",
        "part": "test",
        "group": "g3",
        "label": "benign",
        "error": "Why",
    }
    rows = [row(number) if number != 3 else failed for number in range(IMAGES)]
    comparison = compare([plain(tmp_path / "a"), folder(tmp_path / "b", rows)])
    assert comparison["differences"][0]["images"] == IMAGES - 1
    assert comparison["notes"] == [f"b and a are compared on {IMAGES - 1} common images; 1 only in a."]


@pytest.mark.parametrize("lacking", ["per_image.csv", "summary.json"])
def test_folder_that_is_no_evaluation_is_refused(plain, tmp_path, lacking):
    a, b = plain(tmp_path / "a"), plain(tmp_path / "b")
    (b / lacking).unlink()
    with pytest.raises(
        ValueError, match=rf"^Expected an evaluation or cross-validation \({lacking}\), found none: {b}$"
    ):
        compare([a, b])


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"parts": {"test": {"masks": {}, "label": null}}}', '{"parts": []}', "\u00ff"]
)
def test_summary_of_other_things_is_refused(plain, tmp_path, text):
    a = plain(tmp_path / "a")
    (a / "summary.json").write_bytes(text.encode("latin-1"))
    expected = "the scores of an evaluation|the part test or all|a JSON file|an object of JSON"
    with pytest.raises(ValueError, match=rf"^Expected ({expected}), found .*summary\.json$"):
        compare([a, a])


def test_images_with_a_copy_in_training_are_compared_apart(row, folder, plain, tmp_path):
    # b is better by 0.1 on the ten images that it was trained with a copy of, and by nothing on the others.
    copied = range(10)
    rows = [row(n, dice_of(n) + 0.1 * (n in copied), leaked=n in copied) for n in range(IMAGES)]
    comparison = compare([plain(tmp_path / "a"), folder(tmp_path / "b", rows)])
    (one,) = comparison["differences"]
    lesions, copied_lesions = 20, 7  # every third image is normal: 2, 5, 8 of the ten
    assert one["differences"]["dice"]["difference"] == pytest.approx(0.1 * copied_lesions / lesions)
    assert one["leaked"]["images"] == 10
    assert one["leaked"]["differences"]["dice"]["difference"] == pytest.approx(0.1)
    assert "The same on the 10 of them with a copy in training" in format_comparison(comparison)


def test_nothing_is_said_of_copies_where_none_is_trained_with(plain, tmp_path):
    comparison = compare([plain(tmp_path / "a"), plain(tmp_path / "b")])
    assert comparison["differences"][0]["leaked"]["differences"] == {}
    assert "copy in training" not in format_comparison(comparison)


def test_image_of_several_folds_leaks_only_where_its_fold_has_a_copy(row, folder, tmp_path):
    rows = [row(number, fold=fold, leaked=number < 5 and fold == 1) for fold in (0, 1) for number in range(IMAGES)]
    (one,) = compare([folder(tmp_path / name, rows) for name in "ab"])["differences"]
    assert (one["images"], one["leaked"]["images"]) == (2 * IMAGES, 5)


@pytest.mark.parametrize("names", [["only one"], ["same", "same"], ["a", "b", "c"]])
def test_names_must_differ_and_match_the_folders(plain, tmp_path, names):
    a = plain(tmp_path / "a")
    with pytest.raises(ValueError, match=r"^Expected a name of its own for each of 2 folders"):
        compare([a, a], names=names)


def test_one_folder_is_nothing_to_compare(plain, tmp_path):
    with pytest.raises(ValueError, match=r"^Expected at least two folders to compare, found 1"):
        compare([plain(tmp_path / "a")])


def test_file_under_two_labels_is_named(row, folder, plain, tmp_path):
    rows = [row(0, label="malignant"), *(row(number) for number in range(1, IMAGES))]
    with pytest.raises(
        ValueError, match=r"^Expected one label for each file, found benign in a and malignant in b: 0\.png$"
    ):
        compare([plain(tmp_path / "a"), folder(tmp_path / "b", rows)])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/card", "runs/light"], ["card", "light"]),
        (["card/evaluation", "light/evaluation"], ["card", "light"]),
        (["card/fold-0/evaluation", "light/fold-0/evaluation"], ["card", "light"]),
        (["card/fold-0", "card/fold-1", "light/fold-0"], ["card/fold-0", "card/fold-1", "light/fold-0"]),
        (["card", "card/evaluation"], ["card", "evaluation"]),
    ],
)
def test_names_are_the_parts_in_which_the_paths_differ(row, tmp_path, paths, names):
    folders = [tmp_path / path for path in paths]
    for path in sorted(folders):
        path.mkdir(parents=True, exist_ok=True)
        write_scores(path, [row(number) for number in range(3)])
    assert [model["name"] for model in compare(folders)["models"]] == names


# === What does not compare ===
def test_different_images_are_noted(plain, tmp_path):
    comparison = compare([plain(tmp_path / "a", range(20)), plain(tmp_path / "b", range(5, IMAGES))])
    (one,) = comparison["differences"]
    assert (one["images"], one["only_a"], one["only_b"]) == (15, 5, 10)
    note = "b and a are compared on 15 common images; 5 only in a, 10 only in b."
    assert comparison["notes"] == [note]
    assert f"Note: {note}" in format_comparison(comparison)


def test_images_of_one_name_and_another_size_are_noted(row, folder, plain, tmp_path):
    rows = [row(number, width_px=256 if number < 4 else 100) for number in range(IMAGES)]
    comparison = compare([plain(tmp_path / "a"), folder(tmp_path / "b", rows)])
    assert comparison["notes"] == [
        "b and a are compared on 26 common images; 4 only in a, 4 only in b.",
        "4 files that both hold differ in size or in the true lesion, and are not compared.",
    ]


def test_no_common_image_is_noted_and_leaves_no_difference(plain, tmp_path):
    comparison = compare([plain(tmp_path / "a", range(9)), plain(tmp_path / "b", range(9, 20))], tmp_path / "out")
    assert comparison["differences"][0]["differences"] == {}
    assert comparison["notes"] == ["b and a are compared on 0 common images; 9 only in a, 11 only in b."]
    assert "b and a have no scored image in common" in format_comparison(comparison)
    assert (tmp_path / "out" / "compare.png").is_file()


def test_file_in_several_folds_is_compared_fold_by_fold(row, folder, tmp_path):
    rows = [row(number, fold=fold) for number in range(6) for fold in (0, 1)]
    comparison = compare([folder(tmp_path / "a", rows), folder(tmp_path / "b", rows[:9])])
    assert comparison["differences"][0]["images"] == 9
    assert comparison["notes"] == [
        "b and a are compared on 9 common images; 3 only in a.",
        "Files are in several folds of b or a; only the same repeat or fold is compared.",
    ]


def test_settings_that_differ_are_noted(plain, tmp_path):
    a = plain(tmp_path / "a", protocol="grouped", seed=0, size=None, leak={"images": 0, "share": 0.0})
    b = plain(tmp_path / "b", protocol="tang", seed=1, size=256, leak={"images": 6, "share": 0.2})
    c = plain(tmp_path / "c")
    assert compare([a, b, c])["notes"] == [
        "The protocols differ: a grouped, b tang, c evaluation.",
        "The sizes of the masks that are compared differ: a native, b 256, c native.",
        "b was trained or chosen with a copy of 20.0% of its test images, so its scores may reward memorisation.",
    ]


def test_parts_that_differ_are_noted(row, folder, plain, tmp_path):
    b = folder(tmp_path / "b", [row(number, dice_of(number), part="all") for number in range(IMAGES)])
    assert compare([plain(tmp_path / "a"), b])["notes"] == ["The parts differ: a test, b all."]
