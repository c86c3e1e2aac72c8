import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from busseg.data.phantom import draw_phantom
from busseg.data.task import Task
from busseg.imaging.dicom import Uids, read_dicom
from busseg.imaging.findings import NOT_REPORTED
from busseg.imaging.images import read_image, write_image
from busseg.inference.batch import predict_files
from busseg.inference.frames import Frame, count_frames, find_frames, frame_target, predict_frames
from busseg.inference.inputs import find_inputs, survey_inputs
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.storage.files import read_csv

highdicom = pytest.importorskip("highdicom", reason="needs busseg[dicom]")

REGION = (20, 10, 32, 32)  # left, top, width, height: the size of the model's square, so that nothing is resized
SPACING_CM = (0.02, 0.01)  # a pixel is 0.2 mm wide and 0.1 mm high: 0.02 mm2


@pytest.fixture(scope="module")
def predictor(echo_model):
    return Predictor(echo_model)


def frame_with(white, around=0):
    """A frame of 50 x 60 pixels: in its region the first `white` rows are white, around it all is grey."""
    frame = np.full((50, 60), around, np.uint8)
    left, top, width, height = REGION
    frame[top : top + height, left : left + width] = 0
    frame[top : top + white, left : left + width] = 255
    return frame


@pytest.fixture
def clip(tmp_path, write_scan):
    """A clip of three frames: 8, 24 and 32 of 32 rows are white, so that `echo_model` says normal, benign, benign."""
    pixels = np.stack([frame_with(8), frame_with(24), frame_with(32)])
    return write_scan(tmp_path / "s/clip.dcm", pixels, REGION, SPACING_CM)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def predict(predictor, *paths, out, **options):
    return list(predict_files(predictor, find_inputs(paths), out, **options))


# === Finding ===
def test_file_is_one_image_or_the_frames_of_a_clip(tmp_path, write_scan, clip):
    single = write_scan(tmp_path / "single", frame_with(8))
    write_image(tmp_path / "image.png", frame_with(8))
    scan = read_dicom(clip)
    assert find_frames(clip, Path("a/clip"), Task.ULTRASOUND) == [
        Frame(clip, Path(f"a/clip_frame00{number}"), number, scan) for number in (1, 2, 3)
    ]
    assert find_frames(single, Path("single"), Task.ULTRASOUND) == [
        Frame(single, Path("single"), scan=read_dicom(single))
    ]
    assert find_frames(tmp_path / "image.png", Path("i"), Task.ULTRASOUND) == [Frame(tmp_path / "image.png", Path("i"))]
    assert count_frames([clip, single, tmp_path / "image.png"]) == 5


def test_file_is_over_with_its_last_frame(tmp_path, clip, write_scan):
    single = write_scan(tmp_path / "single", frame_with(8))
    assert [frame.ends_file for frame in find_frames(clip, Path("clip"), Task.ULTRASOUND)] == [False, False, True]
    assert [frame.ends_file for frame in find_frames(single, Path("s"), Task.ULTRASOUND)] == [True]
    assert Frame(tmp_path / "image.png", Path("image")).ends_file


def test_broken_scan_is_one_frame_that_raises_its_error_when_read(tmp_path, predictor):
    (tmp_path / "a.dcm").write_text("hello")
    (frame,) = find_frames(tmp_path / "a.dcm", Path("a"), Task.ULTRASOUND)
    with pytest.raises(ValueError, match=r"^Expected a DICOM file, found something else: .*a\.dcm$"):
        frame.read(predictor)


@pytest.mark.parametrize(("number", "name"), [(None, "a"), ("", "a"), (7, "a_frame007"), ("12", "a_frame012")])
def test_frames_are_named_by_their_number(number, name):
    assert frame_target(Path("s/a"), number) == Path("s") / name


def test_scans_of_a_folder_are_found_by_their_content(tmp_path, write_scan):
    for name in ("IM_0001", "1.2.840.5", "1.2.840.6", "x.dcm", "deep/DICOMDIR", ".hidden"):
        write_scan(tmp_path / "s" / name, frame_with(8))
    write_image(tmp_path / "s/x.png", frame_with(8))
    (tmp_path / "s/notes.txt").touch()
    found = {str(path.relative_to(tmp_path)): str(target) for path, target in find_inputs([tmp_path / "s"]).items()}
    assert found == {
        "s/1.2.840.5": "1.2.840.5", "s/1.2.840.6": "1.2.840.6", "s/IM_0001": "IM_0001", "s/x.dcm": "x.dcm",
        "s/x.png": "x.png",
    }  # fmt: skip


