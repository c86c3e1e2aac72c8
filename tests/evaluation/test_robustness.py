import numpy as np
import pytest

from busseg.data.sample import Sample
from busseg.data.task import Task
from busseg.evaluation.robustness import (
    FIELDS,
    PERTURBATIONS,
    SCORES,
    STRENGTHS,
    describe,
    format_robustness,
    measure_robustness,
    perturb,
    read_robustness,
    summarise_robustness,
    write_robustness,
)
from busseg.evaluation.scores import point_scores
from busseg.imaging.images import write_image

CASES = [("none", 0), *((name, strength) for name in PERTURBATIONS for strength in STRENGTHS)]


def square(value, background=0):
    """32 x 32 pixels of `background`, but for 8 x 10 of `value`, left of and above the middle."""
    pixels = np.full((32, 32), background, np.uint8)
    pixels[4:12, 2:12] = value
    return pixels


def scan(folder, name, image, mask, label):
    """Write an image and its mask; return them as a sample."""
    paths = folder / f"{name}.png", folder / f"{name}_mask.png"
    write_image(paths[0], image)
    write_image(paths[1], mask)
    return Sample(f"{name}.png", paths[0], (paths[1],), label, f"group of {name}")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Three scans that the echo model answers rightly: a lesion of 200 on 30, a dark normal one, a light lesion."""
    folder = tmp_path_factory.mktemp("scans")
    return [
        scan(folder, "lesion", square(200, 30), square(255), "normal"),
        scan(folder, "empty", square(50, 50), square(0), "normal"),
        scan(folder, "light", np.full((32, 32), 200, np.uint8), np.full((32, 32), 255, np.uint8), "benign"),
    ]


@pytest.fixture(scope="module")
def rows(predictor, samples):
    return measure_robustness(predictor, samples)


def of_case(rows, perturbation, strength, file):
    (row,) = [r for r in rows if (r["perturbation"], r["strength"], r["file"]) == (perturbation, strength, file)]
    return row


# === Perturbations ===
@pytest.mark.parametrize("perturbation", [name for name in PERTURBATIONS if name != "flip"])
def test_strengths_lead_ever_further_from_the_image(perturbation):
    image = np.random.default_rng(0).integers(0, 256, (60, 80)).astype(np.uint8)
    changed = [perturb(image, perturbation, strength, "a.png") for strength in STRENGTHS]
    assert {(one.shape, one.dtype) for one in changed} == {((60, 80), np.dtype(np.uint8))}
    distances = [np.abs(one - image.astype(float)).mean() for one in changed]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_contrast_is_scaled_about_the_mean():
    image = np.uint8([[40, 80], [120, 160]])  # mean 100
    assert perturb(image, "contrast", 2, "").tolist() == [[70, 90], [110, 130]]  # 100 - 60 / 2, 100 - 20 / 2, ...


@pytest.mark.parametrize(("strength", "levels"), [(1, 20), (2, 40), (3, 60)])
def test_brightness_is_taken_away_and_ends_at_black(strength, levels):
    image = np.uint8([[0, 10, 50, 255]])
    expected = [[0, 0, max(0, 50 - levels), 255 - levels]]
    assert perturb(image, "brightness", strength, "").tolist() == expected


def test_blur_spreads_a_line_by_its_sigma():
    image = np.zeros((9, 65), np.uint8)
    image[:, 32] = 255
    heights = [perturb(image, "blur", strength, "")[4, 32] for strength in STRENGTHS]
    expected = [255 / (sigma * np.sqrt(2 * np.pi)) for sigma in (1, 2, 4)]  # 101.7, 50.9, 25.4
    assert heights == pytest.approx(expected, abs=2)  # OpenCV cuts the Gaussian at three sigma
    flat = np.full((9, 9), 77, np.uint8)
    assert (perturb(flat, "blur", 3, "") == flat).all()


def test_down_sampling_averages_blocks():
    image = np.zeros((16, 16), np.uint8)
    image[:, :8] = 200
    assert perturb(image, "down-sampling", 3, "")[0, [0, -1]].tolist() == [200, 0]  # two blocks of 8, then enlarged
    checks = np.indices((16, 16)).sum(axis=0) % 2 * 200
    assert (perturb(checks.astype(np.uint8), "down-sampling", 1, "") == 100).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 5)])
@pytest.mark.parametrize(("perturbation", "strength"), CASES[1:])
def test_smallest_images_are_changed_without_an_error(shape, perturbation, strength):
    assert perturb(np.full(shape, 128, np.uint8), perturbation, strength, "a.png").shape == shape


def test_speckle_is_in_proportion_to_the_grey_value():
    dark, light = (perturb(np.full((200, 200), grey, np.uint8), "speckle", 2, "a.png") for grey in (50, 100))
    assert light.std() == pytest.approx(0.1 * 100, rel=0.05)
    assert dark.std() == pytest.approx(0.1 * 50, rel=0.05)
    assert light.mean() == pytest.approx(100, abs=1)
    assert (perturb(np.zeros((20, 20), np.uint8), "speckle", 3, "a.png") == 0).all()


def test_speckle_comes_in_grains_wider_than_deep():
    noise = perturb(np.full((300, 300), 128, np.uint8), "speckle", 3, "a.png") - 128.0
    across, along = (
        np.mean(noise[3:, 3:] * other) / noise.var() for other in (noise[3:, :-3], noise[:-3, 3:])
    )  # three pixels apart, of a Gaussian of sigma s: exp(-(3 / 2 s)^2)
    assert across == pytest.approx(np.exp(-((3 / (2 * 3.0)) ** 2)), abs=0.05)
    assert along == pytest.approx(np.exp(-((3 / (2 * 1.5)) ** 2)), abs=0.05)


def test_speckle_is_told_by_the_name_alone():
    image = np.full((32, 32), 128, np.uint8)
    noise = perturb(image, "speckle", 2, "benign/a.png")
    assert (perturb(image, "speckle", 2, "benign/a.png") == noise).all()
    assert (perturb(image, "speckle", 2, "benign/b.png") != noise).any()


@pytest.mark.parametrize(
    ("strength", "expected"), [(1, [[2, 1], [4, 3]]), (2, [[3, 4], [1, 2]]), (3, [[4, 3], [2, 1]])]
)
def test_flip_is_its_own_undoing(strength, expected):
    image = np.uint8([[1, 2], [3, 4]])
    flipped = perturb(image, "flip", strength, "")
    assert flipped.tolist() == expected
    assert (perturb(flipped, "flip", strength, "") == image).all()


def test_amounts_are_readable():
    levels = {name: [describe(name, strength) for strength in STRENGTHS] for name in PERTURBATIONS}
    assert levels == {
        "contrast": ["x0.7", "x0.5", "x0.3"],
        "brightness": ["-20", "-40", "-60"],
        "blur": ["sigma 1 px", "sigma 2 px", "sigma 4 px"],
        "speckle": ["sd 0.05", "sd 0.1", "sd 0.2"],
        "down-sampling": ["to 1/2", "to 1/4", "to 1/8"],
        "flip": ["horizontal", "vertical", "both"],
    }


# === Measuring ===
def test_every_image_has_a_row_for_each_case(rows, samples):
    assert [(row["file"], row["perturbation"], row["strength"]) for row in rows] == [
        (sample.name, *case) for sample in samples for case in CASES
    ]
    assert {tuple(row) for row in rows} == {FIELDS}
    assert {row["error"] for row in rows} == {None}
    assert rows[0]["level"] is None
    assert rows[0]["group"] == "group of lesion"


@pytest.mark.parametrize(("strength", "levels"), [(0, 0), (1, 20), (2, 40), (3, 60)])
def test_brightness_lowers_the_probability_by_the_levels_taken(rows, strength, levels):
    row = of_case(rows, "brightness" if strength else "none", strength, "light.png")
    mean = (200 - levels) / 255  # the echo model's label is (1 - mean, mean, 0)
    assert [row["p_normal"], row["p_benign"], row["p_malignant"]] == pytest.approx([1 - mean, mean, 0], abs=1e-6)
    assert row["predicted"] == "benign"  # down to 140 / 255
    assert (row["dice"], row["predicted_px"]) == (1, 32 * 32)  # 140 is still above one half of 255


def test_contrast_takes_the_lesion_below_the_threshold(rows):
    # Mean of `lesion`: 30 + 80 * 170 / 1024 = 43.3; the lesion at x0.7 is 153, at x0.5 it is 122 < 127.5.
    lesions = [of_case(rows, "contrast", strength, "lesion.png") for strength in STRENGTHS]
    assert [row["dice"] for row in lesions] == [1, 0, 0]
    assert [row["predicted_px"] for row in lesions] == [80, 0, 0]


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("file", ["lesion.png", "empty.png", "light.png"])
def test_flip_leaves_the_echo_model_as_it_is(rows, strength, file):
    # Its lesion lies in a corner, so a mask that was not flipped back would score Dice 0.
    flipped, plain = of_case(rows, "flip", strength, file), of_case(rows, "none", 0, file)
    for name in ("predicted", "dice", "clean", "true_px", "predicted_px"):
        assert flipped[name] == plain[name]
    assert flipped["p_benign"] == pytest.approx(plain["p_benign"], abs=1e-6)


def test_image_without_a_lesion_is_clean_or_not(rows):
    row = of_case(rows, "blur", 3, "empty.png")
    assert (row["dice"], row["clean"], row["true_px"], row["predicted_px"]) == (None, True, 0, 0)


def test_order_of_the_images_changes_no_score(predictor, samples, rows):
    backwards = measure_robustness(predictor, samples[::-1])
    key = ("file", "perturbation", "strength")
    expected = {tuple(row[name] for name in key): row for row in rows}
    for row in backwards:
        assert row == pytest.approx(expected[tuple(row[name] for name in key)], abs=1e-6)


def test_batches_are_full_whatever_the_number_of_perturbations(predictor, samples):
    sizes = []

    class Counting:
        task = Task.ULTRASOUND

        def try_batch(self, images):
            sizes.append(len(images))
            return predictor.try_batch(images)

    measure_robustness(Counting(), samples)
    assert sorted(sizes) == [1, *[8] * 7]  # 3 images of 19 cases, in batches of 8


def test_unreadable_image_gets_one_row_and_the_others_go_on(tmp_path, predictor, samples, rows):
    (tmp_path / "broken.png").write_bytes(b"")
    broken = Sample("broken.png", tmp_path / "broken.png", (), "benign", "broken")
    some = measure_robustness(predictor, [samples[0], broken, samples[1]])
    (failure,) = [row for row in some if row["error"]]
    assert (failure["file"], failure["perturbation"], failure["strength"]) == ("broken.png", "none", 0)
    assert failure["error"] == f"Expected an image, found an empty file (0 bytes): {tmp_path / 'broken.png'}"
    assert (failure["dice"], failure["predicted"]) == (None, None)
    assert len(some) == 2 * len(CASES) + 1
    assert {case["images"] for case in summarise_robustness(some)} == {2}


def test_only_unreadable_images_leave_nothing_to_sum_up(tmp_path, predictor):
    rows = measure_robustness(predictor, [Sample("a.png", tmp_path / "a.png", (), None, "a")])
    assert [bool(row["error"]) for row in rows] == [True]
    assert summarise_robustness(rows) == []


def test_progress_counts_images(predictor, samples):
    seen = []
    measure_robustness(predictor, samples[:2], progress=lambda items: (seen.append(item) or item for item in items))
    assert seen == samples[:2]


# === The table ===
def test_rows_are_read_back_to_the_last_digit(tmp_path, rows):
    unreadable = dict.fromkeys(FIELDS) | {"file": "ü, 1.png", "perturbation": "none", "strength": 0, "error": "Why"}
    write_robustness(tmp_path / "new" / "robustness.csv", [*rows, unreadable])
    assert read_robustness(tmp_path / "new" / "robustness.csv") == [*rows, unreadable]


def test_table_says_what_a_row_holds(tmp_path, rows):
    write_robustness(tmp_path / "robustness.csv", rows)
    header, first, *_ = (tmp_path / "robustness.csv").read_text().splitlines()
    assert header == (
        "file,group,label,perturbation,strength,level,predicted,p_normal,p_benign,p_malignant,"
        "dice,clean,true_px,predicted_px,error"
    )
    assert first.startswith("lesion.png,group of lesion,normal,none,0,,normal,0.8")


@pytest.mark.parametrize(
    ("column", "text"), [("dice", "much"), ("strength", "1.5"), ("clean", "perhaps"), ("p_benign", "?")]
)
def test_table_of_other_things_is_refused(tmp_path, rows, column, text):
    path = tmp_path / "robustness.csv"
    write_robustness(path, [rows[0] | {column: text}])
    with pytest.raises(ValueError, match=rf"^Expected numbers in the table of robustness, .*{path}$"):
        read_robustness(path)


def test_table_that_lacks_a_column_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("file,dice\nx.png,1\n")
    with pytest.raises(ValueError, match="Expected the column 'group'"):
        read_robustness(tmp_path / "a.csv")


# === Summing up ===
def test_summary_is_in_the_order_of_the_table_whatever_that_of_the_rows(rows):
    summary = summarise_robustness(rows[::-1])
    assert [(case["perturbation"], case["strength"]) for case in summary] == CASES
    assert [case["level"] for case in summary[:3]] == [None, "x0.7", "x0.5"]
    assert {case["images"] for case in summary} == {3}


def test_scores_are_those_of_the_evaluation(rows):
    for case in summarise_robustness(rows):
        mine = [
            row for row in rows if (row["perturbation"], row["strength"]) == (case["perturbation"], case["strength"])
        ]
        lacking = dict.fromkeys(
            ("iou", "sensitivity", "precision", "nsd", "hd95_px", "assd_px", "width_px", "height_px")
        )
        expected = point_scores([lacking | row for row in mine])
        assert case["scores"] == {name: expected[name] for name in SCORES}


def test_change_is_the_difference_to_the_images_as_they_are(rows):
    summary = {(case["perturbation"], case["strength"]): case for case in summarise_robustness(rows)}
    assert summary["none", 0]["scores"] == {
        "dice": 1, "accuracy": 1, "macro_auc": None, "clean_normal_rate": 1, "missed_rate": 0,
    }  # fmt: skip
    assert set(summary["none", 0]["change"].values()) == {0, None}
    # At x0.5 the lesion of 200 on 30 is lost; the light one keeps its grey values, which are all its mean.
    assert summary["contrast", 2]["scores"]["dice"] == pytest.approx((0 + 1) / 2)
    assert summary["contrast", 2]["change"] == {
        "dice": pytest.approx(-0.5), "accuracy": 0, "macro_auc": None, "clean_normal_rate": 0,
        "missed_rate": pytest.approx(0.5),
    }  # fmt: skip


def test_dataset_without_classes_has_no_scores_of_them(rows):
    (case, *_) = summarise_robustness([row | {"label": None} for row in rows])
    assert case["scores"] == {
        "dice": 1, "accuracy": None, "macro_auc": None, "clean_normal_rate": 1, "missed_rate": 0,
    }  # fmt: skip


def test_text_shows_scores_and_changes(rows):
    lines = format_robustness(summarise_robustness(rows)).splitlines()
    assert len(lines) == 1 + len(CASES)
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["Dice", "accuracy", "macro", "AUC", "clean", "normals", "missed"]
    assert lines[1].split() == ["as", "they", "are", "1.000", "1.000", "n/a", "1.000", "0.000"]
    contrast = "contrast x0.7 1.000 (+0.000) 1.000 (+0.000) n/a 1.000 (+0.000) 0.000 (+0.000)"
    assert " ".join(lines[2].split()) == contrast
    assert " ".join(lines[3].split()) == "x0.5 0.500 (-0.500) 1.000 (+0.000) n/a 1.000 (+0.000) 0.500 (+0.500)"


def test_images_of_all_sizes_are_measured(predictor, phantom_samples):
    rows = measure_robustness(predictor, phantom_samples[::10])  # a benign, a malignant, a normal one
    summary = summarise_robustness(rows)
    assert len(rows) == 3 * len(CASES)
    assert {case["images"] for case in summary} == {3}
    assert all(0 <= case["scores"][name] <= 1 for case in summary for name in SCORES)
