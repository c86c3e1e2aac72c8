import gc

import numpy as np
import pytest
from PIL import Image

from busseg.app.answers import answer_file, answer_frame, facts
from busseg.app.clips import ClipAnswer, DecodedClips, PooledFrame
from busseg.data.sample import CLASSES
from busseg.inference.frames import Frame


def pooled(number, probabilities, ood_score=None):
    label = CLASSES[int(np.argmax(probabilities))]
    known = ood_score is None or ood_score <= 1
    return PooledFrame(number, label, np.float32(probabilities), ood_score, known, "data:image/jpeg;base64,")


def clip_of(*frames):
    return ClipAnswer(frames, CLASSES)


def moving(path, *greys):
    """A GIF whose frames are 32 x 32 pixels of one grey."""
    first, *others = (Image.fromarray(np.full((32, 32), grey, np.uint8)) for grey in greys)
    first.save(path, save_all=True, append_images=others)
    return path


# === One answer ===
def test_class_of_a_clip_is_that_of_the_mean_of_its_frames():
    clip = clip_of(pooled(1, [0.2, 0.6, 0.2]), pooled(5, [0.1, 0.1, 0.8]), pooled(9, [0.3, 0.4, 0.3]))
    # Benign in two of three frames; the means are 0.6 / 3, 1.1 / 3 and 1.3 / 3.
    np.testing.assert_allclose(clip.probabilities, [0.2, 1.1 / 3, 1.3 / 3], rtol=1e-6)
    assert (clip.label, clip.most_suspicious.number) == ("malignant", 5)


def test_frames_out_of_distribution_are_left_out_of_the_mean():
    clip = clip_of(pooled(1, [0, 1, 0], 0.5), pooled(2, [0, 0, 1], 1.5), pooled(3, [0.5, 0.5, 0], 0.9))
    assert clip.in_distribution  # the median of 0.5, 0.9 and 1.5 is 0.9
    np.testing.assert_allclose(clip.probabilities, [0.25, 0.75, 0])
    assert [frame.number for frame in clip.counted] == [1, 3]
    assert clip.most_suspicious.number == 1


def test_clip_is_out_of_distribution_by_the_median_of_its_frames():
    scores = (0.5, 1.2, 1.5)
    clip = clip_of(*(pooled(number, [0, 1, 0], score) for number, score in enumerate(scores, 1)))
    assert not clip.in_distribution
    every = clip_of(*(pooled(number, [0, 1, 0], 2) for number in (1, 2)))
    assert len(every.counted) == 2  # some numbers are needed, which the page folds away


def test_answer_to_a_file_pools_its_frames(echo, tmp_path):
    # Benign by 0, 204 / 255 = 0.8 and 102 / 255 = 0.4, whose mean is 0.4.
    result = facts(answer_file(echo, moving(tmp_path / "clip.gif", 0, 204, 102), frame=2))
    assert (result["label"], result["clip"]["label"]) == ("benign", "normal")
    assert result["clip"]["probabilities"] == pytest.approx({"normal": 0.6, "benign": 0.4, "malignant": 0}, abs=1e-5)
    assert (result["clip"]["frames"], result["clip"]["left_out"]) == ([1, 2, 3], [])
    assert result["clip"]["most_suspicious"] == {"frame": 1, "malignant": 0}


def test_frame_of_a_long_clip_that_is_not_pooled_has_the_same_answer_for_the_clip(echo, tmp_path):
    path = moving(tmp_path / "clip.gif", *range(20))
    clips = [facts(answer_file(echo, path, frame=frame))["clip"] for frame in (1, 2)]
    assert clips[0] == clips[1]
    assert clips[0]["frames"] == [1, 4, 7, 10, 13, 16, 19]  # of 20, every third


def test_broken_frames_do_not_count(echo, tmp_path, monkeypatch):
    path, read = moving(tmp_path / "clip.gif", 0, 204, 102), Frame.read

    def broken(frame, predictor):
        if frame.number == 2:
            raise ValueError("broken")
        return read(frame, predictor)

    monkeypatch.setattr(Frame, "read", broken)
    assert facts(answer_file(echo, path))["clip"]["frames"] == [1, 3]


# === Decoded frames ===
@pytest.fixture
def clip_path(tmp_path):
    """A clip of three frames of 1024 bytes each when decoded."""
    return moving(tmp_path / "clip.gif", 0, 204, 102)


def test_frames_are_turned_to_without_decoding_again(echo, clip_path, monkeypatch):
    decoded = DecodedClips()
    answer = answer_file(echo, clip_path, decoded=decoded)
    monkeypatch.setattr(Frame, "read", lambda *_: pytest.fail("it was decoded again"))
    third = answer_frame(echo, answer, 3, decoded)
    assert (third.frame, third.image[0, 0], third.prediction.lesion_px) == (3, 102, 0)
    assert third.clip is answer.clip


def test_frames_beyond_the_limit_are_decoded_again(echo, clip_path):
    decoded = DecodedClips(limit=2 * 1024)
    answer = answer_file(echo, clip_path, decoded=decoded)
    assert sorted(decoded.find(answer.clip)) == [1, 2]
    assert answer_frame(echo, answer, 3, decoded).image[0, 0] == 102


def test_all_clips_together_stay_within_the_limit():
    decoded = DecodedClips(limit=2500)
    clips = [clip_of(pooled(1, [1, 0, 0])) for _ in range(3)]
    for clip in clips[:2]:
        decoded.keep(clip, {1: np.zeros(1000, np.uint8)})
    decoded.find(clips[0])  # used later than the second, which makes room
    decoded.keep(clips[2], {1: np.zeros(1000, np.uint8)})
    assert [bool(decoded.find(clip)) for clip in clips] == [True, False, True]


def test_decoded_frames_are_gone_with_the_answer(echo, clip_path):
    decoded = DecodedClips()
    answer = answer_file(echo, clip_path, decoded=decoded)
    assert len(decoded._clips) == 1
    del answer
    gc.collect()
    assert len(decoded._clips) == 0


def test_clip_that_made_room_is_decoded_and_kept_again(echo, clip_path, tmp_path):
    decoded = DecodedClips(limit=4 * 1024)
    first = answer_file(echo, clip_path, decoded=decoded)
    second = answer_file(echo, moving(tmp_path / "other.gif", 10, 20, 30), decoded=decoded)
    assert (len(decoded.find(first.clip)), len(decoded.find(second.clip))) == (0, 3)
    turned = answer_frame(echo, first, 2, decoded)
    assert (turned.image[0, 0], len(decoded.find(first.clip))) == (204, 3)


def test_dicom_is_read_frame_by_frame_and_not_kept(echo, clip):
    decoded = DecodedClips()
    answer = answer_file(echo, clip, decoded=decoded)
    assert decoded.find(answer.clip) == {}
    assert answer_frame(echo, answer, 2, decoded).prediction.lesion_px == 32 * 32


def test_single_image_has_no_answer_of_a_clip(echo, tmp_path):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "scan.png")
    answer = answer_file(echo, tmp_path / "scan.png")
    assert (answer.clip, facts(answer)["clip"]) == (None, None)
