"""Many images on the page: `busseg predict` in a temporary folder, packed into a ZIP."""

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from busseg.inference.batch import predict_files
from busseg.inference.frames import count_frames
from busseg.inference.inputs import find_inputs
from busseg.inference.predictor import Predictor
from busseg.inference.records import fields
from busseg.storage.files import write_csv
from busseg.storage.run_folder import PREDICTIONS

MAX_IMAGES = 200  # for more, use the command line


def answer_files(
    predictor: Predictor,
    paths: Sequence[str | Path],
    progress: Callable[..., Iterable[dict]] = lambda rows, total: rows,
) -> tuple[list[dict], bytes]:
    """Predict files as `busseg predict` does, and pack the files that it writes.

    Args:
        predictor: A `Predictor` of ultrasound.
        paths: Paths of image and DICOM files, whose names differ.
        progress: Function that wraps the iteration over the rows, for a progress bar; `total` is their number.

    Returns:
        `(rows, packed)`: dicts with the columns of `predictions.csv`, with files by their names alone, and the bytes of
        a ZIP with that table, masks and overlays of all readable images, and DICOM SEG of DICOM.

    Raises:
        ValueError: If there is no file, or there are too many images, or two files have one name.
        ImportError: If a file is DICOM, and a package to read it is missing.
    """
    inputs = find_inputs(paths)
    count = count_frames(inputs)
    if not 1 <= count <= MAX_IMAGES:
        raise ValueError(f"Expected 1 to {MAX_IMAGES} images or frames, found {count}; busseg predict takes any number")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "predictions"
        rows = [_without_folder(row) for row in progress(predict_files(predictor, inputs, out), total=count)]
        write_csv(out / PREDICTIONS, fields(predictor.task), rows)
        return rows, _pack(out)


def _without_folder(row):
    """A row that names its file as the user does, without the temporary folder."""
    path = Path(row["file"])
    return row | {"file": path.name, "error": row["error"].replace(str(path), path.name)}


def _pack(folder):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:  # stored: PNG files are compressed already
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            packed.write(path, path.relative_to(folder))
    return stream.getvalue()
