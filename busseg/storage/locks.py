"""Locks on files that the system drops when the process that holds them dies."""

import errno
import os
from contextlib import suppress
from pathlib import Path

if os.name == "nt":
    import msvcrt
else:
    import fcntl

_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP}  # of file systems that have none


def try_lock(path):
    """Lock a file, which is made if it is missing.

    Args:
        path: Path of the file.

    Returns:
        The open file, which holds the lock until `release` or the end of this process; or None if another holds it.

    Raises:
        OSError: If the file cannot be opened, or its file system has no locks.
    """
    file = Path(path).open("a")  # noqa: SIM115
    try:
        if os.name == "nt":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), Path(path).stat()):
            return file
    except FileNotFoundError:  # its holder took it away meanwhile
        pass
    except OSError as error:
        if error.errno not in _HELD:
            file.close()
            raise
    file.close()
    return None


def hold_lock(path):
    """As `try_lock`, where a file system that has no locks is no error: there is nothing to hold."""
    try:
        return try_lock(path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return Path(path).open("a")


def release(file):
    """Release what `try_lock` gave, and take its file away."""
    if os.name == "nt":  # which deletes no open file
        file.close()
    with suppress(OSError):
        Path(file.name).unlink()
    file.close()
