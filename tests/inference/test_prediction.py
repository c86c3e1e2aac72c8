import json
from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from busseg.data.task import Task
from busseg.imaging.polygons import fill_polygons
from busseg.inference.overlay import draw_overlay
from busseg.inference.prediction import Failure, Prediction
from busseg.inference.quality import OUT_OF_DISTRIBUTION

matplotlib.use("Agg")


# === The lesion ===
def predicted(mask, probabilities=(0, 0, 1)):
    return Prediction("malignant", np.float32(probabilities), mask, mask.astype(np.float32))


def test_lesion_is_measured_boxed_and_outlined():
    mask = np.zeros((30, 40), np.uint8)
    mask[5:9, 10:20] = 1
    mask[20:21, 2:4] = 1
    prediction = predicted(mask, (0.1, 0.2, 0.7))
    assert (prediction.lesion_px, prediction.lesion_fraction) == (42, 42 / 1200)
    assert prediction.box == (2, 5, 18, 16)
    assert prediction.confidence == pytest.approx(0.7)
    large, small = prediction.contours  # from top to bottom
    assert large.tolist() == [[10, 5], [20, 5], [20, 9], [10, 9]]
    assert small.tolist() == [[2, 20], [4, 20], [4, 21], [2, 21]]


def test_contours_of_a_lesion_with_a_hole_fill_to_its_mask():
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 10:20] = 1
    mask[8:12, 13:17] = 0
    mask[20, 30] = 1
    np.testing.assert_array_equal(fill_polygons(predicted(mask).contours, mask.shape), mask)


def test_image_without_a_lesion_has_no_box():
    prediction = predicted(np.zeros((30, 40), np.uint8))
    assert (prediction.lesion_px, prediction.box, prediction.contours) == (0, None, [])


def test_lesion_area_is_of_the_native_image():
    mask = np.zeros((10, 30), np.uint8)
    mask[:5, :6] = 1
    prediction = Prediction("benign", np.float32([0, 1, 0]), mask, mask.astype(np.float32))
    assert (prediction.lesion_px, prediction.lesion_fraction) == (30, 0.1)


def test_warnings_are_that_the_image_cannot_be_read_and_that_it_is_faint():
    probabilities = np.float32([0, 1, 0])
    warnings = [Prediction("benign", probabilities, ood_score=n, faint="very dark").warning for n in (None, 1, 1.1)]
    assert warnings == ["very dark", "very dark", "not like breast ultrasound; very dark"]


@pytest.mark.parametrize(("ood_score", "expected"), [(None, True), (0.9, True), (1.0, True), (1.1, False)])
def test_image_is_in_distribution_up_to_an_ood_score_of_one(ood_score, expected):
    mask = np.zeros((4, 4), np.uint8)
    assert Prediction("normal", np.float32([1, 0, 0]), mask, mask, ood_score=ood_score).in_distribution == expected


# === Show ===
@pytest.fixture
def whole():
    """With its image of 30 x 40 px: a lesion of 4 x 10 px, 40 / 1200 = 3.3 %, of pixels of 0.5 x 0.5 mm."""
    mask = np.zeros((30, 40), np.uint8)
    mask[5:9, 10:20] = 1
    image = np.full((30, 40), 90, np.uint8)
    return replace(predicted(mask, (0.1, 0.2, 0.7)), image=image, path=Path("scans/a.png"))


def test_repr_is_one_line_with_class_confidence_lesion_and_warnings(whole):
    assert repr(whole) == "Prediction(a.png: malignant 0.70, lesion 3.3% of the image)"
    scaled = replace(whole, path=Path("a.dcm"), frame=2, spacing_mm=(0.5, 0.5), faint="very dark", notes=("a note",))
    assert repr(scaled) == (
        "Prediction(a.dcm, frame 2: malignant 0.70, lesion 3.3% of the image (10 mm²); very dark; a note)"  # 40 / 4 mm²
    )
    assert repr(replace(whole, path=None)) == "Prediction(malignant 0.70, lesion 3.3% of the image)"
    assert repr(Prediction("benign", np.float32([0.75, 0.25]), task=Task.HISTOLOGY)) == "Prediction(benign 0.75)"


