"""Find the image regions in a frame of ultrasound DICOM. Names, dates and measurements lie around them.

busseg reads each region that the scanner marked as two-dimensional, with tissue or colour flow (tissue under colours).
A dual or quad screen has several. A region within another one, such as a colour box, is read with the region around it.

References:
    DICOM PS3.3, C.8.5.5 US Region Calibration
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

MOST = 8  # regions read in a frame; a quad screen has four
_LISTED = 64  # items examined; a broken file may hold many thousands
SMALLEST_PX = 16  # side of a region; some files mark a corner of a few pixels, or a single pixel
_2D = 1
_FORMATS = {0: "of no format", 2: "an M-mode", 3: "a Doppler spectrum", 4: "a waveform", 5: "graphics"}
_TISSUE, _COLOUR_FLOW = 1, 2
_CM = 3
_MM_PER_CM = 10
_SLACK_PX = 2  # rounding of the corners of a region within another
_NAMED = 4  # faulty regions named in a note


@dataclass(frozen=True)
class Regions:
    """The regions of a frame.

    Args:
        boxes: Tuple of `(left, top, width, height)` in pixels, in the order of the file; empty if no region is usable.
        spacing_mm: `(row, column)`, the millimetres from one pixel to the next; None if the file does not say, or the
            regions differ.
        fault: Why no region is usable, as part of a sentence; None if one is.
        notes: Tuple of lines: which regions the result leaves out, or that it shows the whole frame.
    """

    boxes: tuple[tuple[int, int, int, int], ...]
    spacing_mm: tuple[float, float] | None = None
    fault: str | None = None
    notes: tuple[str, ...] = ()


def find_regions(header: "Dataset") -> Regions:
    """The `Regions` of a DICOM header.

    Args:
        header: `pydicom.Dataset` with Rows and Columns. A broken or incomplete region is skipped and named in the
            notes.
    """
    items = header.get("SequenceOfUltrasoundRegions") or ()
    found, faults = [], []
    for number, item in enumerate(items[:_LISTED], start=1):
        try:
            flat, fault = int(item.RegionSpatialFormat) == _2D, _fault(item, header)
        except Exception:  # an attribute is missing or broken; pydicom raises errors of any kind
            flat, fault = True, "incomplete"
        if fault:
            faults.append((flat, f"region {number} is {fault}"))
        else:
            found.append(item)
    if not found:
        return _whole(header, [fault for _, fault in faults])
    notes = []
    if lost := [fault for flat, fault in faults if flat]:
        notes.append(f"not read: {_listed(lost)}")
    kept, more = _outermost(found)
    if len(items) > _LISTED:
        notes.append(f"not read: regions after the first {_LISTED}")
    if more:
        notes.append(f"not read: {more} regions beyond the {MOST} largest")
    scales = [_spacing_mm(item, header) for item in kept]
    alike = all(_alike(scale, scales[0]) for scale in scales)
    if not alike:
        notes.append("no size in mm: the regions have different scales")
    boxes = tuple(_inside(_box(item), header) for item in kept)
    return Regions(boxes, scales[0] if alike else None, notes=tuple(notes))


def _whole(header, faults):
    """The `Regions` of a frame that is read as a whole."""
    fault = _listed(faults) if faults else "no region is marked"
    burned_in = ", BurnedInAnnotation is YES" if header.get("BurnedInAnnotation") == "YES" else ""
    note = f"whole frame shown, with any name on it ({fault}{burned_in})"
    row, column = (0, 0) if faults else (float(mm) for mm in header.get("PixelSpacing") or (0, 0))
    return Regions((), (row, column) if min(row, column) > 0 else None, fault, (note,))


def _listed(faults):
    more = len(faults) - _NAMED
    return ", ".join(faults[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _fault(item, header):
    """Why a region cannot be read, as part of a sentence; None if it can."""
    if (kind := int(item.RegionSpatialFormat)) != _2D:
        return _FORMATS.get(kind, f"of format {kind}")
    if (data := int(item.RegionDataType)) not in (_TISSUE, _COLOUR_FLOW):
        return f"of data type {data}, not tissue or colour flow"
    left, top, *size = _box(item)
    if min(size) < SMALLEST_PX:
        return f"empty, inverted or smaller than {SMALLEST_PX} px"
    if not (0 <= left < header.Columns and 0 <= top < header.Rows):
        return "outside of the frame"
    # The frame was shrunk after the region was marked, so the region's place is wrong.
    return "larger than the frame" if all(_reaches_out(item, header)) else None


def _box(item):
    """`(left, top, width, height)` of a region. Both corners in the header belong to it."""
    left, top = int(item.RegionLocationMinX0), int(item.RegionLocationMinY0)
    return left, top, int(item.RegionLocationMaxX1) - left + 1, int(item.RegionLocationMaxY1) - top + 1


def _reaches_out(item, header):
    """Whether a region extends beyond its frame on the right, and below. One pixel is allowed: some scanners count
    from 1.
    """
    left, top, width, height = _box(item)
    return left + width > header.Columns + 1, top + height > header.Rows + 1


def _inside(box, header):
    left, top, width, height = box
    return left, top, min(width, header.Columns - left), min(height, header.Rows - top)


def _outermost(items):
    """`(kept, more)`: the items within no larger one, at most the `MOST` largest, and the number of further ones."""
    boxes = [_box(item) for item in items]
    kept, more = [], 0
    for i in sorted(range(len(items)), key=lambda i: -boxes[i][2] * boxes[i][3]):
        if not any(_lies_in(boxes[i], boxes[j]) for j in kept):
            if len(kept) < MOST:
                kept.append(i)
            else:
                more += 1
    return [items[i] for i in sorted(kept)], more


def _lies_in(box, other):
    return all(
        other[side] - _SLACK_PX <= box[side] and box[side] + box[side + 2] <= other[side] + other[side + 2] + _SLACK_PX
        for side in (0, 1)
    )


def _spacing_mm(item, header):
    # A region that extends beyond the frame shows that the frame was cropped or shrunk: its scale may be wrong.
    if any(_reaches_out(item, header)):
        return None
    try:
        units = item.PhysicalUnitsYDirection, item.PhysicalUnitsXDirection
        steps = [abs(float(step)) for step in (item.PhysicalDeltaY, item.PhysicalDeltaX)]
    except Exception:  # as in `find_regions`; the image can be read without a scale
        return None
    if units != (_CM, _CM) or not all(0 < step < math.inf for step in steps):
        return None
    return tuple(_MM_PER_CM * step for step in steps)


def _alike(scale, other):
    if scale is None or other is None:
        return scale is other
    return all(math.isclose(mm, other_mm, rel_tol=1e-3) for mm, other_mm in zip(scale, other))
