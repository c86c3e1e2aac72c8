import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from busseg.data.task import Task
from busseg.imaging.dicom import read_dicom
from busseg.imaging.images import read_image, write_image
from busseg.inference.batch import predict_files
from busseg.inference.frames import Frame, count_frames, find_frames, frame_target
from busseg.inference.inputs import find_inputs, survey_inputs
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.storage.files import read_csv


# === Finding ===
def test_file_is_one_image_or_the_frames_of_a_clip(frame_with, tmp_path, write_scan, clip):
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


def test_file_is_over_with_its_last_frame(frame_with, tmp_path, clip, write_scan):
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


def test_scans_of_a_folder_are_found_by_their_content(frame_with, tmp_path, write_scan):
    for name in ("IM_0001", "1.2.840.5", "1.2.840.6", "x.dcm", "deep/DICOMDIR", ".hidden"):
        write_scan(tmp_path / "s" / name, frame_with(8))
    write_image(tmp_path / "s/x.png", frame_with(8))
    (tmp_path / "s/notes.txt").touch()
    found = {str(path.relative_to(tmp_path)): str(target) for path, target in find_inputs([tmp_path / "s"]).items()}
    assert found == {
        "s/1.2.840.5": "1.2.840.5", "s/1.2.840.6": "1.2.840.6", "s/IM_0001": "IM_0001", "s/x.dcm": "x.dcm",
        "s/x.png": "x.png",
    }  # fmt: skip


def test_image_that_is_named_like_the_frame_of_a_clip_is_refused(frame_with, tmp_path, clip):
    write_image(tmp_path / "s/clip_frame002.png", frame_with(8))
    write_image(tmp_path / "s/other_frame002.png", frame_with(8))
    with pytest.raises(ValueError, match=rf"one like its frame: {clip}, {tmp_path}/s/clip_frame002\.png$"):
        find_inputs([tmp_path / "s"])
    assert len(find_inputs([tmp_path / "s/clip_frame002.png", tmp_path / "s/other_frame002.png"])) == 2


def test_scans_of_another_kind_are_passed_over_unless_they_are_named(frame_with, tmp_path, write_scan):
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


# === Clips that are no DICOM ===
@pytest.fixture(scope="session")
def moving(frame_with):
    """Function that writes a GIF or AVI of frames whose first rows are white, and returns its path."""

    def write(path, *white):
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

    return write


@pytest.mark.parametrize("name", ["clip.gif", "clip.avi"])
def test_clip_that_is_no_dicom_gets_a_row_a_mask_and_an_overlay_a_frame(
    frame_with, predict, names, moving, tmp_path, predictor, name
):
    path, out = moving(tmp_path / name, 8, 24, 32), tmp_path / "out"
    rows = predict(predictor, path, out=out, json_lines=True)
    assert [(row["file"], row["frame"], row["label"], row["lesion_px"]) for row in rows] == [
        (str(path), 1, "normal", 256), (str(path), 2, "benign", 768), (str(path), 3, "benign", 1024),
    ]  # fmt: skip
    pictures = [f"clip_frame00{number}_{what}.png" for number in (1, 2, 3) for what in ("mask", "overlay")]
    assert names(out) == [*pictures, "clips.csv", "clips.jsonl", "predictions.csv", "predictions.jsonl"]
    np.testing.assert_array_equal(read_image(out / "clip_frame002_mask.png"), frame_with(24)[10:42, 20:52])
    assert count_frames([path]) == 3
    again = predict(predictor, path, out=out, json_lines=True, resume=True)
    assert again == read_csv(out / "predictions.csv")


def test_clip_that_is_no_dicom_is_judged_as_a_whole(predict, moving, tmp_path, told_model):
    # The ood_score is 0.5, 1.25 and 1.5, whose median is 1.25; and 0.5, 0.75 and 1.5.
    for name, white, warned in (("a.gif", (8, 20, 24), 3), ("b.gif", (8, 12, 24), 1)):
        rows = predict(Predictor(told_model), moving(tmp_path / name, *white), out=tmp_path / name[0])
        assert sum(row["warning"] == OUT_OF_DISTRIBUTION for row in rows) == warned


def test_histology_model_refuses_clips(moving, tmp_path):
    (frame,) = find_frames(moving(tmp_path / "a.gif", 8, 24), Path("a"), Task.HISTOLOGY)
    assert frame.error == f"Expected a single image, found 2 frames: {tmp_path}/a.gif"


# === Broken scans ===
def broken_frame(path, number):
    """Cut the pixels of a clip's file, so that frames from `number` on are missing."""
    path.write_bytes(path.read_bytes()[: -(4 - number) * 50 * 60])


