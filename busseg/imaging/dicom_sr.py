"""Write results for ultrasound DICOM as a structured report: DICOM SR, a measurement report (TID 1500).

The report is a Comprehensive SR: its coordinates are those of pixels in a frame. Two-dimensional ultrasound has no
patient coordinates, which Comprehensive 3D SR adds.

References:
    DICOM PS3.3, A.35.3 Comprehensive SR IOD
    DICOM PS3.16, TID 1500 Measurement Report, TID 1410 Planar ROI, TID 1501 Measurement Group
    Clunie, "DICOM SR for communicating planar annotations", 2021
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from busseg import __version__
from busseg.imaging.dicom import SOP_CLASSES, Scan
from busseg.imaging.dicom_results import (
    MAKER,
    NOTICE,
    SERIES_NUMBERS,
    derive_uid,
    import_highdicom,
    read_source,
    to_ascii,
    to_reference,
    without_quotes,
    write_result,
)
from busseg.imaging.findings import Finding, describe

if TYPE_CHECKING:
    from pydicom import Dataset

_CURRENT_CLASSES = {retired: current for current, retired in zip(SOP_CLASSES[::2], SOP_CLASSES[1::2])}
_OUT_OF_DISTRIBUTION = ("not-breast-ultrasound", "99BUSSEG", "Not like breast ultrasound")


def write_report(
    path: str | Path,
    scan: Scan,
    segmentation: str | Path,
    findings: Iterable[Finding],
    model: str,
    sha256: str | None = None,
    run: str | None = None,
) -> None:
    """Write the findings of a scan as DICOM SR.

    Each lesion has a measurement group (TID 1410): its outline in its frame, area, largest diameter and the one across
    it, and the class of its frame with its probability. A frame without a lesion has a group (TID 1501) that says so.
    The report is complete, preliminary and unverified.

    Sizes are in mm² and mm; without a scale they are in pixels, and no scale is assumed.

    Args:
        path: Path of the file to write.
        scan: The `busseg.imaging.dicom.Scan` that was predicted.
        segmentation: Path of its SEG, which the lesions reference; see `dicom_seg.write_segmentation`.
        findings: Iterable of `Finding`, one a frame.
        model: Name of the model, for the algorithm's identification beside busseg and its version.
        sha256: SHA-256 of the model's file, in hex; None if unknown.
        run: Text that identifies model and settings, of which the UIDs are derived; None for random UIDs. See
            `dicom_results.derive_uid`.

    Raises:
        ValueError: If the header of the scan lacks attributes that a report must reference.
        ImportError: If highdicom is missing.
    """
    highdicom = import_highdicom(scan.path)
    import pydicom
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    findings, model = list(findings), to_ascii(model)
    with without_quotes(scan.path):
        source = read_source(scan)
        reference = to_reference(source)
        # highdicom does not know retired classes; `_restore_class` puts them back.
        reference.SOPClassUID = _CURRENT_CLASSES.get(source.SOPClassUID, source.SOPClassUID)
        marked = pydicom.dcmread(segmentation, stop_before_pixels=True)
        report = highdicom.sr.ComprehensiveSR(
            evidence=[reference, marked],
            content=_report(findings, _Sources(reference, marked, _frames(marked), model, sha256)),
            series_instance_uid=derive_uid(run, source.SOPInstanceUID, "report series"),
            series_number=SERIES_NUMBERS["report"],
            series_description="Measurements, by busseg",
            sop_instance_uid=derive_uid(run, source.SOPInstanceUID, "report"),
            instance_number=1,
            is_complete=True,
            device_serial_number=model,
            coding_schemes=[CodingSchemeIdentificationItem(_OUT_OF_DISTRIBUTION[1], "busseg")],
            **MAKER,
        )
        report.CompletionFlagDescription = NOTICE
        _restore_class(report, source)
        write_result(path, report, source)


class _Sources(NamedTuple):
    """What the content of a report references: the headers of the scan and of its SEG, and the model."""

    scan: "Dataset"
    segmentation: "Dataset"
    frames: dict[int, int]  # from the number of a frame of the scan to that of its frame in the SEG
    model: str
    sha256: str | None


def _report(findings, sources):
    """The content of a report, TID 1500."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    shared = _shared(sources)
    identity = [__version__, sources.model, sources.sha256 or ""]
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=["busseg", *identity]),  # the same for each report of a model
        name="busseg",
        manufacturer_name="busseg",
        model_name=sources.model,
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device)),
        procedure_reported=codes.SCT.UltrasonographyOfBreast,
        imaging_measurements=[group for finding in findings for group in _groups(finding, sources, shared)],
        referenced_images=[sources.scan],
    )
    contains = sr.RelationshipTypeValues.CONTAINS
    for text in (f"{NOTICE}.", *map(_comment, findings)):
        report[0].ContentSequence.append(sr.TextContentItem(codes.DCM.Comment, text, contains))
    return report


def _comment(finding):
    """The text of a finding in letters that every character set of DICOM has."""
    return f"{_name(finding)}: {describe(finding)}".replace("mm²", "mm2")


