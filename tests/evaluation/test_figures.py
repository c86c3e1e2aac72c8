import numpy as np
import pytest
from PIL import Image

from busseg.data.sample import CLASSES, Sample
from busseg.evaluation.figures import draw_confusion, draw_review_sheet
from busseg.imaging.images import write_image
from busseg.inference.overlay import LESION_RGB, TRUTH_RGB


def pixels_of(path):
    """Open a PNG and decode all of it: array `(height, width, 3)`."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count(pixels, color):
    """Pixels of a colour, within what interpolation mixes in."""
    return int(np.sum(np.all(np.abs(pixels - np.float32(color)) < 45, axis=-1)))


def count_hue(pixels, color):
    """Pixels of a line's hue, however much of the grey below shines through."""
    tint, wanted = (np.float32(c) - np.min(c, axis=-1, keepdims=True) for c in (pixels, color))
    strength = np.linalg.norm(tint, axis=-1)
    alike = tint @ wanted > 0.97 * strength * np.linalg.norm(wanted)
    return int(np.sum(alike & (strength > 80)))


def scan(folder, name, seen=False, lesion=False, label=None):
    """A sample: grey, with a bright disk (which `echo_model` takes for a lesion) and a true one beside it if wished."""
    rows, columns = np.ogrid[:300, :400]
    image, mask = np.full((300, 400), 60, np.uint8), np.zeros((300, 400), np.uint8)
    image[(rows - 150) ** 2 + (columns - 120) ** 2 < (60 * seen) ** 2] = 230
    mask[(rows - 150) ** 2 + (columns - 280) ** 2 < (60 * lesion) ** 2] = 255
    write_image(folder / f"{name}.png", image)
    write_image(folder / f"{name}_mask.png", mask)
    return Sample(f"{name}.png", folder / f"{name}.png", (folder / f"{name}_mask.png",), label, name)


# === Review sheet ===
@pytest.mark.parametrize("rows", [1, 3, 12])
def test_sheet_has_a_row_a_sample(tmp_path, predictor, rows):
    samples = [scan(tmp_path, str(number), seen=True, label="benign") for number in range(rows)]
    draw_review_sheet(predictor, samples, tmp_path / "sheet.png")
    height, width, _ = pixels_of(tmp_path / "sheet.png").shape
    assert width == 12 * 110  # inches by dots
    assert height == pytest.approx((2.6 * rows + 0.6) * 110, abs=1)


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("lesion", [False, True])
def test_sheet_outlines_what_is_true_and_what_is_predicted(tmp_path, predictor, seen, lesion):
    draw_review_sheet(predictor, [scan(tmp_path, "a", seen, lesion, "benign")], tmp_path / "sheet.png")
    sheet = pixels_of(tmp_path / "sheet.png")
    # Outlines of a disk with a radius of 60 pixels, drawn at about two thirds of their size.
    assert (count_hue(sheet, LESION_RGB) > 100) is seen
    assert (count_hue(sheet, TRUTH_RGB) > 100) is lesion


def test_sheet_shows_image_masks_and_overlay_from_left_to_right(tmp_path, predictor):
    draw_review_sheet(predictor, [scan(tmp_path, "a", True, True, "benign")], tmp_path / "sheet.png")
    panels = np.array_split(pixels_of(tmp_path / "sheet.png"), 4, axis=1)
    image_grey = (60, 60, 60)
    assert [count(panel, image_grey) > 5000 for panel in panels] == [True, False, False, True]
    assert [count(panel, (0, 0, 0)) > 5000 for panel in panels] == [False, True, True, False]
    assert [count_hue(panel, LESION_RGB) > 100 for panel in panels] == [False, False, False, True]
    assert [count_hue(panel, TRUTH_RGB) > 100 for panel in panels] == [False, False, False, True]


def test_wrong_class_is_told_in_red(tmp_path, predictor):
    red = {}
    for label in ("normal", "malignant", None):  # a dark image is called normal
        draw_review_sheet(predictor, [scan(tmp_path, "a", label=label)], tmp_path / "sheet.png")
        red[label] = count(pixels_of(tmp_path / "sheet.png"), (255, 0, 0))
    assert red["malignant"] > 20
    assert (red["normal"], red[None]) == (0, 0)


# === Confusion matrix ===
@pytest.mark.parametrize("confusion", [[[5, 1, 0], [2, 9, 3], [0, 0, 4]], [[0, 0, 0]] * 3, np.eye(3, dtype=int) * 1000])
def test_confusion_is_a_picture(tmp_path, confusion):
    draw_confusion(confusion, CLASSES, tmp_path / "new" / "confusion.png")
    height, width, _ = pixels_of(tmp_path / "new" / "confusion.png").shape
    assert (width, height) == (484, 418)  # 4.4 x 3.8 inches at 110 dots


def test_confusion_is_darkest_where_all_of_a_class_lie(tmp_path):
    dark, white = (8, 48, 107), (247, 251, 255)  # the ends of the colour map
    draw_confusion([[9, 0, 0], [0, 4, 0], [0, 0, 1]], CLASSES, tmp_path / "all.png")
    draw_confusion([[0, 0, 0]] * 3, CLASSES, tmp_path / "none.png")
    diagonal, nothing = pixels_of(tmp_path / "all.png"), pixels_of(tmp_path / "none.png")
    assert count(diagonal, dark) > 3 * 5000
    assert count(nothing, dark) < 2000  # writing alone
    assert count(nothing, white) > count(diagonal, white)
