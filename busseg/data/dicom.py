"""Read ultrasound DICOM: grey frames, where in them the B-mode picture lies, and how many millimetres a pixel is.

Only the technical attributes that stand here are read, so nothing that tells who was scanned can reach a line of ours.
`dicom_seg.py` writes what was seen.

References:
    DICOM PS3.3, C.8.5.5 US Region Calibration, C.7.6.3 Image Pixel, C.11.1 Modality LUT, C.11.2 VOI LUT
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from busseg.data.images import MAX_PIXELS

SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound Image Storage
    "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame Image Storage
)
# What a result must refer to, and what pixels cannot be read without.
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_OPTIONAL = ("NumberOfFrames", "SequenceOfUltrasoundRegions", "PixelSpacing")
_MM_PER_CM = 10


@dataclass(frozen=True)
class Scan:
    """What the header of an ultrasound DICOM file tells; pixels are read frame by frame, when they are needed.

    Args:
        path: Path of the file.
        frame_count: Number of its frames, 1 of a single image.
        shape: `(height, width)` of each frame in pixels.
        region: `(left, top, width, height)` in pixels of the B-mode picture in the frame: the largest region that the
            scanner marked as two-dimensional tissue, or the whole frame where it marked none. Names, dates and
            measurements stand around it.
        spacing_mm: `(row, column)`: millimetres from one row to the next, and from one column to the next; None where
            the file does not tell.
    """

    path: Path
    frame_count: int
    shape: tuple[int, int]
    region: tuple[int, int, int, int]
    spacing_mm: tuple[float, float] | None

    def read_frame(self, number=1):
        """Read one frame as it is shown, in grey.

        Args:
            number: Number of the frame, from 1, as DICOM counts.

        Returns:
            Array `(height, width)` uint8: the whole frame, with all that is written on it.

        Raises:
            ValueError: If the pixels are missing, cut short or broken, or nothing that is installed decodes them.
            ImportError: If pydicom is missing.
        """
        pydicom = import_pydicom(self.path)
        header = pydicom.Dataset()
        try:
            pixels = pydicom.pixels.pixel_array(self.path, ds_out=header, index=number - 1)
            grey = _to_grey(pixels, header)
        except Exception as error:  # decoders raise what they like
            found = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"Expected pixels that can be decoded, found others ({found}): {self.path}") from error
        if grey.shape != self.shape:
            raise ValueError(f"Expected a frame of {self.shape}, found {grey.shape}: {self.path}")
        return grey

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
        ValueError: If the file is no complete DICOM, or no ultrasound.
        ImportError: If pydicom is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a DICOM file, found nothing: {path}")
    pydicom = import_pydicom(path)
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_REQUIRED, *_OPTIONAL])
    except pydicom.errors.InvalidDicomError as error:
        raise ValueError(f"Expected a DICOM file, found something else: {path}") from error
    except Exception as error:  # broken content ends anywhere in pydicom, and its words may quote the content
        raise ValueError(
            f"Expected a complete DICOM file, found a broken one ({type(error).__name__}): {path}"
        ) from error
    kind = header.get("SOPClassUID", header.file_meta.get("MediaStorageSOPClassUID"))
    if kind and kind not in SOP_CLASSES:
        raise ValueError(f"Expected an ultrasound image, found {pydicom.uid.UID(kind).name}: {path}")
    for keyword in _REQUIRED:
        if header.get(keyword) in (None, "", 0):
            raise ValueError(f"Expected a DICOM image with {keyword}, found none: {path}")
    shape = header.Rows, header.Columns
    if shape[0] * shape[1] > MAX_PIXELS:
        raise ValueError(f"Expected at most {MAX_PIXELS} pixels a frame, found {shape[1]} x {shape[0]}: {path}")
    try:
        region, spacing_mm = _region(header)
        return Scan(path, max(1, int(header.get("NumberOfFrames") or 1)), shape, region, spacing_mm)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"Expected frames and regions as DICOM describes them, found others: {path}") from error


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
        spacing = header.get("PixelSpacing")
        return (0, 0, width, height), tuple(float(mm) for mm in spacing) if spacing else None
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
    return np.uint8(np.rint(255 * np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)))
