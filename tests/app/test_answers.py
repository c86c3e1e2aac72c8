import base64
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from busseg.app.answers import Answer, answer_file, answer_frame, at_threshold, explain, facts, overlay, segmentation
from busseg.app.views import view_facts
from busseg.data.sample import CLASSES
from busseg.imaging.images import write_image
from busseg.inference.overlay import draw_overlay
from busseg.inference.prediction import Prediction
from busseg.inference.predictor import Predictor

# 3 pixels from 0.2 on, 2 from 0.5, 1 from 0.9.
MAP = np.float32([[0, 0, 0, 0], [0, 0.2, 0.5, 0.9]])


@pytest.fixture
def answer():
    prediction = Prediction("benign", np.float32([0.1, 0.7, 0.2]), np.uint8(MAP >= 0.5), MAP, 0.25, 0.5)
    return Answer("scan.png", np.full((2, 4), 90, np.uint8), prediction, CLASSES)


def pixels(address):
    """The image behind a `data:` address."""
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"), validate=True)
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_image_that_the_model_has_no_answer_to_is_an_error_that_names_it(torn_model, tmp_path):
    write_image(tmp_path / "white.png", np.full((32, 32), 255, np.uint8))
    with pytest.raises(ValueError, match=r"^Expected finite numbers from the model torn, .*white\.png$"):
        answer_file(Predictor(torn_model), tmp_path / "white.png")


# === Threshold ===
@pytest.mark.parametrize(
    ("threshold", "lesion_px", "box"),
    [(0.1, 3, (1, 1, 3, 1)), (0.5, 2, (2, 1, 2, 1)), (0.9, 1, (3, 1, 1, 1)), (1, 0, None)],
)
def test_threshold_moves_the_lesion_and_nothing_else(answer, threshold, lesion_px, box):
    moved = at_threshold(answer, threshold)
    assert (moved.prediction.lesion_px, moved.prediction.box, moved.threshold) == (lesion_px, box, threshold)
    assert (moved.prediction.label, moved.prediction.uncertainty) == ("benign", 0.25)
    assert answer.prediction.lesion_px == 2


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_threshold_out_of_its_range_is_refused(answer, threshold):
    with pytest.raises(ValueError, match="Expected a threshold above 0 and up to 1, found"):
        at_threshold(answer, threshold)


# === Facts ===
def test_facts_are_what_was_predicted(answer):
    result = json.loads(json.dumps(facts(answer)))
    mask = result.pop("mask")
    assert result == {
        "file": "scan.png", "frame": 1, "frames": 1, "label": "benign",
        "probabilities": {"normal": 0.1, "benign": 0.7, "malignant": 0.2},
        "threshold": 0.5, "width": 4, "height": 2,
        "lesion_px": 2, "lesion_mm2": None, "lesion_mm": None, "lesion_across_mm": None, "lesion_fraction": 2 / 8,
        "box": [2, 1, 2, 1],
        "contours": [[[2, 1], [4, 1], [4, 2], [2, 2]]], "uncertainty": 0.25, "ood_score": 0.5, "warning": None,
        "regions": None, "clip": None,
        "lesions": [{"area_px": 2, "area_mm2": None, "diameters_px": [1, 0], "diameters_mm": None, "box": [2, 1, 2, 1],
                     "center": [2.5, 1]}],
        "report": "Benign, probability 70.0 % (normal 10.0 %, malignant 20.0 %). Lesion: area 2 pixels, "
                  "largest diameter 1.0 pixels, across it 0.0 pixels, center at column 2, row 1.",
    }  # fmt: skip
    np.testing.assert_array_equal(pixels(mask), [[0, 0, 0, 0], [0, 0, 255, 255]])


def test_facts_warn_of_an_image_that_the_model_cannot_read(answer):
    far = Prediction("benign", np.float32([0, 1, 0]), np.uint8(MAP > 0), MAP, ood_score=1.01)
    result = facts(Answer("scan.png", answer.image, far, CLASSES))
    assert result["warning"] == "not like breast ultrasound"


