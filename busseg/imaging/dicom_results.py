"""What all results share that are written as DICOM: the reference to their source, and the patient's data.

The standard demands that a result carries the patient's data. They are copied from the source after everything else is
done, so the code that might print an error never sees them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from busseg import __version__
from busseg.imaging.dicom import SINGLE_CLASSES, Scan
from busseg.imaging.dicom_pixels import import_pydicom, read_header
from busseg.storage.files import replacing

if TYPE_CHECKING:
    from pydicom import Dataset

NOTICE = "Research software, not a medical device"
SERIES_NUMBERS = {"segmentation": 9001, "overlays": 9002, "report": 9003}
MAKER = {"manufacturer": "busseg", "manufacturer_model_name": "busseg", "software_versions": __version__}
# With these attributes a result references its source.
_REFERENCE = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
COMPRESSION = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName")
_STUDY = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime")


def import_highdicom(path: Path) -> ModuleType:
    """Import highdicom; an ImportError without it names the file, and the extra that installs it."""
    import_pydicom(path)
    try:
        import highdicom
    except ImportError as error:
        line = f'Expected highdicom to write DICOM, found none; pip install "busseg[dicom]": {path}'
        raise ImportError(line) from error
    return highdicom


@contextmanager
def without_quotes(path: Path) -> Iterator[None]:
    """Report an unusable header by the kind of the error alone: its text may quote a patient's data."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # a system error; pydicom raises others for broken content
            raise
        kind = type(error).__name__
        raise ValueError(f"Expected a header that a result can reference, found another ({kind}): {path}") from error


def to_ascii(name: str) -> str:
    """A name of at most 64 characters that every character set of DICOM has; others become "_"."""
    return "".join(letter if " " <= letter <= "~" and letter != "\\" else "_" for letter in name)[:64]


def derive_uid(run: str | None, *parts: object) -> str:
    """The UID of a result: always the same one for the same run and parts; a random one for None.

    Args:
        run: Text that identifies model and settings, such as `Predictor.identity`, or a single run.
        parts: What else the result depends on: the SOP Instance UID of its source, its kind, its frame.
    """
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=None if run is None else ["/".join(map(str, (run, *parts)))])


def read_source(scan: Scan) -> "Dataset":
    """Read the whole header of a scan's file."""
    with scan.path.open("rb") as file:
        return read_header(file)


def to_reference(source: "Dataset") -> "Dataset":
    """A copy of the source's header for highdicom: a single frame, without the patient."""
    from pydicom import Dataset

    reference = Dataset()
    reference.file_meta = source.file_meta
    for keyword in (*_REFERENCE, *COMPRESSION):
        if keyword in source:
            reference[keyword] = source[keyword]
    for keyword in (*_PATIENT, *_STUDY):
        setattr(reference, keyword, None)
    reference.Modality = "US"
    reference.SOPClassUID = SINGLE_CLASSES[0]
    return reference


def to_frame_reference(source: "Dataset", number: int | None = None) -> "Dataset":
    """A reference to the source, or to its frame `number`."""
    from pydicom import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if number and int(source.get("NumberOfFrames") or 1) > 1:
        reference.ReferencedFrameNumber = number
    return reference


def write_result(path: str | Path, result: "Dataset", source: "Dataset") -> None:
    """Copy patient and study from the source, and write the file, whole or not at all."""
    source.SOPClassUID = SINGLE_CLASSES[0]  # highdicom does not know retired classes; nothing else depends on it
    result.copy_patient_and_study_information(source)
    if source.get("SpecificCharacterSet"):
        result.SpecificCharacterSet = source.SpecificCharacterSet
    for element in result:
        # Some files write dates and times as before DICOM: 1997.04.24 and 14:04:38.
        mark = {"DA": ".", "TM": ":"}.get(element.VR)
        if mark and element.value:
            element.value = str(element.value).replace(mark, "")
    with replacing(path) as temporary:
        result.save_as(temporary)