def test_broken_scans_get_rows_and_the_others_are_predicted(
    region, frame_with, predict, names, tmp_path, predictor, clip, write_scan
):
    whole = write_scan(tmp_path / "s/whole.dcm", frame_with(24), region)
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
    region, frame_with, predict, tmp_path, predictor, write_scan, overlay_dicom
):
    for name in ("a.dcm", "b.dcm"):
        write_scan(tmp_path / "s" / name, frame_with(24), region)
    data = (tmp_path / "s/a.dcm").read_bytes()
    kind = b"\x10\x00\x20\x00LO"  # of the patient's number; there is no kind of value called L=
    assert data.count(kind) == 1
    (tmp_path / "s/a.dcm").write_bytes(data.replace(kind, kind[:4] + b"L="))
    rows = predict(predictor, tmp_path / "s", out=tmp_path / "out", overlay_dicom=overlay_dicom)
    assert rows[0]["error"].startswith("Expected a header that a result can reference, found another (")
    assert rows[0]["error"].endswith(str(tmp_path / "s/a.dcm"))
    assert (rows[1]["error"], (tmp_path / "out/b_seg.dcm").exists()) == ("", True)
    assert read_csv(tmp_path / "out/predictions.csv")[0]["error"] == rows[0]["error"]


def test_histology_model_refuses_scans(predict, tmp_path, clip):
    from busseg.models.classifier import build_classifier

    predictor = Predictor(build_classifier(32, 2, "plain", width=4, depth=2))
    (row,) = predict(predictor, clip, out=tmp_path / "out")
    assert row["error"].startswith("Expected an image or a video, found DICOM; ")


# === Stopping, and going on ===
@pytest.fixture(scope="module")
def clips(region, frame_with, tmp_path_factory, write_scan):
    """A folder of four clips of ten frames, to be read only."""
    folder = tmp_path_factory.mktemp("clips")
    for name in "abcd":
        write_scan(folder / f"{name}.dcm", np.stack([frame_with(24)] * 10), region)
    return folder


@pytest.fixture(scope="module")
def whole(predict, echo_model, clips, tmp_path_factory):
    """The folder of the whole prediction of `clips`, to be read only."""
    out = tmp_path_factory.mktemp("whole")
    predict(Predictor(echo_model), clips, out=out)
    return out


def test_stopped_prediction_of_clips_resumes_with_the_interrupted_clip(
    predict, names, tmp_path, echo_model, clips, whole, counting, four_threads
):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict(counting(echo_model, most=32), clips, out=out)
    done = read_csv(out / "predictions.csv")
    complete = [name for name in "abcd" if (out / f"{name}_sr.dcm").exists()]
    assert 10 <= len(done) <= 32  # of those predicted, up to 16 may not be written yet; see `map_in_turn`
    again = counting(echo_model)
    rows = predict(again, clips, out=out, resume=True)
    assert again.asked == 40 - 10 * len(complete)
    assert names(out) == names(whole)
    assert (out / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert [(row["file"], str(row["frame"])) for row in rows] == [
        (str(clips / f"{name}.dcm"), str(number)) for name in "abcd" for number in range(1, 11)
    ]


def test_nothing_is_left_to_do_for_clips_that_are_done(predict, tmp_path, echo_model, clips, counting):
    out = tmp_path / "out"
    predict(Predictor(echo_model), clips, out=out, overlay_dicom=True)
    before = {path: path.read_bytes() for path in out.iterdir()}
    again = counting(echo_model)
    assert len(predict(again, clips, out=out, resume=True, overlay_dicom=True)) == 40
    assert again.asked == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(("gone", "asked"), [("b_seg.dcm", 10), ("b_sr.dcm", 10), ("b_frame007_mask.png", 1)])
def test_missing_result_is_made_again(predict, tmp_path, echo_model, clips, whole, gone, asked, counting):
    out = shutil.copytree(whole, tmp_path / "out")
    (out / gone).unlink()
    again = counting(echo_model)
    predict(again, clips, out=out, resume=True)
    assert again.asked == asked
    assert (out / gone).exists()
    with (out / "predictions.csv").open(newline="") as table:
        assert len(list(csv.DictReader(table))) == 40


def test_only_a_few_frames_of_a_clip_are_ahead(
    region, frame_with, tmp_path, echo_model, write_scan, counting, four_threads
):
    write_scan(tmp_path / "s/first.dcm", frame_with(24), region)
    write_scan(tmp_path / "s/long.dcm", np.stack([frame_with(24)] * 100), region)
    predictor = counting(echo_model)
    rows = predict_files(predictor, find_inputs([tmp_path / "s"]), tmp_path / "out")
    next(rows)
    rows.close()
    assert predictor.asked < 100
    assert not (tmp_path / "out/long_seg.dcm").exists()