def test_image_that_is_named_like_the_frame_of_a_clip_is_refused(tmp_path, clip):
    write_image(tmp_path / "s/clip_frame002.png", frame_with(8))
    write_image(tmp_path / "s/other_frame002.png", frame_with(8))
    with pytest.raises(ValueError, match=rf"one like its frame: {clip}, {tmp_path}/s/clip_frame002\.png$"):
        find_inputs([tmp_path / "s"])
    assert len(find_inputs([tmp_path / "s/clip_frame002.png", tmp_path / "s/other_frame002.png"])) == 2


def test_scans_of_another_kind_are_passed_over_unless_they_are_named(tmp_path, write_scan):
    study = tmp_path / "s"
    for name, kind in (("a", "6.1"), ("seg", "66.4"), ("overlay", "7"), ("report", "88.33"), ("ct.dcm", "2")):
        write_scan(study / name, frame_with(8), SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}")
    (study / "broken.dcm").write_text("hello")
    inputs, passed = survey_inputs([study])
    assert [path.name for path in inputs] == ["a", "broken.dcm"]  # which is to be named when it is read
    assert {path.name: kind for path, kind in passed.items()} == {
        "seg": "DICOM of Segmentation Storage", "overlay": "DICOM of Secondary Capture Image Storage",
        "report": "DICOM of Comprehensive SR Storage", "ct.dcm": "DICOM of CT Image Storage",
    }  # fmt: skip
    (row,) = find_frames(study / "ct.dcm", Path("ct"), Task.ULTRASOUND)
    assert row.error == f"Expected an ultrasound image, found CT Image Storage: {study}/ct.dcm"


def moving(path, *white):
    """A GIF or AVI of frames whose first rows are white."""
    frames = [frame_with(rows)[10:42, 20:52] for rows in white]
    if path.suffix == ".avi":
        video = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"FFV1"), 25, (32, 32))
        for frame in frames:
            video.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
        video.release()
    else:
        first, *others = map(Image.fromarray, frames)
        first.save(path, save_all=True, append_images=others)
    return path


@pytest.mark.parametrize("name", ["clip.gif", "clip.avi"])
def test_clip_that_is_no_dicom_gets_a_row_a_mask_and_an_overlay_a_frame(tmp_path, predictor, name):
    path, out = moving(tmp_path / name, 8, 24, 32), tmp_path / "out"
    rows = predict(predictor, path, out=out, json_lines=True)
    assert [(row["file"], row["frame"], row["label"], row["lesion_px"]) for row in rows] == [
        (str(path), 1, "normal", 256), (str(path), 2, "benign", 768), (str(path), 3, "benign", 1024),
    ]  # fmt: skip
    pictures = [f"clip_frame00{number}_{what}.png" for number in (1, 2, 3) for what in ("mask", "overlay")]
    assert names(out) == [*pictures, "predictions.csv", "predictions.jsonl"]
    np.testing.assert_array_equal(read_image(out / "clip_frame002_mask.png"), frame_with(24)[10:42, 20:52])
    assert count_frames([path]) == 3
    again = predict(predictor, path, out=out, json_lines=True, resume=True)
    assert again == read_csv(out / "predictions.csv")


def test_clip_that_is_no_dicom_is_judged_as_a_whole(tmp_path, told_model):
    # The ood_score is 0.5, 1.25 and 1.5, whose median is 1.25; and 0.5, 0.75 and 1.5.
    for name, white, warned in (("a.gif", (8, 20, 24), 3), ("b.gif", (8, 12, 24), 1)):
        rows = predict(Predictor(told_model), moving(tmp_path / name, *white), out=tmp_path / name[0])
        assert sum(row["warning"] == OUT_OF_DISTRIBUTION for row in rows) == warned


def test_histology_model_refuses_clips(tmp_path):
    (frame,) = find_frames(moving(tmp_path / "a.gif", 8, 24), Path("a"), Task.HISTOLOGY)
    assert frame.error == f"Expected a single image, found 2 frames: {tmp_path}/a.gif"


