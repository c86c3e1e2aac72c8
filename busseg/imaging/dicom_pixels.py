"""Decode ultrasound DICOM, one frame at a time, to the grey values that viewers show.

References:
    DICOM PS3.3, C.7.6.3 Image Pixel, C.11.1 Modality LUT, C.11.2 VOI LUT
    ISO/IEC 10918-1 (JPEG), 14495-1 (JPEG-LS) and 15444-1 (JPEG 2000): where a codestream states its size
"""

import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

_IMAGE = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
START_BYTES = 132  # a file's first bytes, which show whether it is DICOM
_TAG_BYTES = 12  # before the pixels of a compressed file: tag, kind and length
# The markers of JPEG's and JPEG-LS' frame headers. Tables lie between them.
_JPEG_FRAMES = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"


def decode_frame(path: Path, number: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode one frame in this process, in grey.

    Args:
        path: Path of a DICOM file.
        number: Number of the frame, from 1.
        shape: `(height, width)` in pixels that the frame must have.

    Returns:
        Array `(height, width)` uint8.

    Raises:
        ValueError: If the pixels are missing, cut short, broken or of another size.
        ImportError: If pydicom is missing.
    """
    pydicom = import_pydicom(path)
    header = pydicom.Dataset()
    try:
        syntax = _check_codestream(path, number)
        pixels = pydicom.pixels.pixel_array(path, ds_out=header, index=number - 1, transfer_syntax_uid=syntax)
        grey = _to_grey(pixels, header)
    except Exception as error:  # decoders raise errors of any kind
        found = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected pixels that can be decoded, found others ({found}): {path}") from error
    if grey.shape != shape:
        raise ValueError(f"Expected a frame of {shape}, found {grey.shape}: {path}")
    return grey


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file's first `START_BYTES` bytes are DICOM.

    Most files have 128 bytes and DICM there; files from before 1993 and some exports begin with the first element
    itself, of group 2 or 8.
    """
    if start[128:132] == b"DICM":
        return True
    if len(start) < 8 or start[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    _, element, kind, length = struct.unpack("<HH2sH", start[:8])
    # In explicit VR two letters follow; in implicit VR the length in four bytes, a small number.
    return element < 0x100 and bool(re.fullmatch(b"[A-Z]{2}", kind) or (kind[0] > 0 and kind[1] == length == 0))


def read_header(file: BinaryIO, keywords: Sequence[str] | None = None) -> "FileDataset":
    """Read a DICOM header without the pixels, from files with or without preamble.

    Args:
        file: Binary file object, at its beginning.
        keywords: Keywords of the attributes to read; all by default.

    Returns:
        A `pydicom.FileDataset`. Its `file_meta` always has the transfer syntax, which a file without preamble may lack.

    Raises:
        InvalidDicomError: If it is not DICOM. Broken content raises other errors.
    """
    import pydicom

    start = file.read(START_BYTES)
    file.seek(0)
    if not looks_like_dicom(start):
        raise pydicom.errors.InvalidDicomError
    tags = list(keywords) if keywords else None
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=tags)
    if not header.file_meta:  # pydicom has detected the encoding
        implicit, little = header.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
    return header


def count_frames(file: BinaryIO, header: "Dataset") -> int:
    """The number of frames that the bytes of a file can hold at most. The header's number may be wrong.

    Args:
        file: Binary file object, at the tag of the pixels, where `dcmread(stop_before_pixels=True)` leaves it.
        header: The file's header, as `read_header` returns it.
    """
    if header.file_meta.TransferSyntaxUID.is_encapsulated:
        from pydicom.encaps import parse_basic_offsets, parse_fragments

        file.seek(_TAG_BYTES, 1)
        parse_basic_offsets(file)
        return parse_fragments(file)[0]  # a frame has one or more fragments
    place = file.tell()
    left = file.seek(0, 2) - place
    samples = min(header.SamplesPerPixel, 2)  # YBR 4:2:2 stores two samples a pixel, not three
    return 8 * left // (header.Rows * header.Columns * samples * header.BitsAllocated)


def _check_codestream(path, number):
    """Check a compressed frame's size against the header's before a decoder allocates memory for it.

    Returns:
        The transfer syntax of the file.

    Raises:
        ValueError: If the sizes differ.
    """
    import pydicom
    from pydicom.encaps import get_frame

    with path.open("rb") as file:
        header = read_header(file, _IMAGE)
        syntax = header.file_meta.TransferSyntaxUID
        if not syntax.is_encapsulated or syntax == pydicom.uid.RLELossless:
            return syntax
        file.seek(_TAG_BYTES, 1)
        offsets = (
            (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in header else None
        )
        frames = int(header.get("NumberOfFrames") or 1)
        codestream = get_frame(file, number - 1, extended_offsets=offsets, number_of_frames=frames)
    found, expected = _size(codestream), (header.Rows, header.Columns, header.SamplesPerPixel)
    if found != expected:
        raise ValueError(f"a codestream of {found}, not {expected}")
    return syntax


def _size(codestream):
    """`(height, width, channels)` in the header of a JPEG, JPEG-LS or JPEG 2000 codestream."""
    if codestream.startswith(_JPEG):
        place = len(_JPEG)
        while (marker := struct.unpack_from(">H", codestream, place)[0]) not in _JPEG_FRAMES:
            if marker < 0xFF01:
                raise ValueError("a broken JPEG")
            place += 1 if marker == 0xFFFF else 2 + struct.unpack_from(">H", codestream, place + 2)[0]
        return struct.unpack_from(">HHB", codestream, place + 5)
    # It may lie within the boxes of a JP2 file. Bytes that only look like a header must not hide the real one.
    found = set()
    for start in re.finditer(re.escape(_JPEG_2000), codestream):
        width, height, left, top, channels = struct.unpack_from(">4L16xH", codestream, start.start() + 8)
        found.add((height - top, width - left, channels))
    if len(found) != 1:
        raise ValueError("no codestream, or several")
    return found.pop()


def import_pydicom(path: str | Path) -> ModuleType:
    """Import pydicom and silence it: its warnings quote values of the file, which may be a patient's.

    Args:
        path: Path of the file that needs it, for the error.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ImportError(f'Expected pydicom to read DICOM, found none; pip install "busseg[dicom]": {path}') from error
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom


def _to_grey(pixels, header):
    """A decoded frame as viewers show it, `(height, width)` uint8; `header` defines what its values mean."""
    from pydicom.pixels import apply_color_lut

    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)
        pixels = _to_8_bits(pixels, 0, np.iinfo(pixels.dtype).max)
    elif header.SamplesPerPixel == 1:
        return _shown(pixels, header)
    elif pixels.dtype != np.uint8:
        pixels = _to_8_bits(pixels, 0, 2**header.BitsStored - 1)
    # The luma of `images.read_image`, so that a frame and its screenshot give the same result.
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _shown(pixels, header):
    """Monochrome values after the file's own tables and windows, from black to white, uint8."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    bits, signed = header.BitsStored, header.PixelRepresentation == 1
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    ends = _ends_of_table(header, "ModalityLUTSequence", np.sort(apply_modality_lut(ends, header)))
    values = apply_voi_lut(apply_modality_lut(pixels, header), header)
    ends = _ends_of_table(header, "VOILUTSequence", ends)
    grey = _to_8_bits(values, *ends)
    return 255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


def _ends_of_table(header, keyword, otherwise):
    """The values of black and white after a table of the file; `otherwise` if it has no such table."""
    tables = header.get(keyword)
    return (0, 2 ** tables[0].LUTDescriptor[2] - 1) if tables else otherwise


def _to_8_bits(values, low, high):
    shares = values.astype(np.float64)  # changed in place, because a frame may be large
    shares -= low
    shares /= high - low
    np.clip(shares, 0, 1, out=shares)
    shares *= 255
    return np.rint(shares, out=shares).astype(np.uint8)
