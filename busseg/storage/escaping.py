"""Names and words of others as text that a terminal, a table and UTF-8 can hold."""

import re
import unicodedata

# What spreadsheet programs take for the beginning of a formula, which may call other programs; see OWASP, "CSV
# Injection". An apostrophe before it makes it text, so one that stands there already gets one, too.
FORMULA = r"'*[=+\-@\t\r\n]"
# Bytes of a file name that are no UTF-8, which Python keeps as lone surrogates, and those as text.
_ESCAPED_BYTE = re.compile(r"\\u(dc[89a-f][0-9a-f])")
_SPACES = "\u00a0\u2007\u202f\u3000"  # which Python does not call printable


def printable(text):
    """The text with all that does not print, such as the escape sequences of terminals, as `\\x1b` and the like."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _SPACES else c.encode("unicode_escape").decode() for c in text)


def to_cell(value):
    """A value as a table holds it: of text, no formula, and no byte that is not UTF-8; undone by `from_cell`."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return f"'{text}" if re.match(FORMULA, text) and not _is_number(text) else text


def from_cell(text):
    """The text that `to_cell` made a cell of."""
    text = text[1:] if re.match(f"'{FORMULA}", text) else text
    return _ESCAPED_BYTE.sub(lambda match: chr(int(match[1], 16)), text)


def match_names(names):
    """A function that finds a name as it is spelt among `names`; one that is not there it gives back.

    "e" and its accent may be one letter or two (NFC, NFD): macOS tells file names by two, tables are typed with one.

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
