"""Many images on the page: `busseg predict` in a temporary folder, packed into a ZIP."""

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from busseg.app.addresses import thumbnail
from busseg.imaging.images import read_image
from busseg.inference.batch import predict_files
from busseg.inference.frames import count_frames, find_frames
from busseg.inference.inputs import find_inputs
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.inference.records import fields
from busseg.storage.files import write_csv
from busseg.storage.run_folder import PREDICTIONS

MAX_IMAGES = 200  # for more, use the command line


def answer_files(
    predictor: Predictor,
    paths: Sequence[str | Path],
    progress: Callable[..., Iterable[dict]] = lambda rows, total: rows,
    require_region: bool = False,
) -> tuple[list[dict], list[str | None], bytes]:
    """Predict files as `busseg predict` does, and pack the files that it writes.

    Args:
        predictor: A `Predictor` of ultrasound.
        paths: Paths of image and DICOM files, whose names differ.
        progress: Function that wraps the iteration over the rows, for a progress bar; `total` is their number.
        require_region: Whether to refuse DICOM without a usable region; see `find_frames`.

    Returns:
        `(rows, thumbnails, packed)`: dicts with the columns of `predictions.csv`, with files by their names alone; a
        small image of each row as a `data:` address, None where the image cannot be read; and the bytes of a ZIP with
        that table, masks and overlays of all readable images, and DICOM SEG of DICOM.

    Raises:
        ValueError: If there is no file, or there are too many images, or two files have one name.
        ImportError: If a file is DICOM, and a package to read it is missing.
    """
    inputs = find_inputs(paths)
    count = count_frames(inputs, require_region)
    if not 1 <= count <= MAX_IMAGES:
        raise ValueError(f"Expected 1 to {MAX_IMAGES} images or frames, found {count}; busseg predict takes any number")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "predictions"
        predicted = predict_files(predictor, inputs, out, require_region=require_region)
        rows = list(progress(predicted, total=count))
        thumbnails = list(_thumbnails(predictor, rows, inputs, out))
        rows = [_without_folder(row) for row in rows]
        write_csv(out / PREDICTIONS, fields(predictor.task), rows)
        return rows, thumbnails, _pack(out)


def _thumbnails(predictor, rows, inputs, out):
    """The thumbnail of each row, with the outline of its written mask unless it is out of distribution."""
    for path, of_file in groupby(rows, key=lambda row: Path(row["file"])):
        frames = find_frames(path, inputs[path], predictor.task)
        for frame, row in zip(frames, of_file):
            if row["error"]:
                yield None
            elif row["warning"].startswith(OUT_OF_DISTRIBUTION):
                yield thumbnail(frame.read(predictor))
            else:
                yield thumbnail(frame.read(predictor), read_image(out / f"{frame.target}_mask.png") // 255)


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
