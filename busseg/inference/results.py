"""Result files of a frame: which are written, and which existing files are busseg's to replace."""

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from busseg.data.task import Task
from busseg.imaging.dicom import import_pydicom, is_dicom
from busseg.imaging.images import read_image, write_image
from busseg.inference.frames import Frame
from busseg.inference.overlay import caption_as_out_of_distribution, draw_overlay
from busseg.storage.run_folder import OVERLAY_DICOM, SEGMENTATION, STRUCTURED_REPORT
from busseg.storage.signature import is_own_picture

if TYPE_CHECKING:
    from busseg.inference.prediction import Prediction

IMAGES = {  # of ultrasound, by the ends of their names; the last one on request
    "_mask.png": lambda image, prediction: prediction.mask * 255,
    "_overlay.png": draw_overlay,
    "_probability.png": lambda image, prediction: np.rint(255 * prediction.probability_map).astype(np.uint8),
}


@dataclass(frozen=True)
class Output:
    """Where the results of a run are written, and which.

    Args:
        folder: Path of the output folder.
        task: Task of the model.
        images: Keys of `IMAGES`, the image files to write of each frame.
        json_lines: Whether each frame gets a line of `predictions.jsonl`.
        run: Text of which the UIDs of DICOM overlays are derived, see `dicom_results.derive_uid`; None writes none.
    """

    folder: Path
    task: Task
    images: tuple[str, ...] = ()
    json_lines: bool = False
    run: str | None = None

    def names(self, frame: Frame, target: Path) -> list[str]:
        """Names of a frame's results in the folder; `target` is the results' path of its file."""
        ends = [*self.images, OVERLAY_DICOM] if self.run else self.images
        names = [f"{frame.target}{end}" for end in ends]
        return [*names, f"{target}{SEGMENTATION}", f"{target}{STRUCTURED_REPORT}"] if frame.scan else names

    def write(self, frame: Frame, image: NDArray, prediction: "Prediction", place: Path) -> None:
        """Write the image files of a frame.

        Args:
            frame: A `Frame`.
            image: Array of its pixels, as `Frame.read` gives it.
            prediction: Its `Prediction`.
            place: Path of a hidden folder for unfinished files.
        """
        for end in self.images:
            write_image(self.folder / f"{frame.target}{end}", IMAGES[end](image, prediction), place)
        if self.run and frame.scan:
            self._write_overlay_dicom(frame, draw_overlay(image, prediction))

    def caption(self, frame: Frame) -> None:
        """Write the overlay of a frame again, with the caption that it is out of distribution."""
        path = self.folder / f"{frame.target}_overlay.png"
        height = len(read_image(self.folder / f"{frame.target}_mask.png"))
        overlay = caption_as_out_of_distribution(read_image(path, colour=True), height)
        write_image(path, overlay)
        if self.run and frame.scan:
            self._write_overlay_dicom(frame, overlay)

    def _write_overlay_dicom(self, frame, overlay):
        from busseg.imaging.dicom_seg import write_overlay

        path = self.folder / f"{frame.target}{OVERLAY_DICOM}"
        write_overlay(path, frame.scan, frame.number or 1, overlay, self.run)


def check_replaceable(out: Path, names: Iterable[str]) -> None:
    """Make sure that no result would replace a file that busseg did not write.

    Args:
        out: Path of the output folder.
        names: Names of the results in it.

    Raises:
        FileExistsError: If one would.
    """
    for path in (out / name for name in names):
        if os.path.lexists(path) and not _is_own(path):
            raise FileExistsError(f"Expected a result of busseg to replace, found another file: {path}")


def _is_own(path):
    if not path.is_file():
        return False
    if path.suffix == ".png":
        return is_own_picture(path)
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as arrays:
                return "occlusion.npy" in arrays.namelist()
        return is_dicom(path) and import_pydicom(path).dcmread(path, stop_before_pixels=True).Manufacturer == "busseg"
    except Exception:  # busseg writes no broken files, and these raise anything
        return False
