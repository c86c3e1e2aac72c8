"""Files that are written whole or not at all, and output folders that never mix two runs."""

import csv
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

from busseg.data.escaping import from_cell, to_cell


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path`; move it there once the block ends without an error.

    A reader sees the old content or the new one, never half a file, whatever kills the writer.

    Args:
        path: Path of the file or folder to write. Missing parent folders are made.

    Raises:
        OSError: If the folder cannot be written. What stood at `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        # The name is kept, because writers choose their format by its suffix.
        temporary = Path(folder) / path.name
        try:
            yield temporary
        except OSError as error:
            # A full disk does not say what it was too full for.
            if error.errno and not error.filename:
                error.filename = str(path)
            raise
        if path.is_dir() and temporary.exists():
            # A folder cannot be renamed over another: the old one steps aside, and goes with the temporary one.
            path.replace(Path(folder) / f"replaced {path.name}")
        temporary.replace(path)


def write_text(path, text):
    """Write `text` to `path` as UTF-8, whole or not at all; bytes of file names that are no UTF-8 as `\\udcff`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(path, fields, rows):
    """Write rows (dicts) to a CSV file with the header `fields`, whole or not at all.

    Text that a spreadsheet program would take for a formula begins with an apostrophe there; `read_csv` undoes it.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        _write_rows(file, fields, [dict(zip(fields, fields)), *rows])


def append_csv(path, fields, row):
    """Add a row (dict) to a CSV file of `write_csv`."""
    with Path(path).open("a", newline="", encoding="utf-8") as file:
        _write_rows(file, fields, [row])


def _write_rows(file, fields, rows):
    writer = csv.DictWriter(_UnixLines(file), fields)
    writer.writerows({name: to_cell(value) for name, value in row.items()} for row in rows)


class _UnixLines:
    """A file for Python's CSV writer, which quotes a lone CR only where its lines end in CR LF."""

    def __init__(self, file):
        self._file = file

    def write(self, line):
        return self._file.write(line.removesuffix("\r\n") + "\n")


def read_csv(path, required=()):
    """Read a CSV file with a header.

    Args:
        path: Path of the file.
        required: Names of columns that must be there.

    Returns:
        List of dicts, one a row.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8 text, no table, or a required column is missing.
    """
    try:
        # utf-8-sig also reads the files that spreadsheet programs save with a byte-order mark.
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or []
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected a CSV file in UTF-8, found other bytes: {path}") from error
    except csv.Error as error:
        raise ValueError(f"Expected a CSV file, found something else ({error}): {path}") from error
    missing = [name for name in required if name not in columns]
    if missing:
        raise ValueError(f"Expected the column {missing[0]!r}, found {', '.join(columns) or 'no header'}: {path}")
    for row in rows:
        if None in row:  # where Python puts the cells too many
            raise ValueError(f"Expected {len(columns)} cells a row, found {len(columns) + len(row[None])}: {path}")
    return [{from_cell(name): from_cell(text) for name, text in row.items()} for row in rows]


def read_json(path):
    """Read a JSON file that holds an object, as a dict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8 text, or no object of JSON.
    """
    with blaming(path, "a JSON file"):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"Expected an object of JSON, found {type(content).__name__}: {path}")
    return content


@contextmanager
def blaming(path, expected):
    """Tell of whatever a block raises as of what stands in a file: a number that is none, or a name that is missing.

    What the system raises, and lines of our own, which begin with "Expected", are told as they are.

    Args:
        path: Path of the file or folder, or several as text.
        expected: What should stand there, such as "the scores of an evaluation".

    Raises:
        ValueError: One line that names the path.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("Expected "):
            raise
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"Expected {expected}, found something else ({found}): {path}") from error


def claim_folder(path, marker):
    """Make the output folder `path`, or take one that an earlier run of the same kind left.

    Args:
        path: Path of the folder.
        marker: Name of a file that only this kind of output holds.

    Returns:
        The folder as a `Path`.

    Raises:
        FileExistsError: If the folder holds something else.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"Expected a folder for the results, found a file: {path}")
    # Hidden files do not count: a killed writer may have left one, and desktops strew them.
    held = path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir())
    if held and not (path / marker).exists():
        raise FileExistsError(f"Expected an empty folder or one with {marker}, found other files: {path}")
    path.mkdir(parents=True, exist_ok=True)
    return path
