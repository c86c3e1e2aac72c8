"""Escape names and text for terminals, tables and UTF-8."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import TypeVar

Value = TypeVar("Value")

# Spreadsheet programs read these characters as the beginning of a formula, which may call other programs; see OWASP,
# "CSV Injection". An apostrophe before them makes the cell text, so text with an apostrophe there gets one more.
FORMULA = r"'*[=+\-@\t\r\n]"
# Python keeps the bytes of a file name that are not UTF-8 as lone surrogates; in a table they are text.
_ESCAPED_BYTE = re.compile(r"\\u(dc[89a-f][0-9a-f])")
_SPACES = "\u00a0\u2007\u202f\u3000"  # `isprintable` is False for them


def printable(text: str) -> str:
    """The text with its unprintable characters, such as a terminal's escape sequences, written as `\\x1b` and so on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _SPACES else c.encode("unicode_escape").decode() for c in text)


def to_cell(value: Value) -> Value | str:
    """A value for a table's cell: text is UTF-8 and no formula, other values stay as they are.

    `from_cell` restores the text.
    """
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"'{text}" if re.match(FORMULA, text) and not _is_number(text) else text


def from_cell(text: str) -> str:
    """The text that `to_cell` was given."""
    text = text[1:] if re.match(f"'{FORMULA}", text) else text
    return _ESCAPED_BYTE.sub(lambda match: chr(int(match[1], 16)), text)


def match_names(names: Iterable[str]) -> Callable[[str], str]:
    """Make a function from a name to its spelling among `names`; a name that is not among them stays as it is.

    "é" may be one character or two (NFC, NFD): macOS lists file names with two, people type tables with one.

    Args:
        names: Iterable of names.
    """
    names = list(names)
    spelt = {unicodedata.normalize("NFC", name): name for name in names} | {name: name for name in names}
    return lambda name: spelt.get(name) or spelt.get(unicodedata.normalize("NFC", name), name)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
