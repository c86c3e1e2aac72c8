"""Write a single `Prediction` to a folder of predictions."""

from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from busseg.inference.frames import Frame, frame_target
from busseg.inference.records import fields, to_line, to_row
from busseg.inference.results import Output, check_replaceable
from busseg.inference.resume import read_lines
from busseg.storage.claims import claim_folder
from busseg.storage.files import append_text, hidden_folder, read_csv, write_csv, write_text
from busseg.storage.run_folder import PREDICTION, PREDICTION_LINES, PREDICTION_PARQUET, PREDICTIONS

if TYPE_CHECKING:
    from busseg.inference.prediction import Prediction

_IMAGES = ("_mask.png", "_overlay.png")  # of `results.IMAGES`


def save_prediction(prediction: "Prediction", image: NDArray, folder: str | Path, name: str | None = None) -> Path:
    """Write the results of an image, given as the pixels that were predicted; see `Prediction.save`."""
    frame = _frame(prediction, name)
    with claim_folder(folder, PREDICTION) as folder:
        output = Output(folder, prediction.task, () if prediction.mask is None else _IMAGES)
        columns = fields(prediction.task, prediction.sensitivity)
        rows = _read_rows(folder, columns)
        new = frame.key not in rows
        _check_names(output, frame, new=new)
        with hidden_folder(folder) as place:
            output.write(frame, image, prediction, place)
        (folder / PREDICTION_PARQUET).unlink(missing_ok=True)  # it lacks the new row
        _write_line(folder / PREDICTION_LINES, frame, prediction, new=new)
        rows[frame.key] = to_row(frame, prediction, prediction.task)
        write_csv(folder / PREDICTIONS, columns, rows.values())  # last: a row says that all other results are there
    return Path(folder)


def _frame(prediction, name):
    """The `Frame` whose results are written."""
    if name is None and prediction.path is None:
        raise ValueError('Expected a name for the results of an image without a file, found none: save(folder, "name")')
    if name is not None and (not name or Path(name).name != name):
        raise ValueError(f"Expected a name without a folder, found {name!r}")
    target = Path(name) if name else frame_target(Path(prediction.path.stem), prediction.frame)
    return Frame(prediction.path or Path(name), target, prediction.frame)


def _read_rows(folder, columns):
    """Dict from `Frame.key` to the row of each frame."""
    path = folder / PREDICTIONS
    rows = read_csv(path) if path.exists() else []
    if rows and rows[0].keys() != set(columns):
        unknown = min(rows[0].keys() ^ set(columns))
        raise ValueError(
            f"Expected a table of the same task and sensitivity, found another column, {unknown!r}: {path}"
        )
    return {(row["file"], row.get("frame", "")): row for row in rows}


def _check_names(output, frame, *, new):
    """Refuse to replace files that busseg did not write, and the results of another image."""
    names = output.names(frame, frame.target)
    check_replaceable(output.folder, names)
    for path in (output.folder / name for name in names):
        if new and path.exists():
            raise FileExistsError(
                f"Expected a new name, found the results of another image; give a name: save(folder, name): {path}"
            )


def _write_line(path, frame, prediction, *, new):
    line = to_line(frame, prediction, prediction.task)
    if new:
        append_text(path, line)
    else:
        write_text(path, "".join({**read_lines(path), frame.key: line}.values()))
