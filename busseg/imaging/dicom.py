"""Read ultrasound DICOM: grey frames, where in them the pictures lie, and how many millimetres a pixel is.

Only the technical attributes that stand here are read, so nothing that tells who was scanned can reach a line of ours.
`dicom_seg.py` writes what was seen.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from busseg.imaging.dicom_pixels import (
    START_BYTES,
    count_frames,
    decode_frame,
    import_pydicom,
    looks_like_dicom,
    read_header,
)
from busseg.imaging.dicom_regions import Regions, find_regions
from busseg.imaging.images import check_file, check_size

# Ultrasound Image Storage and Ultrasound Multi-frame Image Storage, each with its retired form.
SINGLE_CLASSES = ("1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.6")
SOP_CLASSES = (*SINGLE_CLASSES, "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.3")
# What a result must refer to, and what pixels cannot be read without.
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_OPTIONAL = (
    "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "SequenceOfUltrasoundRegions", "PixelSpacing",
    "BurnedInAnnotation",
)  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """What the header of an ultrasound DICOM file tells; pixels are read frame by frame, when they are needed.

    Args:
        path: Path of the file.
        frame_count: Number of its frames, 1 of a single image; those that are there, where a file is cut short.
        shape: `(height, width)` of each frame in pixels.
        regions: Where the pictures lie in the frame, and what is not right with them; see `find_regions`.
        missing: How many more frames the header tells of than are there.
        compressed: Whether its pixels are compressed. Those are decoded in a process of their own.
    """

    path: Path
    frame_count: int
    shape: tuple[int, int]
    regions: Regions
    missing: int = 0
    compressed: bool = False
    # Why a frame ended the process that decoded it; the others are not tried, for each might cost as much time.
    _fatal: list[str] = field(default_factory=list, repr=False, compare=False)

    def read_frame(self, number=1):
        """Read one frame as it is shown, in grey.

        Args:
            number: Number of the frame, from 1, as DICOM counts.

        Returns:
            Array `(height, width)` uint8: the whole frame, with all that is written on it.

        Raises:
            ValueError: If the pixels are missing, cut short or broken.
            ImportError: If pydicom is missing.
        """
        if not self.compressed:
            return decode_frame(self.path, number, self.shape)
        from busseg.imaging.decoder import DecoderDiedError, decode_apart

        if self._fatal:
            raise ValueError(self._fatal[0])
        try:
            return decode_apart(self.path, number, self.shape)
        except DecoderDiedError as error:
            self._fatal.append(str(error))
            raise

    @property
    def boxes(self):
        """Tuple of `(left, top, width, height)` in pixels: the regions, or the whole frame where none is usable."""
        return self.regions.boxes or ((0, 0, *self.shape[::-1]),)

    @property
    def region(self):
        """The largest of `boxes`."""
        return max(self.boxes, key=lambda box: box[2] * box[3])

    @property
    def spacing_mm(self):
        """`(row, column)`: millimetres from one row to the next, and from one column to the next; None where the file
        does not tell.
        """
        return self.regions.spacing_mm

    def crops(self, frame):
        """The parts of a frame in `boxes`, a list of arrays `(height, width)`; the rest stays out of the answer."""
        return [
            np.ascontiguousarray(frame[top : top + height, left : left + width])
            for left, top, width, height in self.boxes
        ]

    def place(self, crops):
        """Undo `crops`: values of each box, such as masks, in a whole frame that is 0 elsewhere.

        Where boxes overlap, the greatest value stands.
        """
        frame, placed = np.zeros(self.shape, crops[0].dtype), np.zeros(self.shape, bool)
        for (left, top, width, height), values in zip(self.boxes, crops, strict=True):
            place = slice(top, top + height), slice(left, left + width)
            frame[place] = np.where(placed[place], np.maximum(frame[place], values), values)
            placed[place] = True
        return frame


def is_dicom(path):
    """Whether a file is DICOM by its content, or says so by the name `*.dcm`."""
    path = Path(path)
    if path.suffix.lower() == ".dcm":
        return True
    try:
        if not path.is_file():  # to open a pipe may never end
            return False
        with path.open("rb") as file:
            return looks_like_dicom(file.read(START_BYTES))
    except OSError:
        return False


def read_dicom(path):
    """Read the header of an ultrasound DICOM file.

    Args:
        path: Path of the file: a single image or a clip, of any transfer syntax.

    Returns:
        A `Scan`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no complete DICOM, or no ultrasound, or nothing that is installed decodes its pixels.
        ImportError: If pydicom is missing.
    """
    path = Path(path)
    pydicom = import_pydicom(path)
    check_file(path, "a DICOM")
    try:
        with path.open("rb") as file:
            header = read_header(file, (*_REQUIRED, *_OPTIONAL))
            told_frames = int(header.get("NumberOfFrames") or 1)
            frames = told_frames if told_frames == 1 else min(told_frames, count_frames(file, header))
        told = {keyword: header.get(keyword) for keyword in _REQUIRED}
        told["TransferSyntaxUID"] = header.file_meta.get("TransferSyntaxUID")
        kind = pydicom.uid.UID(told["SOPClassUID"] or header.file_meta.get("MediaStorageSOPClassUID", ""))
    except pydicom.errors.InvalidDicomError as error:
        raise ValueError(f"Expected a DICOM file, found something else: {path}") from error
    except Exception as error:  # broken content ends anywhere in pydicom, and its words may quote the content
        if isinstance(error, OSError) and error.errno:  # of the system: no permission, too many open files
            raise
        raise ValueError(f"Expected a complete DICOM file, found a broken one: {path}") from error
    if kind and kind not in SOP_CLASSES:
        raise ValueError(f"Expected an ultrasound image, found {_name(kind)}: {path}")
    for keyword, value in told.items():
        if not value:
            raise ValueError(f"Expected a DICOM image with {keyword}, found none: {path}")
    _check_decoder(told["TransferSyntaxUID"], path)
    try:
        shape = int(header.Rows), int(header.Columns)
        regions = find_regions(header)
    except Exception as error:
        raise ValueError(f"Expected a DICOM image with regions and frames, found broken ones: {path}") from error
    if refusal := check_size(shape):
        raise ValueError(f"Expected {refusal}: {path}")
    if not (frames > 0 and told_frames < path.stat().st_size):
        raise ValueError(f"Expected a number of frames that fit into the file, found {told_frames}: {path}")
    return Scan(path, frames, shape, regions, told_frames - frames, told["TransferSyntaxUID"].is_encapsulated)


def _name(uid):
    """The name that the standard gives; a broken identifier may hold the text that stands beside it in the file."""
    return uid.name if uid.is_valid else "something else"


def _check_decoder(transfer_syntax, path):
    from pydicom.pixels import get_decoder

    name = _name(transfer_syntax)
    try:
        decoder = get_decoder(transfer_syntax)
    except NotImplementedError:
        decoder = None
    # pydicom finds no single frames in a deflated file, as in a film.
    if decoder is None or transfer_syntax.is_deflated:
        raise ValueError(f"Expected still pictures of a known transfer syntax, found {name}: {path}")
    if not decoder.is_available:
        raise ValueError(f'Expected a decoder of {name}, found none; pip install "busseg[dicom]": {path}')
