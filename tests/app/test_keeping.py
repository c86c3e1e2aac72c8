import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

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


NO_UPLOADS = {
    "other": lambda uploads: uploads.folder.parent / "other.png",
    "beside": lambda uploads: uploads.folder / "beside.png",
    "deeper": lambda uploads: keep(uploads).parent / "deeper" / "scan.png",
}


@pytest.mark.parametrize("where", NO_UPLOADS)
def test_files_that_are_no_uploads_are_refused_and_stay(tmp_path, where):
    (tmp_path / "uploads").mkdir()
    uploads = Uploads(tmp_path / "uploads")
    path, upload = NO_UPLOADS[where](uploads), keep(uploads)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"pixels")
    refused = pytest.raises(ValueError, match="Expected an uploaded file, found something else")
    with refused, uploads.until_answered([path, upload]):
        pytest.fail("it was answered")
    assert not upload.exists()
    assert path.exists() == (where != "beside")  # Gradio's own files lie there, which go with each answer


def as_link(path):
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)
    return path


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)
    return path


def behind_link(path):
    link = path.parent.parent / ("f" * 32)
    link.symlink_to(path.parent)
    return link / path.name


@pytest.mark.parametrize(
    "name",
    [
        as_link,
        as_pipe,
        behind_link,
        lambda path: path.parent,
        lambda path: path.parent / "none.png",
        lambda path: path.parent / ".." / path.parent.name / path.name,
        lambda path: path.relative_to(path.parent.parent),
        lambda path: f"{path}\0.png",
        lambda path: f"file://{path}",
        lambda path: "https://example.org/scan.png",
        lambda path: "/dev/zero",
        lambda path: "",
        lambda path: "x" * 10_000,
        lambda path: None,
        lambda path: [str(path)],
    ],
)
def test_only_regular_files_by_their_own_path_are_uploads(uploads, name):
    path = keep(uploads)
    assert uploads.find(str(path)) == path
    with pytest.raises(ValueError, match="Expected an uploaded file, found something else"):
        uploads.find(name(path))


def test_closing_waits_for_answers_and_ends_long_ones(uploads):
    path, begun, order = keep(uploads), threading.Event(), []

    def answer():
        with uploads.until_answered([path]):
            for _ in uploads.while_open(count()):
                order.append("row")
                begun.set()
                time.sleep(0.01)

    with ThreadPoolExecutor() as pool:
        answered = pool.submit(answer)
        begun.wait()
        uploads.close()
        order.append("closed")
        with pytest.raises(ValueError, match="Expected a running server, found one that stops"):
            answered.result()
    assert order[-1] == "closed"
    assert not path.exists()


def test_file_that_nobody_asks_about_is_gone_after_a_while(uploads):
    old, young = keep(uploads), keep(uploads)
    long_ago = time.time() - FORGOTTEN_S - 1
    os.utime(old.parent, (long_ago, long_ago))
    uploads.forget()
    assert (old.exists(), young.exists()) == (False, True)


def test_size_is_that_of_all_that_waits(uploads):
    first = keep(uploads, content=b"pixels")
    keep(uploads, content=b"more pixels")
    assert uploads.size() == 6 + 11
    uploads.delete([first])
    assert uploads.size() == 11


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
    tokens = [results.keep(bytes([number]), "me") for number in range(5)]
    assert [results.get(token, "me") for token in tokens] == [None, b"\1", b"\2", b"\3", b"\4"]
    assert results.get("guessed", "me") is None


def test_results_are_their_clients_alone():
    results = Results()
    token = results.keep(b"packed", "me")
    assert (results.get(token, "another"), results.get(token, ""), results.get(token, "me")) == (None, None, b"packed")


def test_size_is_told_while_uploads_come_and_go(tmp_path):
    uploads, done = Uploads(tmp_path), threading.Event()

    def come_and_go():
        while not done.is_set():
            uploads.delete([str(uploads.keep("a.png", io.BytesIO(b"12345"))) for _ in range(20)])

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert {uploads.size() % 5 for _ in range(2000)} == {0}
    finally:
        done.set()
        thread.join()
