"""Packages that an extra of busseg installs."""

import importlib
from pathlib import Path
from types import ModuleType


def import_extra(module: str, what: str, extra: str, path: str | Path) -> ModuleType:
    """Import a package that an extra of busseg installs.

    Args:
        module: Its name in Python.
        what: Its name and what it is for, for the error.
        extra: Name of the extra.
        path: Path of the file that needs it, for the error.

    Raises:
        ImportError: If it is not installed; the line says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'Expected {what}, found none; pip install "busseg[{extra}]": {path}') from error
