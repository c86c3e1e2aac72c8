"""The signature in busseg's PNG files, by which it recognises its own."""

import struct
import zlib
from pathlib import Path

SOFTWARE = {"Software": "busseg"}  # PNG's own keyword
_TEXT = b"Software\0busseg"


def sign(png: bytes) -> bytes:
    """The bytes of a PNG file with a text chunk that names busseg, behind the header of 33 bytes."""
    content = b"tEXt" + _TEXT
    return png[:33] + struct.pack(">I", len(_TEXT)) + content + struct.pack(">I", zlib.crc32(content)) + png[33:]


def is_own_picture(path: str | Path) -> bool:
    """Whether the file is there and is a PNG file that busseg wrote."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return _TEXT in file.read(256)
