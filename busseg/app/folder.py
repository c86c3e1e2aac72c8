"""The temporary folder of a server, deleted when the server ends, or by the next server after a kill."""

import atexit
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PREFIX = "busseg-app-"
_STARTING_S = 1  # a younger folder may belong to a server that has not locked it yet


@contextmanager
def server_folder() -> Iterator[Path]:
    """A new folder that only this user reads, deleted when the block ends. In the block all temporary files go there.

    A thread that still works then may make the folder again, so it is deleted once more when the program ends.
    Folders of killed servers of this user are deleted first. A server locks its folder; the lock ends with the server.

    Yields:
        The folder as a `Path`.
    """
    _clear_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder, _locked(folder):
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # which is called once all threads have ended
        temporary = Path(folder) / "tmp"
        temporary.mkdir()
        before = tempfile.tempdir
        tempfile.tempdir = str(temporary)
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def _clear_left():
    if sys.platform == "win32":  # without locks, the folder of a killed server stays
        return
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(left):  # in use, a link, or another user's
            if left.stat().st_mtime < time.time() - _STARTING_S:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder):
    """Hold the lock of a folder of this user.

    Raises:
        OSError: If another process holds it, or the folder is a link or another user's.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid != os.getuid():
            raise PermissionError(f"Expected a folder of this user, found another's: {folder}")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
