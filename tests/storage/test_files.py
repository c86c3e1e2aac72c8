import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from busseg.storage import files
from busseg.storage.files import append_row, append_text, clear_leftovers, names_in, replacing, write_csv, write_text


# === Replacing ===
def test_new_content_stands_alone(names, tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "µ")
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert names(path.parent) == ["a.txt"]


def test_temporary_path_keeps_the_name(tmp_path):
    with replacing(tmp_path / "a.keras") as temporary:
        assert temporary.name == "a.keras"
        assert temporary != tmp_path / "a.keras"
        temporary.touch()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_error_leaves_the_old_content_and_nothing_beside_it(names, tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device: '{path}'"),
        (OSError(errno.EACCES, "Permission denied", "b.txt"), "[Errno 13] Permission denied: 'b.txt'"),
        (FileNotFoundError("Expected an image"), "Expected an image"),
    ],
)
def test_error_of_the_system_names_a_file(tmp_path, error, expected):
    with pytest.raises(OSError, match=r".+") as caught, replacing(tmp_path / "a.txt"):
        raise error
    assert str(caught.value) == expected.format(path=tmp_path / "a.txt")


def test_error_of_a_first_write_leaves_nothing(names, tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["model", "replaced"])
def test_folder_is_replaced_as_a_whole(names, tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    (path / "old").touch()
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert names(path) == ["new"]
    assert names(tmp_path) == [name]


def test_error_leaves_the_old_folder(names, tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.mkdir()
        raise RuntimeError
    assert names(path) == ["old"]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("old")])
def test_writer_that_wrote_nothing_leaves_the_old_content(names, tmp_path, make):
    path = tmp_path / "model"
    make(path)
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert names(tmp_path) == ["model"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_writer_leaves_the_old_file_whole(names, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    writer = (
        "import os, signal, sys\n"
        "from busseg.storage.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", writer, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")  # what the killed one left behind is in nobody's way
    assert path.read_text() == "new"
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["a.txt"]


def test_folder_in_place_of_a_file_is_refused_and_untouched(names, tmp_path):
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "a.txt" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"^Expected a file to replace, found a folder: .*a\.txt$"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path / "a.txt") == ["thesis.tex"]


def test_file_in_place_of_a_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "model").write_text("old")
    with pytest.raises(FileExistsError, match=r"^Expected a folder .*model$"), replacing(tmp_path / "model") as new:
        new.mkdir()
    assert (tmp_path / "model").read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="needs pipes with a name")
def test_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(FileExistsError, match="Expected a file to replace, found none"):
        write_text(tmp_path / "a.txt", "new")


# === To the disk ===
def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path, flushed = tmp_path / "a.txt", []
    path.write_text("old")

    def flush(what):  # the size of a file, and what the name holds meanwhile
        flushed.append((what.is_file() and what.stat().st_size, path.read_text()))

    monkeypatch.setattr(files, "flush", flush)
    write_text(path, "newer")
    assert flushed == [(5, "old"), (False, "newer")]  # the file, then the folder that names it


def test_every_file_of_a_folder_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "flush", lambda what: flushed.append(what.name))
    with replacing(tmp_path / "model") as temporary:
        (temporary / "variables").mkdir(parents=True)
        (temporary / "variables" / "index").touch()
        (temporary / "saved_model.pb").touch()
    assert sorted(flushed[:-2]) == ["index", "saved_model.pb", "variables"]
    assert flushed[-2:] == ["model", tmp_path.name]


def test_content_that_does_not_reach_the_disk_leaves_the_old(names, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")

    def fail(what):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "flush", fail)
    with pytest.raises(OSError, match=r"Input/output error: .*a\.txt"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_named_by_who_appends():
    for append in (lambda: append_text("/dev/full", "a"), lambda: append_row("/dev/full", ["a"], {"a": 1})):
        with pytest.raises(OSError, match=r"No space left on device: '/dev/full'$"):
            append()


def test_rows_and_text_are_appended(tmp_path):
    write_csv(tmp_path / "a.csv", ["file"], [])
    append_row(tmp_path / "a.csv", ["file"], {"file": "a,b.png"})
    append_text(tmp_path / "a.csv", "µ\n")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == 'file\n"a,b.png"\nµ\n'


# === Without a moment in which neither stands ===
FOLDERS = """
import os, signal, sys
from pathlib import Path
from busseg.storage import files
path = Path(sys.argv[1])
steps, kill_at = 0, int(sys.argv[2])
if sys.argv[3] == "two steps":
    files._exchange = lambda one, other: False

def step(event, arguments):  # before each of these is a moment to be killed in
    global steps
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(step)
with files.replacing(path) as temporary:
    temporary.mkdir()
    (temporary / "new").touch()
print("done")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("way", ["one step", "two steps"])
def test_folder_stands_whenever_its_writer_is_killed(names, tmp_path, way):
    path = tmp_path / "model"
    found = set()
    for kill_at in range(1, 40):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / "old").touch()
        writer = [sys.executable, "-c", FOLDERS, path, str(kill_at), way]
        done = subprocess.run(writer, check=False, capture_output=True, text=True)
        if way == "two steps":
            clear_leftovers(tmp_path)
        found.add(tuple(names(path)))
        clear_leftovers(tmp_path)
        assert names(tmp_path) == ["model"]
        if done.stdout == "done\n":
            break
    assert done.stdout == "done\n"
    assert found == {("old",), ("new",)}


# === Leftovers ===
def test_hidden_folder_of_a_process_that_lives_is_left_alone(tmp_path):
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        clear_leftovers(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "new"


def test_leftovers_in_folders_are_cleared_if_asked(names, tmp_path):
    left = tmp_path / "deep" / f"{files.HIDDEN}1234"
    left.mkdir(parents=True)
    (left / ".lock").touch()
    (left / "half.png").touch()
    clear_leftovers(tmp_path)
    assert left.exists()
    clear_leftovers(tmp_path, deep=True)
    assert names(tmp_path / "deep") == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "file,label\na.png,benign\n", ["file", "label"]),
        ("a.json", '{"data": 1, "files": []}', ["data", "files"]),
        ("a.json", "[1]", []),
        ("a.json", "{", []),
        ("a.csv", "", []),
        ("a.csv", b"\xff", []),
    ],
)
def test_names_identify_the_kind_of_a_file(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert names_in(tmp_path / name) == expected
