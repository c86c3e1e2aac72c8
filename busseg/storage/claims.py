"""Who may write where: nothing that busseg did not write is written over, and no two processes write to one place.

A folder is busseg's if the file that marks its kind is there, with the columns or keys that busseg gives it: the names
that this kind of output has are then busseg's, and whatever else lies there stays. What stands by itself, a file or a
folder that is replaced as a whole, is known by its own content.
"""

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from busseg.storage.files import HIDDEN, clear_leftovers, names_in
from busseg.storage.locks import hold_lock, release

PATIENCE_S = 2  # a killed process takes a moment to go
_held = set()  # what this process has claimed, so that it may do so again inside


def check_folder(path, kind):
    """Make sure that a folder may be written to: that it is new or empty, or holds an output of this kind.

    Args:
        path: Path of the folder.
        kind: A `run_folder.Kind`.

    Raises:
        FileExistsError: If it is a file, or holds something else.
    """
    path = Path(path)
    if os.path.lexists(path) and not path.is_dir():
        raise FileExistsError(f"Expected a folder for the results, found a file: {path}")
    # Hidden files do not count: a killed writer may have left one, and desktops strew them.
    if not path.is_dir() or all(file.name.startswith(".") for file in path.iterdir()):
        return
    if not (path / kind.marker).exists():
        raise FileExistsError(f"Expected an empty folder or one with {kind.marker}, found other files: {path}")
    if not set(kind.names) <= set(names_in(path / kind.marker)):
        raise FileExistsError(f"Expected {kind.marker} as busseg writes it, found another file: {path / kind.marker}")


@contextmanager
def claim_folder(path, kind):
    """Have an output folder to oneself for the time of a block.

    The folder is made, or one is taken that an earlier output of the same kind left. What killed processes left hidden
    in it is cleared. One that stays empty is removed again.

    Args:
        path: Path of the folder.
        kind: A `run_folder.Kind`.

    Yields:
        The folder as a `Path`.

    Raises:
        FileExistsError: If the folder holds something else.
        BlockingIOError: If another process writes to it.
    """
    path = Path(path)
    check_folder(path, kind)
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        with _to_oneself(path, path / f"{HIDDEN}lock"):
            clear_leftovers(path, deep=True)
            check_folder(path, kind)
            yield path
    finally:
        if new:
            with suppress(OSError):  # not empty
                path.rmdir()


@contextmanager
def claim(path, what, is_ours, force=None):
    """Have a name to oneself for the time of a block: that of a single file, or of a folder replaced as a whole.

    Args:
        path: Path of the file or folder. Missing parent folders are made.
        what: What it is, such as "an ONNX file", for the error.
        is_ours: Function that tells of what stands at the path whether busseg wrote it.
        force: Whether to replace any other file, too; never a folder. None where there is no such choice.

    Yields:
        The path as a `Path`.

    Raises:
        FileExistsError: If something else stands there.
        BlockingIOError: If another process writes there.
    """
    path = Path(path)
    _check_name(path, what, is_ours, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _to_oneself(path, path.parent / f"{HIDDEN}lock-{path.name}"):
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
def _to_oneself(path, lock):
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
