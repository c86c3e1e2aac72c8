import json

import numpy as np
import pytest
from PIL import Image

from busseg.data.phantom import draw_clip
from busseg.inference.batch import predict_files
from busseg.inference.clips import pool_frames, track_lesions
from busseg.inference.inputs import find_inputs
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.storage.files import read_csv


def squares(*places, shape=(40, 60)):
    """A mask with squares of 10 x 10 pixels, whose top left corners lie at `(y, x)`."""
    mask = np.zeros(shape, np.uint8)
    for y, x in places:
        mask[y : y + 10, x : x + 10] = 1
    return mask


def tracked(*masks):
    """The numbers of the frames of each track."""
    return [track.numbers for track in track_lesions(enumerate(masks, 1))]


# === Lesions ===
def test_moving_lesion_is_one_track_and_a_second_one_another():
    # Moved by 5 pixels the IoU is 50 / 150.
    assert tracked(squares((0, 0)), squares((0, 5)), squares((0, 10), (25, 40)), squares((25, 40))) == [
        [1, 2, 3], [3, 4],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("step_px", "numbers"),
    [(8, [[1, 2]]), (9, [[1], [2]])],  # IoU 20 / 180 = 0.11, and 10 / 190 = 0.05
)
def test_lesion_that_jumps_is_a_new_one(step_px, numbers):
    assert tracked(squares((0, 0)), squares((0, step_px))) == numbers


def test_largest_overlap_is_matched_first():
    # The new lesion overlaps the left one in 3 columns of 10, the right one in 4.
    assert tracked(squares((0, 0), (0, 13)), squares((0, 7))) == [[1], [1, 2]]


def test_lesion_that_splits_stays_the_larger_part():
    whole, split = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    whole[:10, :30] = 1
    split[:10, :18], split[:10, 20:30] = 1, 1
    larger, smaller = track_lesions([(1, whole), (2, split)])
    assert (larger.numbers, larger.areas_px, larger.best_frame) == ([1, 2], [300, 180], 1)
    assert (smaller.numbers, smaller.areas_px) == ([2], [100])


def test_lesion_that_comes_back_is_a_new_one_and_frames_of_another_size_share_none():
    assert tracked(squares((0, 0)), squares(), squares((0, 0))) == [[1], [3]]
    assert tracked(squares((0, 0)), squares((0, 0), shape=(40, 50))) == [[1], [2]]


def test_lesion_of_a_phantom_clip_is_one_track_as_long_as_it_is_in_view():
    _, masks = draw_clip("benign", seed=1, frames=12, step_px=20)
    (track,) = track_lesions(enumerate(masks, 1))
    areas = masks.sum(axis=(1, 2))
    assert track.numbers == [number for number, area in enumerate(areas, 1) if area]
    assert track.areas_px == [area for area in areas if area]


# === Clips ===
def test_class_of_a_clip_is_the_mean_of_its_frames():
    np.testing.assert_allclose(pool_frames(np.array([[0.2, 0.8, 0], [0.4, 0, 0.6]])), [0.3, 0.4, 0.3])


@pytest.fixture
def predict(tmp_path):
    """Function that predicts a clip whose frames are white in the first rows of 32, and returns its row and line."""

    def run(model, *white, **options):
        first, *others = (
            Image.fromarray(np.repeat(np.uint8(255 * (np.arange(32) < n))[:, None], 32, 1)) for n in white
        )
        first.save(tmp_path / "clip.gif", save_all=True, append_images=others)
        inputs = find_inputs([tmp_path / "clip.gif"])
        list(predict_files(Predictor(model), inputs, tmp_path / "out", json_lines=True, **options))
        lines = (tmp_path / "out/clips.jsonl").read_text().splitlines()
        return read_csv(tmp_path / "out/clips.csv"), [json.loads(line) for line in lines]

    return run


def test_clip_gets_a_row_with_its_class_its_best_frame_and_its_lesions(predict, echo_model):
    # Benign by 8 / 32, 24 / 32 and 32 / 32, in the mean by 2 / 3; the first frame is normal, so it has no lesion.
    (row,), (line,) = predict(echo_model, 8, 24, 32)
    assert (row["frames"], row["counted"], row["label"], row["best_frame"]) == ("3", "3", "benign", "3")
    assert (row["p_normal"], row["p_benign"], row["lesions"]) == ("0.333333", "0.666667", "1")
    (lesion,) = line["lesions"]
    assert (lesion["first"], lesion["last"], lesion["best_frame"], lesion["area_px"]) == (2, 3, 3, 32 * 32)
    assert (lesion["label"], lesion["probabilities"]["benign"]) == ("benign", 0.875)  # (24 / 32 + 1) / 2
    assert line["label"] == "benign"


def test_lesion_seen_in_one_frame_alone_is_in_the_line_but_not_counted(predict, echo_model):
    (row,), (line,) = predict(echo_model, 8, 24, 8)
    assert (row["label"], row["lesions"], len(line["lesions"])) == ("normal", "0", 1)


def test_frames_out_of_distribution_do_not_count_unless_all_are(predict, told_model):
    # The ood_score is 2 * 8 / 32 = 0.5, 0.75 and 1.5.
    (row,), _ = predict(told_model, 8, 12, 24)
    assert (row["frames"], row["counted"], row["warning"]) == ("3", "2", "")
    assert float(row["p_normal"]) == pytest.approx(1 - 10 / 32)
    (row,), _ = predict(told_model, 20, 24, 28)
    assert (row["counted"], row["warning"]) == ("3", OUT_OF_DISTRIBUTION)


def test_resumed_prediction_writes_the_same_rows_of_clips(predict, echo_model, tmp_path):
    first = predict(echo_model, 8, 24, 32)
    assert predict(echo_model, 8, 24, 32, resume=True) == first
    (tmp_path / "out/clip_frame003_mask.png").unlink()
    assert predict(echo_model, 8, 24, 32, resume=True) == first


def test_images_alone_have_no_table_of_clips(predict, echo_model, tmp_path):
    predict(echo_model, 8, 24)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "a.png")
    list(predict_files(Predictor(echo_model), find_inputs([tmp_path / "a.png"]), tmp_path / "out"))
    assert not {"clips.csv", "clips.jsonl"} & {path.name for path in (tmp_path / "out").iterdir()}