def _shared(sources):
    """What all measurement groups of a report have: the algorithm and the breast."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    algorithm = sr.AlgorithmIdentification(
        name="busseg",
        version=__version__,
        parameters=[f"model={sources.model}", *([f"sha256={sources.sha256}"] if sources.sha256 else [])],
    )
    return {"algorithm_id": algorithm, "finding_sites": [sr.FindingSite(codes.SCT.Breast)]}


def _groups(finding, sources, shared):
    """The measurement groups of a finding: one a lesion, or one for the frame."""
    if finding.in_distribution and finding.lesions:
        for number, lesion in enumerate(finding.lesions, start=1):
            yield _lesion_group(finding, number, lesion, sources, shared)
    else:
        yield _frame_group(finding, sources, shared)


def _lesion_group(finding, number, lesion, sources, shared):
    from highdicom import sr
    from pydicom.sr.codedict import codes

    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=np.vstack([lesion.outline, lesion.outline[:1]]),  # closed
        source_image=sr.SourceImageForRegion(*_reference(finding, sources.scan)),
    )
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(identifier=f"{_name(finding)}, lesion {number}"),
        referenced_region=region,
        geometric_purpose=codes.DCM.Outline,
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.Lesion,
        qualitative_evaluations=[_classify(finding)],
        measurements=[*_measure(lesion), *_rate(finding)],
        **shared,
    )
    # TID 1410 takes either an outline or a segmentation as the region. A frame of the SEG holds all lesions of its
    # source frame, so the outline is the region, and the SEG is the source of the measurement.
    marked, frame = sources.segmentation, sources.frames[finding.number or 1]
    source = sr.SourceImageForMeasurementGroup(marked.SOPClassUID, marked.SOPInstanceUID, [frame])
    group[0].ContentSequence.append(source)
    return group


def _frame_group(finding, sources, shared):
    """The group of a frame without lesions, or out of distribution."""
    from highdicom import sr

    evaluations, measurements = _evaluate_frame(finding)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(identifier=_name(finding)),
        qualitative_evaluations=evaluations,
        measurements=measurements,
        source_images=[sr.SourceImageForMeasurementGroup(*_reference(finding, sources.scan))],
        **shared,
    )


def _name(finding):
    return f"Frame {finding.number}" if finding.number else "Image"


def _evaluate_frame(finding):
    from highdicom import sr
    from pydicom.sr.codedict import codes

    if not finding.in_distribution:
        unlike = sr.CodedConcept(*_OUT_OF_DISTRIBUTION)
        return [sr.QualitativeEvaluation(codes.DCM.ImageQuality, unlike)], None
    absent = sr.QualitativeEvaluation(codes.SCT.Lesion, codes.SCT.Absent)
    return [*([absent] if finding.label == "normal" else []), _classify(finding)], _rate(finding)


def _classify(finding):
    from highdicom import sr
    from pydicom.sr.codedict import codes

    classes = {"normal": codes.SCT.Normal, "benign": codes.SCT.Benign, "malignant": codes.SCT.Malignant}
    return sr.QualitativeEvaluation(codes.DCM.Impression, classes[finding.label])


def _rate(finding):
    """The probabilities of the class and of malignant, in percent."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    probabilities = {
        codes.DCM.CertaintyOfImpression: finding.probabilities[finding.label],
        codes.DCM.ProbabilityOfCancer: finding.probabilities["malignant"],
    }
    return [sr.Measurement(name, round(100 * p, 2), codes.UCUM.Percent) for name, p in probabilities.items()]


def _measure(lesion):
    """Area, largest diameter and the one across it; in pixels without a scale."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    if lesion.diameters_mm is None:
        pixels = sr.CodedConcept("{pixels}", "UCUM", "pixels")
        values, units = (lesion.area_px, *lesion.diameters_px), (pixels, pixels, pixels)
    else:
        mm = codes.UCUM.Millimeter
        values, units = (lesion.area_mm2, *lesion.diameters_mm), (codes.UCUM.SquareMillimeter, mm, mm)
    names = (codes.SCT.Area, codes.SCT.LongAxis, codes.SCT.ShortAxis)
    return [sr.Measurement(name, round(value, 2), unit) for name, value, unit in zip(names, values, units)]


def _reference(finding, image):
    """Class, instance and frames of a reference to the frame of a finding."""
    return image.SOPClassUID, image.SOPInstanceUID, [finding.number] if finding.number else None


def _frames(segmentation):
    """Dict from the number of each frame with a lesion to the number of its frame in the SEG."""
    groups = segmentation.PerFrameFunctionalGroupsSequence
    return {group.FrameContentSequence[0].TemporalPositionIndex: n for n, group in enumerate(groups, start=1)}


def _restore_class(report, source):
    """Put the class of the source into the references to it."""
    for item in report.iterall():
        if item.keyword == "ReferencedSOPClassUID" and item.value == _CURRENT_CLASSES.get(source.SOPClassUID):
            item.value = source.SOPClassUID
