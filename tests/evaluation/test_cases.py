import base64
import io

import numpy as np
import pytest
from PIL import Image

from busseg.data.sample import Sample
from busseg.evaluation.cases import choose_cases, choose_slides, draw_cases
from busseg.imaging.images import write_image
from busseg.inference.overlay import LESION_RGB, TRUTH_RGB


def row(name, dice=None, label="benign", **values):
    clean = None if dice is not None else True
    return {"file": name, "label": label, "dice": dice, "clean": clean, "true_px": 0, "predicted_px": 0} | values


def lesions(count, label="benign"):
    """Lesions of Dice 0.01, 0.02, ... in no order; their names are their ranks."""
    order = np.random.default_rng(0).permutation(np.arange(1, count + 1))
    return [row(str(rank), dice=rank / 100, label=label) for rank in order]


def chosen(rows):
    return {title: [one["file"] for one in candidates[:count]] for title, count, candidates in choose_cases(rows)}


def slide(name, label, p_malignant):
    predicted = "malignant" if p_malignant > 0.5 else "benign"
    return {
        "file": name,
        "label": label,
        "predicted": predicted,
        "p_benign": 1 - p_malignant,
        "p_malignant": p_malignant,
    }


# === Choice ===
def test_each_class_shows_its_worst_median_and_best():
    assert chosen([*lesions(21, "malignant"), *lesions(9)]) == {
        "Benign: worst of those found": ["1", "2", "3"],
        "Benign: median": ["5", "4", "6"],  # of nine, the fifth
        "Benign: best": ["9", "8", "7"],
        "Malignant: worst of those found": ["1", "2", "3"],
        "Malignant: median": ["11", "10", "12"],
        "Malignant: best": ["21", "20", "19"],
    }


def test_slides_of_each_class_show_the_surest_wrong_and_right_ones():
    rows = [slide(str(p), "malignant", p / 100) for p in (10, 30, 20, 40, 95, 60)] + [slide("b", "benign", 0.2)]
    chosen = {title: [one["file"] for one in candidates[:count]] for title, count, candidates in choose_slides(rows)}
    assert chosen == {
        "Benign: classified correctly, the most confident first": ["b"],
        "Malignant: classified wrongly, the most confident first": ["10", "20", "30"],
        "Malignant: classified correctly, the most confident first": ["95", "60"],
    }


def test_slides_are_drawn_as_they_are_in_colour(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 0] = 200
    write_image(tmp_path / "red.png", pixels)
    sample = Sample("red.png", tmp_path / "red.png", (), "benign", "1")
    ((title, (case,)),) = draw_cases(tmp_path, [slide("red.png", "benign", 0.9)], [sample])
    assert title == "Benign: classified wrongly, the most confident first"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(case["src"].partition(",")[2]))).convert("RGB"))
    assert shown.shape[1] / shown.shape[0] == 30 / 20
    assert np.abs(shown.reshape(-1, 3).mean(axis=0) - (200, 0, 0)).max() < 10


def test_few_lesions_are_all_shown():
    assert chosen(lesions(8)) == {"Benign: all that were found, from the worst to the best": list("12345678")}


def test_lesions_without_a_class_are_a_kind_of_their_own():
    assert list(chosen(lesions(9, None))) == ["Lesions: worst of those found", "Lesions: median", "Lesions: best"]


def test_missed_lesions_stand_apart_from_the_worst():
    rows = [row(str(px), dice=0.0, true_px=px) for px in (30, 500, 10, 200)] + [row("found", dice=0.1)]
    assert chosen(rows) == {
        "Benign: all that were found, from the worst to the best": ["found"],
        "Missed lesions, the largest first": ["500", "200", "30"],
    }


def test_false_alarms_are_the_normal_images_with_something_marked():
    rows = [row(str(px), label="normal", clean=px == 0, predicted_px=px) for px in (0, 7, 90, 3, 50)]
    assert chosen(rows) == {"False alarms, the largest first": ["90", "50", "7"]}


@pytest.mark.parametrize("rows", [[], [row("clean", label="normal")]])
def test_without_a_lesion_or_an_alarm_there_is_nothing_to_show(rows):
    assert choose_cases(rows) == []


# === Drawing ===
def disk(x):
    rows, columns = np.ogrid[:200, :240]
    return np.uint8((rows - 100) ** 2 + (columns - x) ** 2 < 40**2)


