import base64
import csv
import io
import zipfile
from dataclasses import replace

import cv2
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


def shown(thumbnail):
    content = base64.b64decode(thumbnail.removeprefix("data:image/jpeg;base64,"), validate=True)
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def is_outlined(thumbnail):
    """Whether a grey image has a yellow line on it."""
    blue, _, red = np.moveaxis(shown(thumbnail).astype(int), -1, 0)
    return bool((red - blue).max() > 50)


def test_rows_and_zip_name_files_as_their_users_do(echo, files):
    rows, thumbnails, packed = answer_files(echo, files)
    assert [(row["file"], row["label"], row["lesion_px"]) for row in rows] == [
        ("dark.png", "normal", 0), ("bright.png", "benign", 32 * 32), ("text.png", "", ""),
    ]  # fmt: skip
    assert [bool(thumbnail) for thumbnail in thumbnails] == [True, True, False]
    assert rows[2]["error"] == "Expected an image or a video, found text: text.png"
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        images = {f"{name}_{kind}.png" for name in ("dark", "bright") for kind in ("mask", "overlay")}
        assert set(archive.namelist()) == {"predictions.csv", *images}
        table = archive.read("predictions.csv").decode()
    assert list(csv.DictReader(io.StringIO(table))) == [{k: str(v) for k, v in row.items()} for row in rows]


def test_frames_of_dicom_are_images_of_their_own(echo, clip):
    pytest.importorskip("highdicom")
    rows, thumbnails, packed = answer_files(echo, [clip])
    assert [(row["file"], row["frame"], row["lesion_px"]) for row in rows] == [
        ("clip.dcm", 1, 0), ("clip.dcm", 2, 32 * 32), ("clip.dcm", 3, 0),
    ]  # fmt: skip
    # Grey 0, 204 and 102 around nothing, in the middle of the thumbnail; the second is lesion all over its region.
    assert [shown(thumbnail)[80, 90].mean() for thumbnail in thumbnails] == pytest.approx([0, 204, 102], abs=3)
    assert [is_outlined(thumbnail) for thumbnail in thumbnails] == [False, True, False]
    assert "clip_seg.dcm" in zipfile.ZipFile(io.BytesIO(packed)).namelist()


def test_image_out_of_distribution_has_a_thumbnail_without_outline(echo, files):
    class Far:
        """`echo`, to which every image is out of distribution."""

        def __getattr__(self, name):
            return getattr(echo, name)

        def try_batch(self, images):
            return [replace(result, ood_score=1.5) for result in echo.try_batch(images)]

    half = np.zeros((32, 32), np.uint8)
    half[8:24, 8:24] = 255
    write_image(files[1], half)
    assert [is_outlined(answer_files(model, [files[1]])[1][0]) for model in (echo, Far())] == [True, False]


def test_scan_without_a_region_is_refused_where_one_is_required(echo, write_scan, tmp_path):
    path = write_scan(tmp_path / "a.dcm", np.full((32, 32), 204, np.uint8))
    (row,), thumbnails, _ = answer_files(echo, [path], require_region=True)
    assert row["error"].startswith("Expected a DICOM file with a usable region, found that no region is marked")
    assert thumbnails == [None]


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
