import csv
import errno
import io
import os
import re
import signal
import subprocess
import sys

import pytest

from busseg.data.files import append_csv, claim_folder, read_csv, replacing, write_csv, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# === Replacing ===
def test_new_content_stands_alone(tmp_path):
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
def test_error_leaves_the_old_content_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device: '{path}'"),
        (OSError(errno.EACCES, "Permission denied", "b.txt"), "[Errno 13] Permission denied: 'b.txt'"),
        (FileNotFoundError("Expected an image"), "Expected an image"),
    ],
)
def test_error_of_the_system_names_a_file(tmp_path, error, told):
    with pytest.raises(OSError, match=r".+") as caught, replacing(tmp_path / "a.txt"):
        raise error
    assert str(caught.value) == told.format(path=tmp_path / "a.txt")


def test_error_of_a_first_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["model", "replaced"])
def test_folder_is_replaced_as_a_whole(tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    (path / "old").touch()
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert names(path) == ["new"]
    assert names(tmp_path) == [name]


def test_error_leaves_the_old_folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.mkdir()
        raise RuntimeError
    assert names(path) == ["old"]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("old")])
def test_writer_that_wrote_nothing_leaves_the_old_content(tmp_path, make):
    path = tmp_path / "model"
    make(path)
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert names(tmp_path) == ["model"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_writer_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    writer = (
        "import os, signal, sys\n"
        "from busseg.data.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", writer, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")  # what the killed one left behind is in nobody's way
    assert path.read_text() == "new"


# === CSV ===
HOSTILE = [
    "=cmd|' /C calc'!A0",
    "'=x",
    "-1+2",
    "@x",
    "\t=x",
    "\r=x",
    "a\rb",
    "a\nb",
    "\x1b[2J",
    "\udcc8\udce9.png",
    "-0.5",
]


def test_names_of_any_kind_come_back(tmp_path):
    rows = [{"file": name} for name in HOSTILE]
    write_csv(tmp_path / "a.csv", ("file",), rows[:2])
    for row in rows[2:]:
        append_csv(tmp_path / "a.csv", ("file",), row)
    assert read_csv(tmp_path / "a.csv") == rows


def test_no_cell_is_a_formula_and_the_file_is_utf_8(tmp_path):
    write_csv(tmp_path / "a.csv", ("file", "drop"), [{"file": name, "drop": -0.5} for name in HOSTILE])
    text = (tmp_path / "a.csv").read_bytes().decode("utf-8")
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert len(cells) == 2 * (1 + len(HOSTILE))
    assert {cell for cell in cells if cell[0] in "=+-@\t\r"} == {"-0.5"}  # which is a number


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"file,label\n" + b"a" * 200_000 + b",b\n", r"found something else \(field larger than field limit"),
        (b"file,label\na,b,c,d\n", "Expected 2 cells a row, found 4"),
        (b"\xff\xfe", "found other bytes"),
        (b"\0\0\0", "Expected the column 'file', found "),
    ],
)
def test_broken_table_is_refused_in_one_line(tmp_path, content, found):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{found}.*: .*a\.csv$"):
        read_csv(tmp_path / "a.csv", required=("file",))


def test_rows_come_back(tmp_path):
    rows = [{"file": 'a, "b" (1).png', "label": "größer"}, {"file": "two\nlines", "label": ""}]
    write_csv(tmp_path / "a.csv", ("file", "label"), rows)
    assert read_csv(tmp_path / "a.csv", required=("label", "file")) == rows


def test_written_csv_is_plain(tmp_path):
    write_csv(tmp_path / "a.csv", ("fold", "file"), [{"fold": 0, "file": "a.png"}])
    assert (tmp_path / "a.csv").read_bytes() == b"fold,file\n0,a.png\n"


def test_row_with_an_unknown_field_leaves_the_old_file(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(ValueError, match="size"):
        write_csv(tmp_path / "a.csv", ("file",), [{"file": "a.png", "size": 1}])
    assert (tmp_path / "a.csv").read_text() == "old"


@pytest.mark.parametrize("content", [b"\xef\xbb\xbffile,label\r\na.png,benign\r\n", b"file,label\na.png,benign"])
def test_what_spreadsheets_save_is_read(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    assert read_csv(tmp_path / "a.csv", required=("file",)) == [{"file": "a.png", "label": "benign"}]


def test_cells_that_a_short_row_lacks_are_empty(tmp_path):
    (tmp_path / "a.csv").write_text("file,label\na.png\n")
    assert read_csv(tmp_path / "a.csv") == [{"file": "a.png", "label": ""}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,größe\n".encode("latin-1"), "UTF-8, found other bytes"),
        (b"\x89PNG\r\n", "UTF-8, found other bytes"),
        (b"file,label\n", r"the column 'part', found file, label"),
        (b"part;file\n", r"the column 'part', found part;file"),
        (b"", "the column 'part', found no header"),
    ],
)
def test_bad_csv_is_named_with_what_was_found(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^Expected .*{message}: .*a\.csv$"):
        read_csv(tmp_path / "a.csv", required=("part",))


def test_missing_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        read_csv(tmp_path / "gone.csv")


# === Output folders ===
def test_new_folder_is_made_with_its_parents(tmp_path):
    assert claim_folder(str(tmp_path / "runs" / "one"), "recipe.toml") == tmp_path / "runs" / "one"
    assert (tmp_path / "runs" / "one").is_dir()


def test_empty_folder_is_taken(tmp_path):
    assert claim_folder(tmp_path, "recipe.toml") == tmp_path


def test_folder_of_an_earlier_run_is_taken_as_it_is(tmp_path):
    for name in ("recipe.toml", "model.keras"):
        (tmp_path / name).touch()
    claim_folder(tmp_path, "recipe.toml")
    assert names(tmp_path) == ["model.keras", "recipe.toml"]


def test_folder_with_other_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(
        FileExistsError, match=rf"^Expected .*recipe\.toml, found other files: {re.escape(str(tmp_path))}$"
    ):
        claim_folder(tmp_path, "recipe.toml")
    assert names(tmp_path) == ["thesis.tex"]


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(FileExistsError, match=r"^Expected a folder .*found a file: .*run$"):
        claim_folder(tmp_path / "run", "recipe.toml")
