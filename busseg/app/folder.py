"""The one folder of a server's files, gone with the server, or with the next one after a kill."""

import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: nothing is locked, so what a killed server left stays
    fcntl = None

_PREFIX = "busseg-app-"
_STARTING_S = 1  # so young, a folder may be that of a server which is about to lock it


@contextmanager
def server_folder():
    """A new folder that only this user reads, deleted when the block ends; for the block, all temporary files go there.

    What killed servers of this user left is deleted first. A server holds a lock on its folder, which its death frees.

    Yields:
        The folder as a `Path`.
    """
    _clear_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder, _locked(folder):
        temporary = Path(folder) / "tmp"
        temporary.mkdir()
        before = tempfile.tempdir
        tempfile.tempdir = str(temporary)
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def _clear_left():
    if fcntl is None:
        return
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(left):  # in use, a link, or somebody else's
            if left.stat().st_mtime < time.time() - _STARTING_S:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder):
    """Hold the lock of a folder of this user.

    Raises:
        OSError: If another process holds it, or the folder is a link or another user's.
    """
    if fcntl is None:
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