@pytest.fixture
def scans(tmp_path):
    """Four lesions of rising Dice, all alike: true on the left, predicted on the right. `(folder, rows, samples)`."""
    rows, samples = [], []
    for number in range(4):
        name = f"benign/scan ({number}).png"
        write_image(tmp_path / "data" / name, np.full((200, 240), 60, np.uint8))
        write_image(tmp_path / "data" / f"{number}_mask.png", disk(80) * 255)
        write_image(tmp_path / "scores" / "masks" / name, disk(160) * 255)
        paths = tmp_path / "data" / name, (tmp_path / "data" / f"{number}_mask.png",)
        samples.append(Sample(name, *paths, "benign", str(number)))
        rows.append(row(name, dice=0.2 * (number + 1), mask=f"masks/{name}"))
    return tmp_path / "scores", rows, samples


def names(drawn):
    return [case["row"]["file"] for _, cases in drawn for case in cases]


def pixels_of(case):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(case["src"].partition(",")[2])))).astype(int)


def count(pixels, color):
    return int(np.sum(np.abs(pixels - color).max(axis=-1) < 90))


def test_picture_is_the_image_and_beside_it_both_outlines(scans):
    ((_, cases),) = draw_cases(*scans)
    pixels = pixels_of(cases[0])
    assert pixels.shape == (200, 240 + 8 + 240, 3)
    image, gap, overlay = pixels[:, :236], pixels[:, 242:246], pixels[:, 250:]
    assert np.abs(image - 60).max() < 20
    assert np.abs(gap - 255).max() < 20
    left, right = overlay[:, :120], overlay[:, 120:]
    # An outline of a disk with a radius of 40 pixels is 250 pixels long.
    assert (count(left, TRUTH_RGB) > 100, count(left, LESION_RGB) > 100) == (True, False)
    assert (count(right, TRUTH_RGB) > 100, count(right, LESION_RGB) > 100) == (False, True)


def test_pictures_are_no_wider_than_a_phone_needs(scans):
    folder, rows, samples = scans
    write_image(samples[0].image, np.full((300, 1000), 60, np.uint8))
    for path in (*samples[0].masks, folder / rows[0]["mask"]):
        write_image(path, np.zeros((300, 1000), np.uint8))
    ((_, cases),) = draw_cases(folder, rows[:1], samples)
    assert pixels_of(cases[0]).shape == (round(300 * 560 / 2008), 560, 3)


def test_masks_are_looked_for_where_the_table_says(scans):
    folder, rows, samples = scans
    (folder / "masks").rename(folder / "fold-0")
    assert draw_cases(folder, rows, samples) == []
    moved = [one | {"mask": one["mask"].replace("masks", "fold-0")} for one in rows]
    assert len(names(draw_cases(folder, moved, samples))) == 4


def lose_image(folder, row, sample):
    sample.image.unlink()


def break_image(folder, row, sample):
    sample.image.write_bytes(b"no image")


def lose_true_mask(folder, row, sample):
    sample.masks[0].unlink()


def resize_predicted_mask(folder, row, sample):
    write_image(folder / row["mask"], np.zeros((10, 10), np.uint8))


def lose_predicted_mask(folder, row, sample):
    (folder / row["mask"]).unlink()


def forget_mask(folder, row, sample):
    row["mask"] = None


DAMAGES = [lose_image, break_image, lose_true_mask, resize_predicted_mask, lose_predicted_mask, forget_mask]


@pytest.mark.parametrize("damage", DAMAGES)
def test_image_that_cannot_be_drawn_gives_way_to_the_next(scans, damage, monkeypatch):
    folder, rows, samples = scans
    monkeypatch.setattr("busseg.evaluation.cases.choose_cases", lambda rows: [("worst", 2, rows)])
    assert names(draw_cases(folder, rows, samples)) == [rows[0]["file"], rows[1]["file"]]
    damage(folder, rows[0], samples[0])
    assert names(draw_cases(folder, rows, samples)) == [rows[1]["file"], rows[2]["file"]]


def test_images_of_no_sample_are_passed_over(scans):
    folder, rows, samples = scans
    assert names(draw_cases(folder, rows, samples[2:])) == [one["file"] for one in rows[2:]]
    assert draw_cases(folder, rows, []) == []
