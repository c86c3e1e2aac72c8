"""Write files and folders whole or not at all; read CSV and JSON files."""

import csv
import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from busseg.storage.escaping import from_cell, to_cell
from busseg.storage.locks import hold_lock, release, try_lock

HIDDEN = ".busseg-"  # prefix of the names of temporary folders
_LOCK, _FORMER = ".lock", ".former"  # names in a temporary folder


@contextmanager
def replacing(path: str | Path, place: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there once the block ends without an error.

    A reader sees the old content or the new content, never half of it, even if the process is killed or the machine
    fails: the new content is on the disk before it takes the name. A new folder replaces an old one in one step on
    Linux. Other systems need two steps; if a kill comes between them, `clear_leftovers` restores the old folder.

    Args:
        path: Path of the file or folder to write. Missing parent folders are created.
        place: A `hidden_folder` on the same disk, for callers that write many small files: it replaces one temporary
            folder a file. The caller must then `flush` the folder of `path`, so that the new names are on the disk.

    Raises:
        FileExistsError: If `path` is a folder and the new content a file, or the reverse.
        OSError: If the folder cannot be written. What was at `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext(place) if place else hidden_folder(path.parent) as folder:
        # The suffix stays, because writers choose their format by it.
        temporary = folder / (f"{uuid.uuid4().hex}{path.suffix}" if place else path.name)
        with _naming(path, folder):
            yield temporary
            _refuse_another_kind(temporary, path)
            _flush_all(temporary)
        if not path.is_dir():
            temporary.replace(path)
        elif not _exchange(temporary, path):
            (folder / _FORMER).mkdir()
            path.replace(folder / _FORMER / path.name)
            temporary.replace(path)
    if not place:
        flush(path.parent)


@contextmanager
def _naming(path, temporary=None):
    """Name `path` in the system's errors: a full disk names no file, and a temporary folder's name helps nobody."""
    try:
        yield
    except OSError as error:
        if error.errno and (not error.filename or temporary in Path(os.fsdecode(error.filename)).parents):
            error.filename = str(path)
        raise


def _refuse_another_kind(new, path):
    if new.is_file() and os.path.lexists(path) and not path.is_file():
        raise FileExistsError(f"Expected a file to replace, found {'a folder' if path.is_dir() else 'none'}: {path}")
    if new.is_dir() and os.path.lexists(path) and not path.is_dir():
        raise FileExistsError(f"Expected a folder to replace, found none: {path}")


def _exchange(one, other):
    """Exchange the names of two folders in one step. Returns whether the system can."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2) and renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _flush_all(path):
    if path.is_dir():
        for inner in path.iterdir():
            _flush_all(inner)
    flush(path)


def flush(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot flush folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # network shares raise it for a folder
            raise
    finally:
        os.close(descriptor)


# === Hidden folders ===
@contextmanager
def hidden_folder(parent: str | Path) -> Iterator[Path]:
    """Create a hidden folder in `parent` for the duration of a block; `clear_leftovers` deletes it after a kill."""
    folder, lock = _make_hidden(parent)
    try:
        yield folder
    finally:
        _remove_hidden(folder, lock)


def _make_hidden(parent):
    while True:
        folder = Path(tempfile.mkdtemp(prefix=HIDDEN, dir=parent))
        with suppress(FileNotFoundError):  # another process may delete it before it is locked
            lock = hold_lock(folder / _LOCK)
            if lock:
                return folder, lock


def _remove_hidden(folder, lock):
    with suppress(OSError):  # an error of the block matters more; the rest is deleted later
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner)
            elif inner.name != _LOCK:
                inner.unlink()
    release(lock)  # last, so that a folder without a lock is empty
    with suppress(OSError):
        folder.rmdir()


def clear_leftovers(parent: str | Path, *, deep: bool = False) -> None:
    """Delete the hidden folders and locks that killed processes left. Those of a live process stay.

    Args:
        parent: Path of the folder to search.
        deep: Whether to search its subfolders, too.
    """
    for path in list(Path(parent).glob(f"**/{HIDDEN}*" if deep else f"{HIDDEN}*")):
        with suppress(OSError):
            if path.is_dir() and not (path / _LOCK).exists():
                path.rmdir()
                continue
            lock = try_lock(path / _LOCK if path.is_dir() else path)
            if lock and path.is_dir():
                _put_back(path)
                _remove_hidden(path, lock)
            elif lock:
                release(lock)


def _put_back(folder):
    for former in folder.glob(f"{_FORMER}/*"):
        if not os.path.lexists(folder.parent / former.name):
            former.replace(folder.parent / former.name)


# === Text and tables ===
def write_text(path: str | Path, text: str) -> None:
    """Write text to a file as UTF-8, whole or not at all. Bytes of file names that are not UTF-8 become `\\udcff`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(path: str | Path, fields: Sequence[str], rows: Iterable[dict]) -> None:
    """Write rows (dicts) to a CSV file with the header `fields`, whole or not at all.

    Text that a spreadsheet program would read as a formula gets an apostrophe before it; `read_csv` removes it.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        _write_rows(file, fields, [dict(zip(fields, fields)), *rows])


def append_row(path: str | Path, fields: Sequence[str], row: dict) -> None:
    """Append a row to a CSV file of `write_csv`. If the process is killed meanwhile, the row may be cut short."""
    with _naming(path), Path(path).open("a", newline="", encoding="utf-8") as file:
        _write_rows(file, fields, [row])


def _write_rows(file, fields, rows):
    writer = csv.DictWriter(_UnixLines(file), fields)
    writer.writerows({name: to_cell(value) for name, value in row.items()} for row in rows)


class _UnixLines:
    """A file with LF line ends for Python's CSV writer, which quotes a lone CR only if its lines end in CR LF."""

    def __init__(self, file):
        self._file = file

    def write(self, line):
        return self._file.write(line.removesuffix("\r\n") + "\n")


def append_text(path: str | Path, text: str) -> None:
    """Append text to a file as UTF-8. If the process is killed meanwhile, the text may be cut short."""
    with _naming(path), Path(path).open("a", encoding="utf-8") as file:
        file.write(text)


def read_csv(path: str | Path, required: Sequence[str] = (), delimiter: str = ",") -> list[dict[str, str]]:
    """Read a CSV file with a header.

    Args:
        path: Path of the file.
        required: Names of columns that must be there.
        delimiter: Character between columns.

    Returns:
        List of dicts, one a row.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8 text or not a table, or a required column is missing.
    """
    try:
        # utf-8-sig also reads files with a byte-order mark, as spreadsheet programs save them.
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", delimiter=delimiter)
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
        if None in row:  # Python puts surplus cells there
            raise ValueError(f"Expected {len(columns)} cells a row, found {len(columns) + len(row[None])}: {path}")
    return [{from_cell(name): from_cell(text) for name, text in row.items()} for row in rows]


def read_json(path: str | Path) -> dict:
    """Read a JSON file that holds an object, as a dict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8 text, or not a JSON object.
    """
    with blaming(path, "a JSON file"):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"Expected an object of JSON, found {type(content).__name__}: {path}")
    return content


@contextmanager
def blaming(path: str | Path, expected: str) -> Iterator[None]:
    """Turn an error that a file's content causes in a block, such as a missing key, into one line that names the file.

    The system's errors and busseg's own lines, which begin with "Expected", pass unchanged.

    Args:
        path: Path of the file or folder, or several as text.
        expected: What the file should hold, such as "the scores of an evaluation".

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


def names_in(path: str | Path) -> list[str]:
    """The columns of a CSV file or the keys of a JSON object, which identify a file's kind; else an empty list."""
    try:
        if Path(path).suffix == ".json":
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return list(content) if isinstance(content, dict) else []
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, ValueError, csv.Error):
        return []
