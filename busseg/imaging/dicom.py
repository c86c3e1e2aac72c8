"""Read ultrasound DICOM: grey frames, their B-mode regions, and the size of a pixel in millimetres.

Only the technical attributes named here are read, so no message or table of busseg names the patient. A PACS finds the
image by the identifiers of study, series and instance.
`dicom_seg.py` and `dicom_sr.py` write results as DICOM.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.dicom_pixels import (
    START_BYTES,
    count_frames,
    decode_frame,
    import_pydicom,
    looks_like_dicom,
    read_header,
)
from busseg.imaging.images import check_file, check_size

if TYPE_CHECKING:
    from busseg.imaging.dicom_regions import Regions

# Ultrasound Image Storage and Ultrasound Multi-frame Image Storage, each with its retired form.
SINGLE_CLASSES = ("1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.6")
SOP_CLASSES = (*SINGLE_CLASSES, "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.3")
# Attributes that a result must reference, or that the pixels need.
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_REQUIRED = ("SOPClassUID", *_IDENTIFIERS, "Rows", "Columns")
_OPTIONAL = (
    "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "SequenceOfUltrasoundRegions", "PixelSpacing",
    "BurnedInAnnotation",
)  # fmt: skip


class Uids(NamedTuple):
    """The identifiers of a DICOM file; "" for one that has other letters than digits and dots."""

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""


@dataclass(frozen=True)
class Scan:
    """The header of an ultrasound DICOM file. Pixels are read frame by frame, on demand.

    Args:
        path: Path of the file.
        frame_count: Number of frames, 1 for a single image. For a file that is cut short, the frames it still holds.
        shape: `(height, width)` of each frame in pixels.
        regions: The frame's regions and their faults; see `find_regions`.
        missing: Number of frames that the header claims and the file lacks.
        compressed: Whether the pixels are compressed. A separate process decodes those.
        uids: The `Uids` of the file.
    """

    path: Path
    frame_count: int
    shape: tuple[int, int]
    regions: "Regions"
    missing: int = 0
    compressed: bool = False
    uids: Uids | None = None
    # Why a frame ended the decoder's process. The other frames are then not tried: each might take as long.
    _fatal: list[str] = field(default_factory=list, repr=False, compare=False)

    def read_frame(self, number: int = 1) -> NDArray[np.uint8]:
        """Read one frame as viewers show it, in grey.

        Args:
            number: Number of the frame, from 1, as DICOM counts.

        Returns:
            Array `(height, width)` uint8: the whole frame, with any text on it.

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
    def boxes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Tuple of `(left, top, width, height)` in pixels: the regions, or the whole frame if none is usable."""
        return self.regions.boxes or ((0, 0, *self.shape[::-1]),)

    @property
    def region(self) -> tuple[int, int, int, int]:
        """The largest of `boxes`."""
        return max(self.boxes, key=lambda box: box[2] * box[3])

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """`(row, column)`: millimetres from one row to the next and from one column to the next; None if unknown."""
        return self.regions.spacing_mm

    def crops(self, frame: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """The parts of a frame in `boxes`, a list of arrays `(height, width)`."""
        return [
            np.ascontiguousarray(frame[top : top + height, left : left + width])
            for left, top, width, height in self.boxes
        ]

    def place(self, crops: Sequence[NDArray]) -> NDArray:
        """Undo `crops`: put the values of each box, such as masks, into a whole frame that is 0 elsewhere.

        Where boxes overlap, the greatest value counts.
        """
        frame, placed = np.zeros(self.shape, crops[0].dtype), np.zeros(self.shape, bool)
        for (left, top, width, height), values in zip(self.boxes, crops, strict=True):
            place = slice(top, top + height), slice(left, left + width)
            frame[place] = np.where(placed[place], np.maximum(frame[place], values), values)
            placed[place] = True
        return frame


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its content, or is named `*.dcm`."""
    path = Path(path)
    if path.suffix.lower() == ".dcm":
        return True
    try:
        if not path.is_file():  # opening a pipe may block forever
            return False
        with path.open("rb") as file:
            return looks_like_dicom(file.read(START_BYTES))
    except OSError:
        return False


def read_dicom(path: str | Path) -> Scan:
    """Read the header of an ultrasound DICOM file.

    Args:
        path: Path of the file: a single image or a clip, of any transfer syntax.

    Returns:
        A `Scan`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not complete DICOM, is not ultrasound, or no installed package decodes its pixels.
        ImportError: If pydicom is missing.
    """
    from busseg.imaging.dicom_regions import find_regions

    path = Path(path)
    pydicom = import_pydicom(path)
    check_file(path, "a DICOM")
    try:
        with path.open("rb") as file:
            header = read_header(file, (*_REQUIRED, *_OPTIONAL))
            claimed = int(header.get("NumberOfFrames") or 1)
            frames = claimed if claimed == 1 else min(claimed, count_frames(file, header))
        required = {keyword: header.get(keyword) for keyword in _REQUIRED}
        required["TransferSyntaxUID"] = header.file_meta.get("TransferSyntaxUID")
        kind = pydicom.uid.UID(required["SOPClassUID"] or header.file_meta.get("MediaStorageSOPClassUID", ""))
    except pydicom.errors.InvalidDicomError as error:
        raise ValueError(f"Expected a DICOM file, found something else: {path}") from error
    except Exception as error:  # pydicom raises any error for broken content, and its text may quote a patient's data
        if isinstance(error, OSError) and error.errno:  # a system error: no permission, too many open files
            raise
        raise ValueError(f"Expected a complete DICOM file, found a broken one: {path}") from error
    if kind and kind not in SOP_CLASSES:
        raise ValueError(f"Expected an ultrasound image, found {_name(kind)}: {path}")
    for keyword, value in required.items():
        if not value:
            raise ValueError(f"Expected a DICOM image with {keyword}, found none: {path}")
    _check_decoder(required["TransferSyntaxUID"], path)
    try:
        shape = int(header.Rows), int(header.Columns)
        regions = find_regions(header)
    except Exception as error:
        raise ValueError(f"Expected a DICOM image with regions and frames, found broken ones: {path}") from error
    if refusal := check_size(shape):
        raise ValueError(f"Expected {refusal}: {path}")
    if not (frames > 0 and claimed < path.stat().st_size):
        raise ValueError(f"Expected a number of frames that fit into the file, found {claimed}: {path}")
    uids = Uids(*(_digits(required[keyword]) for keyword in _IDENTIFIERS))
    return Scan(path, frames, shape, regions, claimed - frames, required["TransferSyntaxUID"].is_encapsulated, uids)


def _digits(uid):
    """An identifier as text; "" for a broken one, which may contain other text of the file."""
    return str(uid) if re.fullmatch(r"[0-9.]{1,64}", str(uid)) else ""


def _name(uid):
    """The standard's name of an identifier. A broken identifier may contain other text of the file, so it has none."""
    return uid.name if uid.is_valid else "something else"


def _check_decoder(transfer_syntax, path):
    from pydicom.pixels import get_decoder

    name = _name(transfer_syntax)
    try:
        decoder = get_decoder(transfer_syntax)
    except NotImplementedError:
        decoder = None
    # pydicom cannot separate the frames of a deflated file or a video.
    if decoder is None or transfer_syntax.is_deflated:
        raise ValueError(f"Expected separate frames in a known transfer syntax, found {name}: {path}")
    if not decoder.is_available:
        raise ValueError(f'Expected a decoder of {name}, found none; pip install "busseg[dicom]": {path}')
