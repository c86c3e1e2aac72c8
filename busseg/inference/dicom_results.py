"""The results of a whole DICOM file, written as DICOM from its rows and masks: a segmentation and a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from busseg.data.sample import CLASSES
from busseg.imaging.dicom import Scan
from busseg.imaging.findings import Finding
from busseg.imaging.images import read_image
from busseg.imaging.lesions import find_lesions
from busseg.inference.frames import frame_target
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.storage.run_folder import SEGMENTATION, STRUCTURED_REPORT


def write_dicom_results(scan: Scan, target: Path, rows: Sequence[Mapping], out: Path, predictor: Predictor) -> None:
    """Write the SEG and the SR of a scan from the results of its frames. The masks are read again, one at a time.

    Args:
        scan: A `Scan`, of which all frames are predicted.
        target: Path of the scan's results without suffix, relative to the output folder.
        rows: Rows of the frames, in their order; see `records.to_row`.
        out: Path of the output folder.
        predictor: The `Predictor`, whose name and hash both files record, and whose identity gives them their UIDs.

    Raises:
        ValueError: If the header of the scan lacks attributes that a result must reference.
    """
    from busseg.imaging.dicom_seg import write_segmentation
    from busseg.imaging.dicom_sr import write_report

    segmentation = out / f"{target}{SEGMENTATION}"
    masks = (_read_mask(out, target, row) for row in rows)
    count = sum(_is_out_of_distribution(row) for row in rows)
    remark = f"{OUT_OF_DISTRIBUTION.capitalize()} in {count} of {len(rows)} frames" if count else ""
    labels, run = [row["label"] for row in rows], predictor.identity
    write_segmentation(segmentation, scan, masks, labels, predictor.name, remark, run=run)
    findings = (_to_finding(row, scan, out, target) for row in rows)
    report = out / f"{target}{STRUCTURED_REPORT}"
    write_report(report, scan, segmentation, findings, predictor.name, predictor.sha256, run)


def remove_dicom_results(target: Path, out: Path) -> None:
    """Remove the SEG and the SR of a former prediction."""
    for end in (SEGMENTATION, STRUCTURED_REPORT):
        (out / f"{target}{end}").unlink(missing_ok=True)


def _read_mask(out, target, row):
    return read_image(out / f"{frame_target(target, row['frame'])}_mask.png") // 255


def _is_out_of_distribution(row):
    return row["warning"].startswith(OUT_OF_DISTRIBUTION)


def _to_finding(row, scan, out, target):
    lesions = () if row["label"] == "normal" else find_lesions(_read_mask(out, target, row), scan.spacing_mm)
    return Finding(
        row["label"],
        {label: float(row[f"p_{label}"]) for label in CLASSES},
        lesions,
        in_distribution=not _is_out_of_distribution(row),
        number=int(row["frame"]) if row["frame"] else None,
    )
