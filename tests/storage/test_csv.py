import csv
import io

import pytest

from busseg.storage.files import append_row, read_csv, write_csv

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
        append_row(tmp_path / "a.csv", ("file",), row)
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
