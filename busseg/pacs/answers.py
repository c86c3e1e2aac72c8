"""What a PACS gets for one image: a SEG, an SR and, on request, its overlays as secondary captures."""

from pathlib import Path
from typing import NamedTuple

from busseg.imaging.dicom_results import derive_uid, import_highdicom
from busseg.inference.batch import predict_files
from busseg.inference.predictor import Predictor
from busseg.storage.run_folder import OVERLAY_DICOM, SEGMENTATION, STRUCTURED_REPORT

_NAME = "result"


class Answer(NamedTuple):
    """The DICOM files of an image; none if it is out of distribution. And the warnings of `busseg predict`."""

    files: list[Path]
    warnings: list[str]


class Answerer:
    """Predicts DICOM files, one at a time, and writes what a PACS gets for them.

    The UIDs of all results are known before an image is predicted: they are derived from its SOP Instance UID and from
    `identity`. The same image again therefore gives the same UIDs, by which a PACS drops what it has.

    Args:
        predictor: A `Predictor` of ultrasound, whose model is one file.
        captures: Whether to write overlays, too; one a frame.
        require_region: Whether to refuse images without a usable region; see `find_frames`.

    Raises:
        ValueError: If the model is of histology, or has no SHA-256.
        ImportError: If highdicom is missing.
    """

    def __init__(self, predictor: Predictor, captures: bool = False, require_region: bool = False):
        if predictor.task.is_histology:
            raise ValueError(f"Expected a model of ultrasound, found one of {predictor.task}: {predictor.name}")
        if predictor.identity is None:
            raise ValueError(f"Expected a model that is one file, for its SHA-256, found another: {predictor.name}")
        import_highdicom(Path(predictor.name))
        self.predictor, self.identity = predictor, predictor.identity
        self.captures, self.require_region = captures, require_region

    def expected_uids(self, sop_instance_uid: str, frames: int = 1) -> set[str]:
        """The SOP Instance UIDs of all results of an image."""
        parts: list[tuple] = [("segmentation",), ("report",)]
        if self.captures:
            parts += [("overlay", number) for number in range(1, frames + 1)]
        return {derive_uid(self.identity, sop_instance_uid, *part) for part in parts}

    def answer(self, path: Path, out: Path) -> Answer:
        """Predict a DICOM file, and write its results.

        Args:
            path: Path of the file, named `*.dcm`.
            out: Path of a new folder for the results.

        Returns:
            An `Answer`.

        Raises:
            ValueError: If the file, or a frame of it, cannot be predicted: one line, without the path.
            OSError: If the results cannot be written.
        """
        rows = self._predict(path, out)
        for row in rows:
            if row["error"]:
                raise ValueError(row["error"].removesuffix(f": {path}"))
        warnings = sorted({warning for row in rows for warning in row["warning"].split("; ") if warning})
        if not (out / f"{_NAME}{SEGMENTATION}").exists():
            return Answer([], warnings)
        files = [out / f"{_NAME}{end}" for end in (SEGMENTATION, STRUCTURED_REPORT)]
        return Answer([*files, *sorted(out.glob(f"*{OVERLAY_DICOM}"))], warnings)

    def _predict(self, path, out):
        """The rows of `predict_files`. An error that it does not expect concerns this image alone, too."""
        inputs, captures, region = {path: Path(_NAME)}, self.captures, self.require_region
        try:
            return list(predict_files(self.predictor, inputs, out, overlay_dicom=captures, require_region=region))
        except (OSError, ValueError):
            raise
        except Exception as error:  # its text may quote a patient's data
            kind = type(error).__name__
            raise ValueError(f"Expected an image that can be predicted, found another ({kind})") from error
