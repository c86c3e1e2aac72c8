"""The pixels of ultrasound DICOM, one frame at a time: decoded, and as they are shown, in grey.

References:
    DICOM PS3.3, C.7.6.3 Image Pixel, C.11.1 Modality LUT, C.11.2 VOI LUT
    ISO/IEC 10918-1 (JPEG), 14495-1 (JPEG-LS) and 15444-1 (JPEG 2000), where a codestream tells its size
"""

import re
import struct
import warnings

import numpy as np
from PIL import Image

_IMAGE = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
START_BYTES = 132  # that tell whether a file is DICOM
_TAG_BYTES = 12  # before the pixels of a compressed file: its tag, kind and length
# The markers of JPEG's and JPEG-LS' frame headers; what lies between them are tables.
_JPEG_FRAMES = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"


def decode_frame(path, number, shape):
    """Decode one frame in this process, in grey.

    Args:
        path: Path of a DICOM file.
        number: Number of the frame, from 1.
        shape: `(height, width)` that it must have.

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
    except Exception as error:  # decoders raise what they like
        found = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected pixels that can be decoded, found others ({found}): {path}") from error
    if grey.shape != shape:
        raise ValueError(f"Expected a frame of {shape}, found {grey.shape}: {path}")
    return grey


def looks_like_dicom(start):
    """Whether a file's first `START_BYTES` bytes are those of DICOM: 128 bytes and DICM, or, of files from before 1993
    and of some exports, the first element itself, of group 2 or 8.
    """
    if start[128:132] == b"DICM":
        return True
    if len(start) < 8 or start[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    _, element, kind, length = struct.unpack("<HH2sH", start[:8])
    # Of explicit VR two letters follow; of implicit VR the length in four bytes, which is short.
    return element < 0x100 and bool(re.fullmatch(b"[A-Z]{2}", kind) or (kind[0] > 0 and kind[1] == length == 0))


def read_header(file, keywords=None):
    """Read a DICOM header without the pixels; of a file without preamble, too.

    Args:
        file: Binary file object, at its beginning.
        keywords: Sequence of those to read; all by default.

    Returns:
        A `pydicom.FileDataset`. Its `file_meta` tells the transfer syntax even where the file does not, for a file
        without preamble may leave it out.

    Raises:
        InvalidDicomError: If it is no DICOM. Broken content raises others.
    """
    import pydicom

    start = file.read(START_BYTES)
    file.seek(0)
    if not looks_like_dicom(start):
        raise pydicom.errors.InvalidDicomError
    tags = keywords and list(keywords)
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=tags)
    if not header.file_meta:  # pydicom has found out
        implicit, little = header.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
    return header


def count_frames(file, header):
    """How many frames the bytes of a file can hold at most, whatever its header says.

    Args:
        file: Binary file object, at the tag of the pixels, where `dcmread(stop_before_pixels=True)` leaves it.
        header: What it has read.
    """
    if header.file_meta.TransferSyntaxUID.is_encapsulated:
        from pydicom.encaps import parse_basic_offsets, parse_fragments

        file.seek(_TAG_BYTES, 1)
        parse_basic_offsets(file)
        return parse_fragments(file)[0]  # a frame has one or more
    place = file.tell()
    left = file.seek(0, 2) - place
    samples = min(header.SamplesPerPixel, 2)  # of three, where colours are stored for pairs of pixels
    return 8 * left // (header.Rows * header.Columns * samples * header.BitsAllocated)


def _check_codestream(path, number):
    """Refuse a compressed frame of another size than the header's before a decoder makes room for it.

    Returns:
        The transfer syntax of the file.
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
    """`(height, width, channels)` that JPEG, JPEG-LS or JPEG 2000 tells."""
    if codestream.startswith(_JPEG):
        place = len(_JPEG)
        while (marker := struct.unpack_from(">H", codestream, place)[0]) not in _JPEG_FRAMES:
            if marker < 0xFF01:
                raise ValueError("a broken JPEG")
            place += 1 if marker == 0xFFFF else 2 + struct.unpack_from(">H", codestream, place + 2)[0]
        return struct.unpack_from(">HHB", codestream, place + 5)
    # Perhaps within the boxes of a JP2 file. Another one that merely looks like it must not hide the true one.
    found = set()
    for start in re.finditer(re.escape(_JPEG_2000), codestream):
        width, height, left, top, channels = struct.unpack_from(">4L16xH", codestream, start.start() + 8)
        found.add((height - top, width - left, channels))
    if len(found) != 1:
        raise ValueError("no codestream, or several")
    return found.pop()


def import_pydicom(path):
    """pydicom, silenced: its warnings quote values of the file, which may be a patient's.

    Raises:
        ImportError: If it is not installed; the line names the file that needs it.
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
    """A decoded frame as it is shown, uint8; `header` tells what its values mean."""
    from pydicom.pixels import apply_color_lut

    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)
        pixels = _to_8_bits(pixels, 0, np.iinfo(pixels.dtype).max)
    elif header.SamplesPerPixel == 1:
        return _shown(pixels, header)
    elif pixels.dtype != np.uint8:
        pixels = _to_8_bits(pixels, 0, 2**header.BitsStored - 1)
    # The luma of `images.read_image`, so that a frame and its screenshot have the same answer.
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _shown(pixels, header):
    """Monochrome values after the file's own tables and windows, black to white."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    bits, signed = header.BitsStored, header.PixelRepresentation == 1
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    ends = _ends_of_table(header, "ModalityLUTSequence", np.sort(apply_modality_lut(ends, header)))
    values = apply_voi_lut(apply_modality_lut(pixels, header), header)
    ends = _ends_of_table(header, "VOILUTSequence", ends)
    grey = _to_8_bits(values, *ends)
    return 255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


def _ends_of_table(header, keyword, otherwise):
    """What stands for black and for white behind a table of the file, if it has one."""
    tables = header.get(keyword)
    return (0, 2 ** tables[0].LUTDescriptor[2] - 1) if tables else otherwise


def _to_8_bits(values, low, high):
    shares = values.astype(np.float64)  # changed in place, for a frame may be large
    shares -= low
    shares /= high - low
    np.clip(shares, 0, 1, out=shares)
    shares *= 255
    return np.rint(shares, out=shares).astype(np.uint8)
