"""Where in a frame of ultrasound DICOM the pictures lie; names, dates and measurements stand around them.

Read is each region that the scanner marked as two-dimensional and of tissue, or of colour flow, which is tissue with
colours over it. Of a dual or quad screen that is several. One that lies in another is read with it, as the colour box
in its picture is.

References:
    DICOM PS3.3, C.8.5.5 US Region Calibration
"""

import math
from dataclasses import dataclass

MOST = 8  # regions that are read of a frame; a quad screen has four
_LISTED = 64  # items that are gone through; a broken file may hold many thousands
SMALLEST_PX = 16  # side of a picture; some files mark a corner of a few pixels, or a single one
_2D = 1
_FORMATS = {0: "of no format", 2: "an M-mode", 3: "a Doppler spectrum", 4: "a waveform", 5: "graphics"}
_TISSUE, _COLOUR_FLOW = 1, 2
_CM = 3
_MM_PER_CM = 10
_SLACK_PX = 2  # by which scanners round the corners of a region in another
_NAMED = 4  # of the regions that are not read


@dataclass(frozen=True)
class Regions:
    """The regions of a frame.

    Args:
        boxes: Tuple of `(left, top, width, height)` in pixels, in the order of the file; empty where none is usable.
        spacing_mm: `(row, column)`, the millimetres from one pixel to the next; None where the file does not tell, or
            regions differ.
        fault: Why none is usable, part of a sentence; None where one is.
        notes: Tuple of lines, what the answer leaves out or shows too much of.
    """

    boxes: tuple[tuple[int, int, int, int], ...]
    spacing_mm: tuple[float, float] | None = None
    fault: str | None = None
    notes: tuple[str, ...] = ()


def find_regions(header):
    """The `Regions` of a DICOM header.

    Args:
        header: `pydicom.Dataset` with Rows and Columns. A broken or incomplete region is passed over, and named.
    """
    items = header.get("SequenceOfUltrasoundRegions") or ()
    found, faults = [], []
    for number, item in enumerate(items[:_LISTED], start=1):
        try:
            flat, fault = int(item.RegionSpatialFormat) == _2D, _fault(item, header)
        except Exception:  # an attribute is missing, or its value is broken; pydicom raises what it likes
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
    """Why a region cannot be read, or None."""
    if (kind := int(item.RegionSpatialFormat)) != _2D:
        return _FORMATS.get(kind, f"of format {kind}")
    if (data := int(item.RegionDataType)) not in (_TISSUE, _COLOUR_FLOW):
        return f"of data type {data}, not tissue or colour flow"
    left, top, *size = _box(item)
    if min(size) < SMALLEST_PX:
        return f"empty, inverted or smaller than {SMALLEST_PX} px"
    if not (0 <= left < header.Columns and 0 <= top < header.Rows):
        return "outside of the frame"
    # That of a larger frame, which was shrunk later: its place is another.
    return "larger than the frame" if all(_reaches_out(item, header)) else None


def _box(item):
    """`(left, top, width, height)` of a region; the corners that it tells both belong to it."""
    left, top = int(item.RegionLocationMinX0), int(item.RegionLocationMinY0)
    return left, top, int(item.RegionLocationMaxX1) - left + 1, int(item.RegionLocationMaxY1) - top + 1


def _reaches_out(item, header):
    """Whether a region reaches out of its frame on the right and below. One pixel is a scanner that counts from 1."""
    left, top, width, height = _box(item)
    return left + width > header.Columns + 1, top + height > header.Rows + 1


def _inside(box, header):
    left, top, width, height = box
    return left, top, min(width, header.Columns - left), min(height, header.Rows - top)


def _outermost(items):
    """`(kept, more)`: the items that lie in no larger one, at most the `MOST` largest, and how many more there are."""
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
    # A region that reaches out of the frame is that of a larger one, which was cut: its scale may be another.
    if any(_reaches_out(item, header)):
        return None
    try:
        units = item.PhysicalUnitsYDirection, item.PhysicalUnitsXDirection
        steps = [abs(float(step)) for step in (item.PhysicalDeltaY, item.PhysicalDeltaX)]
    except Exception:  # as in `find_regions`; the picture can be read without a scale
        return None
    if units != (_CM, _CM) or not all(0 < step < math.inf for step in steps):
        return None
    return tuple(_MM_PER_CM * step for step in steps)


def _alike(scale, other):
    if scale is None or other is None:
        return scale is other
    return all(math.isclose(mm, told, rel_tol=1e-3) for mm, told in zip(scale, other))
