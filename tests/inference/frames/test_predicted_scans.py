import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busseg.data.phantom import draw_phantom
from busseg.data.task import Task
from busseg.imaging.dicom import Uids
from busseg.imaging.findings import NOT_REPORTED
from busseg.imaging.images import read_image, write_image
from busseg.inference.frames import count_frames, find_frames, predict_frames
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.storage.files import read_csv

highdicom = pytest.importorskip("highdicom", reason="needs busseg[dicom]")


def test_region_alone_is_predicted_and_its_mask_lies_in_the_frame(predictor, clip, frame_with):
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


def test_scan_without_a_lesion_measures_0_and_of_two_the_larger(
    predictor, region, spacing_cm, frame_with, tmp_path, write_scan
):
    for parts, length in ([], 0), ([(2, 3)], 0.2), ([(2, 3), (10, 20)], 2.0):  # columns from, to: 10 steps of 0.2 mm
        frame = frame_with(0)
        for first, last in parts:
            frame[15, 20 + first : 20 + last + 1] = 255
        path = write_scan(tmp_path / f"{len(parts)}.dcm", frame, region, spacing_cm)
        (part,) = find_frames(path, Path("a"), Task.ULTRASOUND)
        (prediction,) = predict_frames(predictor, [(part, part.read(predictor))])
        assert prediction.lesion_mm == pytest.approx(length)


def test_clip_gets_a_row_a_mask_and_an_overlay_a_frame_and_one_segmentation(
    frame_with, predict, names, tmp_path, predictor, clip
):
    write_image(tmp_path / "s/image.png", frame_with(8)[10:42, 20:52])
    out = tmp_path / "out"
    rows = predict(predictor, tmp_path / "s", out=out, json_lines=True)
    pictures = [f"clip_frame00{number}_{what}.png" for number in (1, 2, 3) for what in ("mask", "overlay")]
    assert names(out) == [
        *pictures, "clip_seg.dcm", "clip_sr.dcm", "clips.csv", "clips.jsonl", "image_mask.png", "image_overlay.png",
        "predictions.csv", "predictions.jsonl",
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


def test_both_regions_of_a_dual_screen_are_predicted_and_make_one_row_and_mask(predict, tmp_path, predictor, dual):
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


def test_frame_without_a_region_is_warned_of_or_refused(frame_with, predict, tmp_path, predictor, write_scan, clip):
    path = write_scan(tmp_path / "s/whole.dcm", frame_with(24))
    rows = predict(predictor, tmp_path / "s", out=tmp_path / "out")
    assert [row["regions"] for row in rows] == [1, 1, 1, 0]
    note = "whole frame shown, with any name on it (no region is marked)"
    assert [note in row["warning"] for row in rows] == [False, False, False, True]
    rows = predict(predictor, tmp_path / "s", out=tmp_path / "out", require_region=True)
    refusal = f"Expected a DICOM file with a usable region, found that no region is marked: {path}"
    assert [row["error"] for row in rows] == ["", "", "", refusal]
    assert count_frames([clip, path], require_region=True) == 4


def test_text_around_the_region_changes_no_prediction_and_is_in_no_image(spacing_cm, predict, tmp_path, write_scan):
    phantom, _ = draw_phantom("benign", seed=1, height=120, width=160)
    plain = np.zeros((200, 260), np.uint8)
    plain[60:180, 50:210] = phantom
    written = plain.copy()
    written[:50] = 255
    written[190:, ::3] = 200
    for name, frame in (("plain", plain), ("written", written)):
        write_scan(tmp_path / "s" / f"{name}.dcm", frame, (50, 60, 160, 120), spacing_cm)
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


def test_clip_with_a_frame_unlike_the_known_ones_is_segmented_with_the_warning(
    region, spacing_cm, frame_with, predict, tmp_path, told_model, write_scan
):
    pixels = np.stack([frame_with(8), frame_with(12), frame_with(24)])
    path = write_scan(tmp_path / "s/clip.dcm", pixels, region, spacing_cm)
    rows = predict(Predictor(told_model), path, out=tmp_path / "out")
    # The ood_score is twice the mean: 0.5, 0.75 and 1.5; the median is 0.75.
    assert [row["warning"] for row in rows] == ["", "", OUT_OF_DISTRIBUTION]
    (segment,) = highdicom.seg.segread(tmp_path / "out/clip_seg.dcm").SegmentSequence
    assert segment.SegmentDescription == "Not like breast ultrasound in 1 of 3 frames"


def test_clip_unlike_the_known_ones_as_a_whole_has_the_warning_in_all_and_no_segmentation(
    region, frame_with, predict, names, tmp_path, told_model, clip, write_scan
):
    predictor, out = Predictor(told_model), tmp_path / "out"
    whole = np.stack([frame_with(8)] * 3)
    predict(predictor, write_scan(tmp_path / "other/clip.dcm", whole, region), out=out)
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


def test_clip_without_segmentation_is_not_predicted_again(predict, tmp_path, told_model, clip, counting):
    predict(Predictor(told_model), clip, out=tmp_path / "out")
    predictor = counting(told_model)
    rows = predict(predictor, clip, out=tmp_path / "out", resume=True)
    assert (len(rows), predictor.asked) == (3, 0)


def test_overlays_of_scans_alone_are_dicom_and_of_a_clip_a_series(
    frame_with, predict, names, tmp_path, predictor, clip
):
    write_image(tmp_path / "s/image.png", frame_with(8))
    predict(predictor, tmp_path / "s", out=tmp_path / "out", overlay_dicom=True)
    overlays = [name for name in names(tmp_path / "out") if name.endswith("_overlay.dcm")]
    assert overlays == [f"clip_frame00{number}_overlay.dcm" for number in (1, 2, 3)]
    captures = [highdicom.imread(tmp_path / "out" / name) for name in overlays]
    assert len({capture.SeriesInstanceUID for capture in captures}) == 1
    assert [capture.InstanceNumber for capture in captures] == [1, 2, 3]
