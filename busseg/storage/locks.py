"""File locks that the system releases when the process that holds them dies."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP}  # of file systems without locks


def try_lock(path: str | Path) -> TextIO | None:
    """Lock a file; create it if it is missing.

    Args:
        path: Path of the file.

    Returns:
        The open file, which holds the lock until `release` or the end of this process; None if another process holds
        the lock.

    Raises:
        OSError: If the file cannot be opened, or its file system has no locks.
    """
    file = Path(path).open("a")  # noqa: SIM115
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), Path(path).stat()):
            return file
    except FileNotFoundError:  # its holder has just deleted it
        pass
    except OSError as error:
        if error.errno not in _HELD:
            file.close()
            raise
    file.close()
    return None


def hold_lock(path: str | Path) -> TextIO | None:
    """Lock a file as `try_lock` does; on a file system without locks, only open it."""
    try:
        return try_lock(path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return Path(path).open("a")


def release(file: TextIO) -> None:
    """Release the lock that `try_lock` returned, and delete its file."""
    if sys.platform == "win32":  # Windows deletes no open file
        file.close()
    with suppress(OSError):
        Path(file.name).unlink()
    file.close()