# === Predicting ===
def test_region_alone_is_predicted_and_its_mask_lies_in_the_frame(predictor, clip):
    frames = find_frames(clip, Path("clip"), Task.ULTRASOUND)
    images = [frame.read(predictor) for frame in frames]
    for white, prediction in zip((8, 24, 32), predict_frames(predictor, list(zip(frames, images)))):
        np.testing.assert_array_equal(prediction.mask * 255, frame_with(white))
        np.testing.assert_allclose(prediction.probability_map, frame_with(white) / 255, atol=1e-6)
        assert prediction.probabilities == pytest.approx([1 - white / 32, white / 32, 0])
        assert prediction.lesion_px == 32 * white
        assert prediction.lesion_mm2 == pytest.approx(32 * white * 0.02)
        assert prediction.lesion_mm == pytest.approx(np.hypot(31 * 0.2, (white - 1) * 0.1))  # from corner to corner
        wide, high = 31 * 0.2, (white - 1) * 0.1
        assert prediction.lesion_across_mm == pytest.approx(2 * wide * high / np.hypot(wide, high))
        assert prediction.lesion_fraction == pytest.approx(32 * white / 3000)


def test_scan_without_a_lesion_measures_0_and_of_two_the_larger(predictor, tmp_path, write_scan):
    for parts, length in ([], 0), ([(2, 3)], 0.2), ([(2, 3), (10, 20)], 2.0):  # columns from, to: 10 steps of 0.2 mm
        frame = frame_with(0)
        for first, last in parts:
            frame[15, 20 + first : 20 + last + 1] = 255
        path = write_scan(tmp_path / f"{len(parts)}.dcm", frame, REGION, SPACING_CM)
        (part,) = find_frames(path, Path("a"), Task.ULTRASOUND)
        (prediction,) = predict_frames(predictor, [(part, part.read(predictor))])
        assert prediction.lesion_mm == pytest.approx(length)


