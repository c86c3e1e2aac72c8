"""Write results for ultrasound DICOM as DICOM: a segmentation, and overlays as secondary captures.

References:
    DICOM PS3.3, A.51 Segmentation IOD, C.8.20 Segmentation, A.8.1 Secondary Capture Image IOD
    Bridge et al., "Highdicom", J. Digital Imaging 35(6), 2022
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg import __version__
from busseg.imaging.dicom import Scan
from busseg.imaging.dicom_results import (
    COMPRESSION,
    MAKER,
    NOTICE,
    SERIES_NUMBERS,
    derive_uid,
    import_highdicom,
    read_source,
    to_ascii,
    to_frame_reference,
    to_reference,
    without_quotes,
    write_result,
)

LESIONS = ("benign", "malignant")  # in the order of their segments; a normal frame has no segment


def write_segmentation(
    path: str | Path,
    scan: Scan,
    masks: Iterable[NDArray[np.uint8]],
    labels: Sequence[str],
    model: str,
    remark: str = "",
    assumed_mm: float | None = 1.0,
    run: str | None = None,
) -> None:
    """Write the lesions of a scan as DICOM SEG (BINARY): one segment for each class of lesion, all frames in one file.

    A segment is an SCT 49755003 "Morphologically Abnormal Structure", of the type SCT 52988006 "Lesion" with the
    modifier SCT 30807003 "Benign" or SCT 21594007 "Malignant", in the SCT 76752008 "Breast". The codes are those of
    DICOM PS3.16 (CID 7150, 7159, 6063 and 4). The type is not "Neoplasm", because BUSI's benign lesions include cysts.

    Each frame of a lesion references its frame of the source, pixel by pixel. Normal frames are left out. If all are
    normal, one empty segment, "lesion", says that busseg searched for lesions.

    OHIF's loader and dcmqi read no segmentation without the plane and the scale of its pixels. Two-dimensional
    ultrasound has no patient coordinates, so the plane is invented, in a frame of reference of its own: rows run along
    x, columns along y, and frame n of a clip lies at z = n - 1 mm.

    Args:
        path: Path of the file to write.
        scan: The `busseg.imaging.dicom.Scan` that was predicted.
        masks: Iterable of arrays `(height, width)` uint8, 0 or 1, one a frame, at the size of the frame. Only one is in
            memory at a time.
        labels: Sequence of classes, one a frame. A normal frame has no segment, even if its mask is not empty.
        model: Name of the model, for the algorithm's identification beside busseg and its version.
        remark: Further text for the segments' descriptions.
        assumed_mm: Millimetres a pixel for a scan without a scale; the segments' descriptions then say that it is
            assumed. None leaves plane and scale of such scans out.
        run: Text that identifies model and settings, of which the UIDs are derived; None for random UIDs. See
            `dicom_results.derive_uid`.

    Raises:
        ValueError: If the header of the scan lacks attributes that a SEG must reference.
        ImportError: If highdicom is missing.
    """
    highdicom = import_highdicom(scan.path)
    spacing_mm = scan.spacing_mm
    if spacing_mm is None and assumed_mm is not None:
        spacing_mm = (assumed_mm, assumed_mm)
        scale = f"The scan states no scale: {assumed_mm:g} mm a pixel is assumed"
        remark = f"{remark}. {scale}" if remark else scale
    model = to_ascii(model)
    found = [label for label in LESIONS if label in labels]
    with without_quotes(scan.path):
        source = read_source(scan)
        # highdicom cannot segment clips without patient coordinates: it creates a segmentation of one frame, and
        # `_fill` copies that frame's description for all frames.
        segmentation = highdicom.seg.Segmentation(
            source_images=[to_reference(source)],
            pixel_array=np.zeros(scan.shape, np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            omit_empty_frames=False,
            segment_descriptions=[_describe(*each, model, remark) for each in enumerate(found or ["lesion"], start=1)],
            series_instance_uid=derive_uid(run, source.SOPInstanceUID, "segmentation series"),
            series_number=SERIES_NUMBERS["segmentation"],
            series_description="Lesions, by busseg",
            sop_instance_uid=derive_uid(run, source.SOPInstanceUID, "segmentation"),
            instance_number=1,
            content_label="LESIONS",
            content_description=NOTICE,
            device_serial_number=model,
            **MAKER,
        )
    lesions = (
        (number, found.index(label) + 1, mask)
        for number, (mask, label) in enumerate(zip(masks, labels, strict=True), start=1)
        if label in found
    )
    _fill(segmentation, lesions, scan, source)
    if spacing_mm:
        _place(segmentation, spacing_mm, derive_uid(run, source.SOPInstanceUID, "plane"))
    segmentation.PatientOrientation = None  # unknown; DICOM demands the attribute
    with without_quotes(scan.path):
        write_result(path, segmentation, source)


def write_overlay(path: str | Path, scan: Scan, number: int, overlay: NDArray[np.uint8], run: str) -> None:
    """Write the overlay of a frame as a DICOM Secondary Capture, which every viewer shows.

    Args:
        path: Path of the file to write.
        scan: The `busseg.imaging.dicom.Scan` that the frame belongs to.
        number: Number of the frame, from 1.
        overlay: Array `(height, width, 3)` uint8, RGB. Like the frame, it may show names; the file says so.
        run: Text that identifies model and settings, or the run; see `dicom_results.derive_uid`. The overlays of a scan
            from one run form a series.

    Raises:
        ValueError: If the header of the scan lacks attributes that a capture must reference.
        ImportError: If highdicom is missing.
    """
    highdicom = import_highdicom(scan.path)
    with without_quotes(scan.path):
        source = read_source(scan)
        capture = highdicom.sc.SCImage.from_ref_dataset(
            to_reference(source),
            pixel_array=overlay,
            photometric_interpretation=highdicom.PhotometricInterpretationValues.RGB,
            bits_allocated=8,
            coordinate_system=highdicom.CoordinateSystemNames.PATIENT,
            patient_orientation=("L", "P"),  # highdicom demands one; it is unknown
            series_instance_uid=derive_uid(run, source.SOPInstanceUID, "overlay series"),
            series_number=SERIES_NUMBERS["overlays"],
            series_description="Overlays, by busseg",
            sop_instance_uid=derive_uid(run, source.SOPInstanceUID, "overlay", number),
            instance_number=number,
            **MAKER,
        )
        capture.PatientOrientation = None
        capture.Laterality = source.get("Laterality")
        capture.BurnedInAnnotation = "YES"
        capture.DerivationDescription = f"Class and outline of the lesion, by busseg. {NOTICE}"
        capture.SourceImageSequence = [to_frame_reference(source, number)]
        for keyword in COMPRESSION:
            if keyword in source:
                capture[keyword] = source[keyword]
        write_result(path, capture, source)


def _describe(number, label, model, remark):
    """The description of a segment, with its codes."""
    import highdicom
    from pydicom.sr.codedict import codes

    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="busseg",
            version=__version__,
            family=codes.cid7162.ArtificialIntelligence,
            parameters={"model": model},
        ),
        anatomic_regions=[codes.SCT.Breast],
    )
    if label in LESIONS:
        modifier = {"benign": codes.SCT.Benign, "malignant": codes.SCT.Malignant}[label]
        (kind,) = description.SegmentedPropertyTypeCodeSequence
        kind.SegmentedPropertyTypeModifierCodeSequence = [highdicom.sr.CodedConcept.from_code(modifier)]
    if remark:
        description.SegmentDescription = remark
    return description


def _fill(segmentation, lesions, scan, source):
    """Replace the one empty frame of `segmentation` by the frames with a lesion, `(number, segment, mask)`."""
    from pydicom import Dataset

    model = segmentation.PerFrameFunctionalGroupsSequence[0]
    frames, bits, rest = [], bytearray(), np.empty(0, np.uint8)
    for number, segment, mask in lesions:
        frames.append(_frame(model, number, segment, source))
        # A frame may end within a byte; the next one then begins there.
        pixels = np.concatenate([rest, mask.ravel()])
        whole = len(pixels) // 8 * 8
        bits += np.packbits(pixels[:whole], bitorder="little").tobytes()
        rest = pixels[whole:]
    if not frames:
        frames, rest = [_frame(model, 1, 1, source)], np.zeros(scan.shape, np.uint8).ravel()
    bits += np.packbits(rest, bitorder="little").tobytes()
    segmentation.PerFrameFunctionalGroupsSequence = frames
    segmentation.NumberOfFrames = len(frames)
    segmentation.PixelData = bytes(bits) + b"\0" * (len(bits) % 2)
    segmentation.ContentCreatorName = None  # unknown; DICOM demands the attribute
    segmentation.SourceImageSequence = [to_frame_reference(source)]
    (series,) = segmentation.ReferencedSeriesSequence
    series.ReferencedInstanceSequence = [to_frame_reference(source)]
    (shared,) = segmentation.SharedFunctionalGroupsSequence
    shared.pop("SegmentIdentificationSequence", None)  # highdicom adds it for a single segment
    # A frame is identified by its segment and by its place in the clip.
    (by_segment,) = segmentation.DimensionIndexSequence
    by_time = Dataset()
    by_time.DimensionOrganizationUID = by_segment.DimensionOrganizationUID
    by_time.DimensionIndexPointer = "TemporalPositionIndex"
    by_time.FunctionalGroupPointer = "FrameContentSequence"
    by_time.DimensionDescriptionLabel = "Temporal Position Index"
    segmentation.DimensionIndexSequence = [by_segment, by_time]


def _place(segmentation, spacing_mm, uid):
    """Give the frames of a segmentation a plane of this UID and a scale, `(row, column)`; see `write_segmentation`."""
    from pydicom import Dataset
    from pydicom.valuerep import DS

    segmentation.FrameOfReferenceUID, segmentation.PositionReferenceIndicator = uid, None
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [DS(mm, auto_format=True) for mm in spacing_mm]  # at most 16 letters
    measures.SliceThickness = measures.SpacingBetweenSlices = 1
    (shared,) = segmentation.SharedFunctionalGroupsSequence
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        position = Dataset()
        position.ImagePositionPatient = [0, 0, frame.FrameContentSequence[0].TemporalPositionIndex - 1]
        frame.PlanePositionSequence = [position]


def _frame(model, number, segment, source):
    """The description of one frame of the segmentation: a copy of `model` with its segment and source frame."""
    from pydicom import Dataset

    frame = deepcopy(model)
    (content,) = frame.FrameContentSequence
    content.TemporalPositionIndex = number
    content.DimensionIndexValues = [segment, number]
    identification = Dataset()
    identification.ReferencedSegmentNumber = segment
    frame.SegmentIdentificationSequence = [identification]
    frame.DerivationImageSequence[0].SourceImageSequence[0].update(to_frame_reference(source, number))
    return frame