# === Files ===
def test_answer_to_a_file_is_that_of_the_predictor(echo, tmp_path):
    image = np.uint8([[0, 255]] * 2).repeat(16, axis=0).repeat(16, axis=1)  # 32 x 32, as large as the model's square
    write_image(tmp_path / "half.png", image)
    answer = answer_file(echo, tmp_path / "half.png", threshold=0.25)
    assert (answer.name, answer.stem, answer.threshold) == ("half.png", "half", 0.25)
    np.testing.assert_array_equal(answer.prediction.mask, image // 255)
    np.testing.assert_allclose(answer.prediction.probabilities, [0.5, 0.5, 0], atol=1e-6)


def test_frame_that_an_image_has_not_is_refused(echo, tmp_path):
    write_image(tmp_path / "scan.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"Expected a frame of 1 to 1, found 2: .*scan\.png"):
        answer_file(echo, tmp_path / "scan.png", frame=2)


@pytest.mark.parametrize(
    ("frame", "label", "lesion_px"), [(1, "normal", 0), (2, "benign", 32 * 32), (3, "normal", 0)]
)  # 204 / 255 = 0.8 is lesion, 102 / 255 = 0.4 is none
def test_frame_of_dicom_is_answered_by_its_region_alone(echo, clip, frame, label, lesion_px):
    result = facts(answer_file(echo, clip, frame=frame))
    assert (result["label"], result["lesion_px"], result["frame"], result["frames"]) == (label, lesion_px, frame, 3)
    assert result["lesion_mm2"] == pytest.approx(lesion_px * 0.1 * 0.2)
    assert result["box"] == ((20, 4, 32, 32) if lesion_px else None)
    assert (result["width"], result["height"]) == (60, 40)


def test_what_stands_around_the_region_is_not_shown(echo, clip):
    answer = answer_file(echo, clip, frame=2)
    assert (answer.image.sum(), answer.image.shape) == (32 * 32 * 204, (40, 60))


def test_scan_without_a_region_is_answered_whole_with_a_warning(echo, write_scan, tmp_path):
    path = write_scan(tmp_path / "a.dcm", np.full((32, 32), 204, np.uint8))
    result = facts(answer_file(echo, path))
    assert (result["label"], result["regions"]) == ("benign", ())
    assert "whole frame shown, with any name on it (no region is marked)" in result["warning"]


def test_both_regions_of_a_dual_screen_are_answered_and_explained(echo, write_scan, tmp_path):
    frame = np.zeros((40, 68), np.uint8)
    frame[:24, 36:] = 255  # of 32 rows on the right: benign by 24 / 32
    path = write_scan(tmp_path / "a.dcm", frame, (0, 0, 32, 32), others=[(1, (36, 0, 32, 32))])
    answer = answer_file(echo, path)
    result = facts(answer)
    assert (result["label"], result["lesion_px"], result["box"]) == ("benign", 24 * 32, (36, 0, 32, 24))
    assert result["regions"] == ((0, 0, 32, 32), (36, 0, 32, 32))
    assert "2, each predicted separately" in view_facts(answer)
    assert pixels(explain(echo, answer)["heat"]).shape == (40, 68, 3)


def test_other_frames_are_answered_when_the_file_is_gone(echo, clip, tmp_path):
    copy = tmp_path / "clip.dcm"
    copy.write_bytes(clip.read_bytes())
    answer = answer_file(echo, copy, threshold=0.3)
    copy.unlink()
    third = answer_frame(echo, answer, 3)
    assert (third.stem, third.threshold, third.prediction.lesion_px) == ("clip_frame_3", 0.3, 32 * 32)  # 0.4 >= 0.3


def test_segmentation_refers_to_the_frame_that_was_answered(echo, clip):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    answer = answer_file(echo, clip, frame=2)
    written = pydicom.dcmread(io.BytesIO(segmentation(answer, "echo")))
    (frame,) = written.PerFrameFunctionalGroupsSequence
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedFrameNumber == 2
    assert source.ReferencedSOPInstanceUID == pydicom.dcmread(clip).SOPInstanceUID
    np.testing.assert_array_equal(written.pixel_array, answer.prediction.mask)


def test_segmentation_of_another_image_is_refused(answer):
    with pytest.raises(ValueError, match=r"Expected an answer to a DICOM file, found one to another image: scan\.png"):
        segmentation(answer, "echo")


def test_segmentation_of_a_scan_that_cannot_be_read_is_refused(echo, clip):
    answer = answer_file(echo, clip, frame=2)
    far = replace(answer.clip, frames=tuple(replace(frame, ood_score=1.5) for frame in answer.clip.frames))
    refused = r"^Expected a breast ultrasound, found an image not like breast ultrasound: clip\.dcm$"
    with pytest.raises(ValueError, match=refused):
        segmentation(replace(answer, clip=far), "echo")
    with pytest.raises(ValueError, match=refused):
        overlay(replace(answer, clip=far))


def test_overlay_is_that_of_the_command_line(answer):
    drawn = cv2.cvtColor(pixels(overlay(answer)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(drawn, draw_overlay(answer.image, answer.prediction))


def test_scan_without_a_region_is_refused_where_one_is_required(echo, write_scan, tmp_path):
    path = write_scan(tmp_path / "a.dcm", np.full((32, 32), 204, np.uint8))
    with pytest.raises(ValueError, match="Expected a DICOM file with a usable region, found that no region is marked"):
        answer_file(echo, path, require_region=True)


# === Clips ===
class Novel:
    """A predictor like `echo`, whose ood_score is twice the mean of the image / 255; it counts what it predicts."""

    def __init__(self, echo):
        self.echo, self.asked = echo, 0

    def __getattr__(self, name):
        return getattr(self.echo, name)

    def try_batch(self, images):
        self.asked += len(images)
        return [replace(result, ood_score=2 * float(result.probabilities[1])) for result in self.echo.try_batch(images)]


def moving(path, *greys):
    first, *others = (Image.fromarray(np.full((32, 32), grey, np.uint8)) for grey in greys)
    first.save(path, save_all=True, append_images=others)
    return path


def test_frame_of_a_clip_is_answered_also_when_the_file_is_gone(echo, tmp_path):
    path = moving(tmp_path / "clip.gif", 0, 204, 102)
    result = facts(answer := answer_file(echo, path, frame=2))
    assert (result["label"], result["lesion_px"], result["frame"], result["frames"]) == ("benign", 32 * 32, 2, 3)
    path.unlink()
    third = answer_frame(echo, answer, 3)
    assert (third.stem, third.prediction.lesion_px, third.scan) == ("clip_frame_3", 0, None)  # 102 / 255 is below 0.5
    with pytest.raises(ValueError, match=r"Expected an answer to a DICOM file, found one to another image: clip\.gif"):
        segmentation(third, "echo")


@pytest.mark.parametrize(("greys", "warned"), [((102, 153, 204), True), ((102, 51, 204), False)])
def test_clip_is_judged_by_the_median_of_its_frames_once(echo, tmp_path, greys, warned):
    # The ood_score is 0.8, 1.2 and 1.6, whose median is 1.2; and 0.8, 0.4 and 1.6.
    predictor = Novel(echo)
    answer = answer_file(predictor, moving(tmp_path / "clip.gif", *greys))
    # Each frame is of one grey, which is warned of, too.
    assert (facts(answer)["warning"].startswith("not like breast ultrasound"), predictor.asked) == (warned, 3)
    third = answer_frame(predictor, answer, 3)
    assert facts(third)["warning"] == "not like breast ultrasound; nearly one grey"  # by itself
    assert predictor.asked == 4


def test_long_clip_is_judged_by_frames_spread_over_it(echo, tmp_path):
    predictor = Novel(echo)
    assert answer_file(predictor, moving(tmp_path / "clip.gif", *range(100))).in_distribution
    assert predictor.asked == 9  # of 100, every twelfth


# === Explanation ===
def test_explanation_is_brightest_where_the_label_hangs_on(echo, tmp_path):
    image = np.zeros((32, 32), np.uint8)
    image[:, :24] = 255  # benign by 3 / 4; covering what is bright makes it less so
    write_image(tmp_path / "scan.png", image)
    result = explain(echo, answer_file(echo, tmp_path / "scan.png"))
    heat = pixels(result["heat"]).astype(int)
    assert (result["label"], heat.shape) == ("benign", (32, 32, 3))
    assert (result["probability"], result["frame"], result["frames"]) == (pytest.approx(0.75, abs=1e-6), 1, 1)
    assert result["least"] <= 0 < result["drop"] < 1  # covering what is dark makes it brighter, so more benign
    # Of OpenCV's blue, green, red: from blue to yellow, and the image adds as much to each.
    yellow = heat[..., 2] - heat[..., 0]
    assert yellow[:, :16].mean() > yellow[:, 28:].mean() + 50