def test_clip_gets_a_row_a_mask_and_an_overlay_a_frame_and_one_segmentation(tmp_path, predictor, clip):
    write_image(tmp_path / "s/image.png", frame_with(8)[10:42, 20:52])
    out = tmp_path / "out"
    rows = predict(predictor, tmp_path / "s", out=out, json_lines=True)
    pictures = [f"clip_frame00{number}_{what}.png" for number in (1, 2, 3) for what in ("mask", "overlay")]
    assert names(out) == [
        *pictures, "clip_seg.dcm", "clip_sr.dcm", "image_mask.png", "image_overlay.png", "predictions.csv",
        "predictions.jsonl",
    ]  # fmt: skip
    found = [tuple(row[name] for name in ("frame", "label", "lesion_px", "lesion_mm2", "lesion_mm")) for row in rows]
    # 8 * 32 * 0.02 mm2, 24 * 32 * 0.02 mm2, 32 * 32 * 0.02 mm2; an image has no scale. Across
    # 31 * 0.2 mm and down 7, 23 and 31 * 0.1 mm.
    assert found == [(1, "normal", 256, "5.12", "6.24"), (2, "benign", 768, "15.36", "6.61"),
                    (3, "benign", 1024, "20.48", "6.93"), ("", "normal", 256, "", "")]  # fmt: skip
    assert read_csv(out / "predictions.csv") == [{key: str(value) for key, value in row.items()} for row in rows]
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["lesion_mm2"]) for line in lines] == [(1, 5.12), (2, 15.36), (3, 20.48), (None, None)]
    assert lines[0]["box"] == [20, 10, 32, 8]
    masks = [read_image(out / f"clip_frame00{number}_mask.png") for number in (1, 2, 3)]
    np.testing.assert_array_equal(masks, [frame_with(8), frame_with(24), frame_with(32)])
    segmentation = highdicom.seg.segread(out / "clip_seg.dcm")
    found = segmentation.get_pixels_by_source_frame(
        segmentation.SourceImageSequence[0].ReferencedSOPInstanceUID, [1, 2, 3], combine_segments=True,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    np.testing.assert_array_equal(found, np.stack([0 * masks[0], masks[1], masks[2]]) // 255)  # the first is normal
    (segment,) = segmentation.SegmentSequence
    assert segment.SegmentLabel == "benign"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters == "model=echo"


@pytest.fixture
def dual(tmp_path, write_scan):
    """A dual screen of two regions of 32 x 32 pixels, 4 columns apart: 8 white rows on the left, 24 on the right."""
    frame = np.zeros((40, 68), np.uint8)
    frame[:8, :32], frame[:24, 36:] = 255, 255
    frame[36:] = 200  # what is written below
    others = [(1, (36, 0, 32, 32))]
    return write_scan(tmp_path / "dual.dcm", frame, (0, 0, 32, 32), others=others)


def test_both_regions_of_a_dual_screen_are_predicted_and_make_one_row_and_mask(tmp_path, predictor, dual):
    out = tmp_path / "out"
    (row,) = predict(predictor, dual, out=out, json_lines=True)
    assert (row["label"], row["p_benign"], row["regions"], row["lesion_px"]) == ("benign", "0.750000", 2, 32 * (8 + 24))
    mask = read_image(out / "dual_mask.png")
    assert (mask[:8, :32].all(), mask[:24, 36:].all(), mask.sum() // 255) == (True, True, 1024)
    with Image.open(out / "dual_overlay.png") as overlay:
        assert not np.asarray(overlay)[-4:].any()
    segmentation = highdicom.seg.segread(out / "dual_seg.dcm")
    assert segmentation.pixel_array.sum() == 1024
    line = json.loads((out / "predictions.jsonl").read_text())
    assert line["regions"] == [[0, 0, 32, 32], [36, 0, 32, 32]]
    (scan,) = find_frames(dual, Path("dual"), Task.ULTRASOUND)
    left, right = predictor.predict_batch(scan.scan.crops(scan.scan.read_frame()))
    assert (left.label, right.label) == ("normal", "benign")


def test_frame_without_a_region_is_warned_of_or_refused(tmp_path, predictor, write_scan, clip):
    path = write_scan(tmp_path / "s/whole.dcm", frame_with(24))
    rows = predict(predictor, tmp_path / "s", out=tmp_path / "out")
    assert [row["regions"] for row in rows] == [1, 1, 1, 0]
    note = "whole frame shown, with any name on it (no region is marked)"
    assert [note in row["warning"] for row in rows] == [False, False, False, True]
    rows = predict(predictor, tmp_path / "s", out=tmp_path / "out", require_region=True)
    refusal = f"Expected a DICOM file with a usable region, found that no region is marked: {path}"
    assert [row["error"] for row in rows] == ["", "", "", refusal]
    assert count_frames([clip, path], require_region=True) == 4


def test_text_around_the_region_changes_no_prediction_and_is_in_no_image(tmp_path, write_scan):
    phantom, _ = draw_phantom("benign", seed=1, height=120, width=160)
    plain = np.zeros((200, 260), np.uint8)
    plain[60:180, 50:210] = phantom
    written = plain.copy()
    written[:50] = 255
    written[190:, ::3] = 200
    for name, frame in (("plain", plain), ("written", written)):
        write_scan(tmp_path / "s" / f"{name}.dcm", frame, (50, 60, 160, 120), SPACING_CM)
    rows = predict(Predictor("small"), tmp_path / "s", out=tmp_path / "out", overlay_dicom=True)
    of_file = dict.fromkeys(("file", *Uids._fields))
    assert rows[0] | of_file == rows[1] | of_file
    for what in ("mask", "overlay"):
        pictures = [(tmp_path / f"out/{name}_{what}.png").read_bytes() for name in ("plain", "written")]
        assert pictures[0] == pictures[1]
    with Image.open(tmp_path / "out/written_overlay.png") as overlay:
        picture = np.asarray(overlay)
    assert not picture[-20:].any()
    capture = highdicom.imread(tmp_path / "out/written_overlay.dcm")
    np.testing.assert_array_equal(capture.pixel_array, picture)


def test_clip_with_a_frame_unlike_the_known_ones_is_segmented_with_the_warning(tmp_path, told_model, write_scan):
    pixels = np.stack([frame_with(8), frame_with(12), frame_with(24)])
    path = write_scan(tmp_path / "s/clip.dcm", pixels, REGION, SPACING_CM)
    rows = predict(Predictor(told_model), path, out=tmp_path / "out")
    # The ood_score is twice the mean: 0.5, 0.75 and 1.5; the median is 0.75.
    assert [row["warning"] for row in rows] == ["", "", OUT_OF_DISTRIBUTION]
    (segment,) = highdicom.seg.segread(tmp_path / "out/clip_seg.dcm").SegmentSequence
    assert segment.SegmentDescription == "Not like breast ultrasound in 1 of 3 frames"


def test_clip_unlike_the_known_ones_as_a_whole_has_the_warning_in_all_and_no_segmentation(
    tmp_path, told_model, clip, write_scan
):
    predictor, out = Predictor(told_model), tmp_path / "out"
    whole = np.stack([frame_with(8)] * 3)
    predict(predictor, write_scan(tmp_path / "other/clip.dcm", whole, REGION), out=out)
    assert {"clip_seg.dcm", "clip_sr.dcm"} <= set(names(out))
    rows = predict(predictor, clip, out=out, json_lines=True, overlay_dicom=True)
    # The ood_score is 0.5, 1.5 and 2; the median is 1.5.
    assert [(row["ood_score"], row["warning"]) for row in rows] == [
        ("0.500000", OUT_OF_DISTRIBUTION), ("1.500000", OUT_OF_DISTRIBUTION),
        ("2.000000", f"{OUT_OF_DISTRIBUTION}; nearly one grey"),
    ]  # fmt: skip
    assert [row["label"] for row in rows] == ["normal", "benign", "benign"]  # what it says is kept
    assert read_csv(out / "predictions.csv") == [{key: str(value) for key, value in row.items()} for row in rows]
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["warning"] for line in lines] == [row["warning"] for row in rows]
    assert not {"clip_seg.dcm", "clip_sr.dcm"} & set(names(out))  # nor those of the former prediction
    assert {line["report"] for line in lines} == {NOT_REPORTED}
    pictures = [read_image(out / f"clip_frame00{number}_overlay.png", colour=True) for number in (1, 2, 3)]
    strip = len(pictures[0]) - 50
    for number, picture in enumerate(pictures, start=1):
        np.testing.assert_array_equal(picture[:strip], pictures[1][:strip])  # no strip has a class
        capture = highdicom.imread(out / f"clip_frame00{number}_overlay.dcm")
        np.testing.assert_array_equal(capture.pixel_array, picture)
    again = predict(predictor, clip, out=out, json_lines=True, overlay_dicom=True, resume=True)
    assert again == read_csv(out / "predictions.csv")


def test_clip_without_segmentation_is_not_predicted_again(tmp_path, told_model, clip, counting):
    predict(Predictor(told_model), clip, out=tmp_path / "out")
    predictor = counting(told_model)
    rows = predict(predictor, clip, out=tmp_path / "out", resume=True)
    assert (len(rows), predictor.asked) == (3, 0)


def test_overlays_of_scans_alone_are_dicom_and_of_a_clip_a_series(tmp_path, predictor, clip):
    write_image(tmp_path / "s/image.png", frame_with(8))
    predict(predictor, tmp_path / "s", out=tmp_path / "out", overlay_dicom=True)
    overlays = [name for name in names(tmp_path / "out") if name.endswith("_overlay.dcm")]
    assert overlays == [f"clip_frame00{number}_overlay.dcm" for number in (1, 2, 3)]
    captures = [highdicom.imread(tmp_path / "out" / name) for name in overlays]
    assert len({capture.SeriesInstanceUID for capture in captures}) == 1
    assert [capture.InstanceNumber for capture in captures] == [1, 2, 3]


# === Broken scans ===
def broken_frame(path, number):
    """Cut the pixels of a clip's file, so that frames from `number` on are missing."""
    path.write_bytes(path.read_bytes()[: -(4 - number) * 50 * 60])


def test_broken_scans_get_rows_and_the_others_are_predicted(tmp_path, predictor, clip, write_scan):
    whole = write_scan(tmp_path / "s/whole.dcm", frame_with(24), REGION)
    predict(predictor, clip, out=tmp_path / "out")
    broken_frame(clip, 2)
    (tmp_path / "s/text.dcm").write_text("hello")
    rows = predict(predictor, tmp_path / "s", out=tmp_path / "out")
    files = [(Path(row["file"]).name, row["frame"], bool(row["error"])) for row in rows]
    assert files == [("clip.dcm", 1, False), ("clip.dcm", 2, True), ("text.dcm", "", True), ("whole.dcm", "", False)]
    assert rows[1]["error"].startswith("Expected 3 frames, found 1: ")
    assert all(row["error"].endswith(row["file"]) for row in rows if row["error"])
    # Half a clip has no segmentation, for it would say that nothing is in the other half; a former one is gone.
    assert [name for name in names(tmp_path / "out") if name.endswith(".dcm")] == ["whole_seg.dcm", "whole_sr.dcm"]
    assert rows[-1]["file"] == str(whole)


@pytest.mark.parametrize("overlay_dicom", [False, True])
def test_header_that_no_result_can_refer_to_is_an_error_of_its_file_alone(
    tmp_path, predictor, write_scan, overlay_dicom
):
    for name in ("a.dcm", "b.dcm"):
        write_scan(tmp_path / "s" / name, frame_with(24), REGION)
    data = (tmp_path / "s/a.dcm").read_bytes()
    kind = b"\x10\x00\x20\x00LO"  # of the patient's number; there is no kind of value called L=
    assert data.count(kind) == 1
    (tmp_path / "s/a.dcm").write_bytes(data.replace(kind, kind[:4] + b"L="))
    rows = predict(predictor, tmp_path / "s", out=tmp_path / "out", overlay_dicom=overlay_dicom)
    assert rows[0]["error"].startswith("Expected a header that a result can reference, found another (")
    assert rows[0]["error"].endswith(str(tmp_path / "s/a.dcm"))
    assert (rows[1]["error"], (tmp_path / "out/b_seg.dcm").exists()) == ("", True)
    assert read_csv(tmp_path / "out/predictions.csv")[0]["error"] == rows[0]["error"]


def test_histology_model_refuses_scans(tmp_path, clip):
    from busseg.models.classifier import build_classifier

    predictor = Predictor(build_classifier(32, 2, "plain", width=4, depth=2))
    (row,) = predict(predictor, clip, out=tmp_path / "out")
    assert row["error"].startswith("Expected an image or a video, found DICOM; ")


# === Stopping, and going on ===
@pytest.fixture
def clips(tmp_path, write_scan):
    """A folder of four clips of twenty frames."""
    for name in "abcd":
        write_scan(tmp_path / f"clips/{name}.dcm", np.stack([frame_with(24)] * 20), REGION)
    return tmp_path / "clips"


def test_stopped_prediction_of_clips_resumes_with_the_interrupted_clip(tmp_path, echo_model, clips, counting):
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict(Predictor(echo_model), clips, out=whole)
    with pytest.raises(KeyboardInterrupt):
        predict(counting(echo_model, most=48), clips, out=out)
    done = read_csv(out / "predictions.csv")
    complete = [name for name in "abcd" if (out / f"{name}_sr.dcm").exists()]
    assert 20 <= len(done) <= 48
    again = counting(echo_model)
    rows = predict(again, clips, out=out, resume=True)
    assert again.asked == 80 - 20 * len(complete)
    assert names(out) == names(whole)
    assert (out / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert [(row["file"], str(row["frame"])) for row in rows] == [
        (str(clips / f"{name}.dcm"), str(number)) for name in "abcd" for number in range(1, 21)
    ]


def test_nothing_is_left_to_do_for_clips_that_are_done(tmp_path, echo_model, clips, counting):
    out = tmp_path / "out"
    predict(Predictor(echo_model), clips, out=out, overlay_dicom=True)
    before = {path: path.read_bytes() for path in out.iterdir()}
    again = counting(echo_model)
    assert len(predict(again, clips, out=out, resume=True, overlay_dicom=True)) == 80
    assert again.asked == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(("gone", "asked"), [("b_seg.dcm", 20), ("b_sr.dcm", 20), ("b_frame007_mask.png", 1)])
def test_missing_result_is_made_again(tmp_path, echo_model, clips, gone, asked, counting):
    out = tmp_path / "out"
    predict(Predictor(echo_model), clips, out=out)
    (out / gone).unlink()
    again = counting(echo_model)
    predict(again, clips, out=out, resume=True)
    assert again.asked == asked
    assert (out / gone).exists()
    with (out / "predictions.csv").open(newline="") as table:
        assert len(list(csv.DictReader(table))) == 80


def test_only_a_few_frames_of_a_clip_are_ahead(tmp_path, echo_model, write_scan, counting):
    write_scan(tmp_path / "s/first.dcm", frame_with(24), REGION)
    write_scan(tmp_path / "s/long.dcm", np.stack([frame_with(24)] * 100), REGION)
    predictor = counting(echo_model)
    rows = predict_files(predictor, find_inputs([tmp_path / "s"]), tmp_path / "out")
    next(rows)
    rows.close()
    assert predictor.asked < 100
    assert not (tmp_path / "out/long_seg.dcm").exists()
