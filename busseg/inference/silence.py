"""Quiet for what libraries say by C++ while they start, past Python's own stderr."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def silence():
    """Send all that is written to the process's stderr inside to nowhere."""
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
