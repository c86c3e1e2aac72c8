import csv
import io
import zipfile

import numpy as np
import pytest

from busseg.app import packing
from busseg.app.packing import answer_files
from busseg.imaging.images import write_image


@pytest.fixture
def files(tmp_path):
    """Two images and a text that says it is one, each in a folder of its own, as uploads are."""
    paths = [tmp_path / str(number) / name for number, name in enumerate(("dark.png", "bright.png", "text.png"))]
    write_image(paths[0], np.zeros((32, 32), np.uint8))
    write_image(paths[1], np.full((32, 32), 255, np.uint8))
    paths[2].parent.mkdir()
    paths[2].write_text("text")
    return paths


def test_rows_and_zip_name_files_as_their_users_do(echo, files):
    rows, packed = answer_files(echo, files)
    assert [(row["file"], row["label"], row["lesion_px"]) for row in rows] == [
        ("dark.png", "normal", 0), ("bright.png", "benign", 32 * 32), ("text.png", "", ""),
    ]  # fmt: skip
    assert rows[2]["error"] == "Expected an image or a video, found text: text.png"
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        images = {f"{name}_{kind}.png" for name in ("dark", "bright") for kind in ("mask", "overlay")}
        assert set(archive.namelist()) == {"predictions.csv", *images}
        table = archive.read("predictions.csv").decode()
    assert list(csv.DictReader(io.StringIO(table))) == [{k: str(v) for k, v in row.items()} for row in rows]


def test_frames_of_dicom_are_images_of_their_own(echo, clip):
    pytest.importorskip("highdicom")
    rows, packed = answer_files(echo, [clip])
    assert [(row["file"], row["frame"], row["lesion_px"]) for row in rows] == [
        ("clip.dcm", 1, 0), ("clip.dcm", 2, 32 * 32), ("clip.dcm", 3, 0),
    ]  # fmt: skip
    assert "clip_seg.dcm" in zipfile.ZipFile(io.BytesIO(packed)).namelist()


def test_progress_is_told_the_number_of_images(echo, clip, files):
    totals = []
    answer_files(echo, [clip, files[0]], lambda rows, total: totals.append(total) or rows)
    assert totals == [3 + 1]


def test_too_many_images_and_none_are_refused(echo, files, monkeypatch):
    monkeypatch.setattr(packing, "MAX_IMAGES", 2)
    with pytest.raises(ValueError, match="Expected 1 to 2 images or frames, found 3; busseg predict takes any number"):
        answer_files(echo, files)
    with pytest.raises(ValueError, match="Expected 1 to 2 images or frames, found 0"):
        answer_files(echo, [])


def test_two_files_of_one_name_are_refused(echo, files):
    same = files[2].with_name("dark.png")
    files[2].rename(same)
    with pytest.raises(ValueError, match=r"Expected inputs with different names, found two named dark"):
        answer_files(echo, [files[0], same])