def test_repr_of_an_image_out_of_distribution_has_no_class(whole):
    unlike = replace(whole, ood_score=1.5, faint="very dark")
    assert unlike.headline == OUT_OF_DISTRIBUTION
    assert repr(unlike) == "Prediction(a.png: not like breast ultrasound; very dark)"


def test_name_of_a_file_does_not_drive_the_terminal(whole):
    name = Path("a\x1b[31m.png")
    assert repr(replace(whole, path=name)).startswith(r"Prediction(a\x1b[31m.png: ")
    assert repr(Failure("broken: a\x1b[31m.png", name)) == r"Failure(a\x1b[31m.png: broken: a\x1b[31m.png)"


def test_notebook_shows_the_overlay(whole):
    shown = cv2.imdecode(np.frombuffer(whole._repr_png_(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(shown, draw_overlay(whole.image, whole))
    assert replace(whole, image=None)._repr_png_() is None


def test_histology_is_shown_without_an_outline():
    image = np.full((30, 40, 3), 200, np.uint8)
    prediction = Prediction("benign", np.float32([0.75, 0.25]), task=Task.HISTOLOGY, image=image)
    shown = cv2.imdecode(np.frombuffer(prediction._repr_png_(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(shown[-30:], image)
    assert len(prediction.plot().lines) == 0


def test_plot_draws_image_outline_and_headline(whole):
    axes = whole.plot()
    assert axes.get_title() == whole.headline
    np.testing.assert_array_equal(axes.images[0].get_array(), whole.image)
    (outline,) = axes.patches
    x, y = outline.get_xy().T
    assert (x.min(), x.max(), y.min(), y.max()) == (9.5, 19.5, 4.5, 8.5)  # Matplotlib draws pixel 0 from -0.5 to 0.5
    np.testing.assert_array_equal(outline.get_xy()[0], outline.get_xy()[-1])  # closed


def test_plot_draws_on_the_axes_of_the_caller(whole):
    axes = Figure().subplots()
    assert whole.plot(axes) is axes


def test_prediction_without_its_image_is_not_drawn(whole):
    bare = replace(whole, image=None)
    for show in (bare.plot, lambda: bare.save("never")):
        with pytest.raises(ValueError, match=r"^Expected a prediction with its image, found one without"):
            show()
    assert not Path("never").exists()


# === Dicts ===
def test_dict_is_json_with_file_frame_and_numbers(whole):
    found = json.loads(json.dumps(replace(whole, frame=2).to_dict()))
    assert (found["file"], found["frame"], found["label"]) == (str(Path("scans/a.png")), 2, "malignant")
    assert found["probabilities"] == {"normal": 0.1, "benign": 0.2, "malignant": 0.7}
    assert (found["lesion_px"], found["box"], found["warning"]) == (40, [10, 5, 10, 4], None)
    assert replace(whole, path=None).to_dict()["file"] is None


def test_dict_of_histology_has_its_classes():
    found = Prediction("benign", np.float32([0.75, 0.25]), task=Task.HISTOLOGY).to_dict()
    assert found["probabilities"] == {"benign": 0.75, "malignant": 0.25}


def test_failure_takes_the_place_of_a_prediction():
    failure = Failure("no pixels: a.gif", Path("a.gif"), 3)
    assert repr(failure) == "Failure(a.gif, frame 3: no pixels: a.gif)"
    assert failure.to_dict() == {"file": "a.gif", "frame": 3, "error": "no pixels: a.gif"}
    assert Failure("no pixels").to_dict() == {"file": None, "error": "no pixels"}


def test_only_a_failure_has_an_error(whole):
    assert (whole.error, Failure("no pixels").error) == (None, "no pixels")
