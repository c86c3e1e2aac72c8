"""Claims on output paths: busseg overwrites only what it wrote, and only one process writes to a path at a time.

A folder is busseg's if it holds the marker file of its kind, with the columns or keys that busseg gives it. busseg then
owns the file names of this kind of output, and every other file in the folder stays. A single file, and a folder that
is replaced as a whole, are recognised by their own content.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from busseg.storage.files import HIDDEN, clear_leftovers, names_in
from busseg.storage.locks import hold_lock, release
from busseg.storage.run_folder import Kind

PATIENCE_S = 2  # a killed process takes a moment to end
_held: set[Path] = set()  # the paths that this process has claimed, so that it may claim them again inside


def check_folder(path: str | Path, kind: Kind) -> None:
    """Check that busseg may write to a folder: it is new or empty, or holds an output of this kind.

    Args:
        path: Path of the folder.
        kind: A `run_folder.Kind`.

    Raises:
        FileExistsError: If it is a file, or holds other files.
    """
    path = Path(path)
    if os.path.lexists(path) and not path.is_dir():
        raise FileExistsError(f"Expected a folder for the results, found a file: {path}")
    # Hidden files do not count: a killed process may have left one, and desktops create them.
    if not path.is_dir() or all(file.name.startswith(".") for file in path.iterdir()):
        return
    if not (path / kind.marker).exists():
        raise FileExistsError(f"Expected an empty folder or one with {kind.marker}, found other files: {path}")
    if not set(kind.names) <= set(names_in(path / kind.marker)):
        raise FileExistsError(f"Expected {kind.marker} as busseg writes it, found another file: {path / kind.marker}")


@contextmanager
def claim_folder(path: str | Path, kind: Kind) -> Iterator[Path]:
    """Claim an output folder for the duration of a block.

    Creates the folder, or takes one that holds an earlier output of the same kind. Deletes the hidden files that killed
    processes left in it. Removes a new folder that stays empty.

    Args:
        path: Path of the folder.
        kind: A `run_folder.Kind`.

    Yields:
        The folder as a `Path`.

    Raises:
        FileExistsError: If the folder holds other files.
        BlockingIOError: If another process writes to it.
    """
    path = Path(path)
    check_folder(path, kind)
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        with _exclusively(path, path / f"{HIDDEN}lock"):
            clear_leftovers(path, deep=True)
            check_folder(path, kind)
            yield path
    finally:
        if new:
            with suppress(OSError):  # not empty
                path.rmdir()


@contextmanager
def claim(path: str | Path, what: str, is_ours: Callable[[Path], bool], force: bool | None = None) -> Iterator[Path]:
    """Claim the path of a single file, or of a folder that is replaced as a whole, for the duration of a block.

    Args:
        path: Path of the file or folder. Missing parent folders are created.
        what: What it is, such as "an ONNX file", for the error.
        is_ours: Function that says whether busseg wrote the file or folder at a path.
        force: Whether to replace any other file, too; never a folder. None where the caller offers no such choice.

    Yields:
        The path as a `Path`.

    Raises:
        FileExistsError: If something else is there.
        BlockingIOError: If another process writes there.
    """
    path = Path(path)
    _check_name(path, what, is_ours, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _exclusively(path, path.parent / f"{HIDDEN}lock-{path.name}"):
        clear_leftovers(path.parent)
        _check_name(path, what, is_ours, force)
        yield path


def _check_name(path, what, is_ours, force):
    if not os.path.lexists(path) or (force and path.is_file()):
        return
    if (path.is_file() or path.is_dir()) and is_ours(path):
        return
    found = "a folder" if path.is_dir() and force is not None else "something else"
    hint = " (--force replaces it)" if force is False and path.is_file() else ""
    raise FileExistsError(f"Expected a new name or {what} of busseg to replace, found {found}{hint}: {path}")


@contextmanager
def _exclusively(path, lock):
    place = path.resolve()
    if place in _held:
        yield
        return
    file, end = hold_lock(lock), time.monotonic() + PATIENCE_S
    while not file:
        if time.monotonic() > end:
            raise BlockingIOError(f"Expected no other process that writes there, found one: {path}")
        time.sleep(0.05)
        file = hold_lock(lock)
    _held.add(place)
    try:
        yield
    finally:
        _held.remove(place)
        release(file)
