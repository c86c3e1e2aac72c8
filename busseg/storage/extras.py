"""Packages that an extra of busseg installs."""

import importlib
import sys
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


def import_openvino() -> ModuleType:
    """OpenVINO without its telemetry, which sends events to Google Analytics and keeps an ID in `~/intel`.

    Raises:
        ImportError: If it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO does without it
    return importlib.import_module("openvino")
