"""Read ultrasound DICOM: grey frames, where in them the B-mode picture lies, and how many millimetres a pixel is.

Only the technical attributes that stand here are read, so nothing that tells who was scanned can reach a line of ours.
`dicom_seg.py` writes what was seen.

References:
    DICOM PS3.3, C.8.5.5 US Region Calibration
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from busseg.data.dicom_pixels import count_frames, decode_frame, import_pydicom
from busseg.data.images import check_file, check_size

SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound Image Storage
    "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame Image Storage
)
# What a result must refer to, and what pixels cannot be read without.
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_OPTIONAL = ("NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "SequenceOfUltrasoundRegions", "PixelSpacing")
_MM_PER_CM = 10


@dataclass(frozen=True)
class Scan:
    """What the header of an ultrasound DICOM file tells; pixels are read frame by frame, when they are needed.

    Args:
        path: Path of the file.
        frame_count: Number of its frames, 1 of a single image; those that are there, where a file is cut short.
        shape: `(height, width)` of each frame in pixels.
        region: `(left, top, width, height)` in pixels of the B-mode picture in the frame: the largest region that the
            scanner marked as two-dimensional tissue, or the whole frame where it marked none. Names, dates and
            measurements stand around it.
        spacing_mm: `(row, column)`: millimetres from one row to the next, and from one column to the next; None where
            the file does not tell.
        missing: How many more frames the header tells of than are there.
        compressed: Whether its pixels are compressed. Those are decoded in a process of their own.
    """

    path: Path
    frame_count: int
    shape: tuple[int, int]
    region: tuple[int, int, int, int]
    spacing_mm: tuple[float, float] | None
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
        from busseg.data.decoder import DecoderDiedError, decode_apart

        if self._fatal:
            raise ValueError(self._fatal[0])
        try:
            return decode_apart(self.path, number, self.shape)
        except DecoderDiedError as error:
            self._fatal.append(str(error))
            raise

    def crop(self, frame):
        """The region's part of a frame, array `(height, width)`; what stands around it stays out of the answer."""
        left, top, width, height = self.region
        return np.ascontiguousarray(frame[top : top + height, left : left + width])

    def place(self, values):
        """Undo `crop`: values of the region, such as a mask, in a whole frame that is 0 elsewhere."""
        left, top, width, height = self.region
        frame = np.zeros(self.shape, values.dtype)
        frame[top : top + height, left : left + width] = values
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
            return file.read(132)[128:] == b"DICM"
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
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*_REQUIRED, *_OPTIONAL])
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
        region, spacing_mm = _region(header)
    except Exception as error:
        raise ValueError(f"Expected a DICOM image with regions and frames, found broken ones: {path}") from error
    if refusal := check_size(shape):
        raise ValueError(f"Expected {refusal}: {path}")
    if not (frames > 0 and told_frames < path.stat().st_size):
        raise ValueError(f"Expected a number of frames that fit into the file, found {told_frames}: {path}")
    return Scan(
        path, frames, shape, region, spacing_mm, told_frames - frames, told["TransferSyntaxUID"].is_encapsulated
    )


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


def _region(header):
    """`(region, spacing_mm)` of a `Scan`."""
    height, width = header.Rows, header.Columns
    tissue = [
        region
        for region in header.get("SequenceOfUltrasoundRegions") or ()
        if region.RegionSpatialFormat == 1 and region.RegionDataType == 1
    ]
    boxes = [_box(region) for region in tissue]
    if not boxes:
        row, column = (float(mm) for mm in header.get("PixelSpacing") or (0, 0))
        return (0, 0, width, height), (row, column) if min(row, column) > 0 else None
    largest = max(range(len(boxes)), key=lambda i: boxes[i][2] * boxes[i][3])
    left, top, *size = boxes[largest]
    if not (0 <= left < width and 0 <= top < height and min(size) > 0):
        return (0, 0, width, height), None
    # A region that reaches out of the frame is that of a larger one, which was cut or shrunk later: its scale may be
    # another. Where it reaches out on both sides its place is, too. (One pixel out is a scanner that counts from 1.)
    out = left + size[0] > width + 1, top + size[1] > height + 1
    if all(out):
        return (0, 0, width, height), None
    inside = left, top, min(size[0], width - left), min(size[1], height - top)
    return inside, None if any(out) else _spacing_mm(tissue[largest])


def _box(region):
    """`(left, top, width, height)` of a region; the corners that it tells both belong to it."""
    left, top = region.RegionLocationMinX0, region.RegionLocationMinY0
    return left, top, region.RegionLocationMaxX1 - left + 1, region.RegionLocationMaxY1 - top + 1


def _spacing_mm(region):
    units = region.get("PhysicalUnitsYDirection"), region.get("PhysicalUnitsXDirection")
    steps = region.get("PhysicalDeltaY"), region.get("PhysicalDeltaX")
    if units != (3, 3) or not all(steps):  # 3: centimetres
        return None
    return tuple(_MM_PER_CM * abs(step) for step in steps)
