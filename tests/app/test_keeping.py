import io
import os
import time

import pytest

from busseg.app.keeping import FORGOTTEN_S, Results, Uploads, safe_name


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path)


def keep(uploads, name="scan.png", content=b"pixels"):
    return uploads.keep(name, io.BytesIO(content))


def test_the_same_file_of_two_people_is_two_files(uploads):
    first, second = keep(uploads), keep(uploads)
    with uploads.until_answered([first]):
        pass
    assert not first.exists()
    assert (second.name, second.read_bytes()) == ("scan.png", b"pixels")


def test_answered_files_are_gone_whatever_comes_of_them(uploads):
    path = keep(uploads)
    (uploads.folder / "tmp1234").touch()  # as Gradio leaves them
    with pytest.raises(ValueError, match="broken"), uploads.until_answered([path]):
        raise ValueError("broken")
    assert list(uploads.folder.iterdir()) == []


def test_files_that_are_no_uploads_stay_whoever_asks_about_them(uploads, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    for path in (folder / "scan.png", uploads.folder.parent / "other.png"):
        path.write_bytes(b"pixels")
        with uploads.until_answered([path]):
            pass
        assert path.exists()


def test_file_that_nobody_asks_about_is_gone_with_the_next_one(uploads):
    old, young = keep(uploads), keep(uploads)
    long_ago = time.time() - FORGOTTEN_S - 1
    os.utime(old.parent, (long_ago, long_ago))
    keep(uploads)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scan (1).png", "scan (1).png"),
        ("größer 乳.png", "größer 乳.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\scans\\scan.png", "scan.png"),
        ("<img onerror={{x}}>.png", "_img onerror___x___.png"),
        ("..", "file"),
        ("", "file"),
        (200 * "a" + ".png", 116 * "a" + ".png"),
    ],
)
def test_names_are_harmless(name, expected):
    assert safe_name(name) == expected


def test_errors_name_uploads_as_their_users_do(uploads):
    path = keep(uploads)
    assert uploads.without_folders(f"Expected an image: {path}") == "Expected an image: scan.png"


def test_results_make_room_for_later_ones():
    results = Results()
    tokens = [results.keep(bytes([number])) for number in range(5)]
    assert [results.get(token) for token in tokens] == [None, b"\1", b"\2", b"\3", b"\4"]
    assert results.get("guessed") is None
