"""The table of an evaluation, `per_image.csv`: its columns, written and read back."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from busseg.data.sample import ATTRIBUTES, CLASSES
from busseg.data.task import Task
from busseg.evaluation.scores import classes_of
from busseg.storage.files import read_csv, write_csv

_COUNTS = ("true_px", "predicted_px", "width_px", "height_px")
_OVERLAPS = ("dice", "iou", "sensitivity", "precision", "hd95_px", "assd_px", "nsd")
_OF_SAMPLE = ("source", *ATTRIBUTES, "pixel_mm")
_LATER = ("repeat", *_OF_SAMPLE, "known")  # older tables lack them
_BEFORE, _AFTER = (
    ("file", "repeat", "fold", "part", "group", *_OF_SAMPLE, "label", "predicted"),
    ("leaked", "known", "error"),
)
_READ: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(("repeat", "fold"), int),
    **dict.fromkeys(("clean", "leaked", "known"), {"True": True, "False": False}.__getitem__),
    **dict.fromkeys(_COUNTS, int),
    **dict.fromkeys((*_OVERLAPS, "pixel_mm"), float),
}


def fields(classes: Sequence[str]) -> tuple[str, ...]:
    """The columns of `per_image.csv` for a model of these classes. Only ultrasound has the columns of lesions."""
    of_lesions = (*_OVERLAPS, "clean", *_COUNTS, "mask") if classes == CLASSES else ()
    return (*_BEFORE, *(f"p_{label}" for label in classes), *of_lesions, *_AFTER)


def write_rows(path: str | Path, rows: Sequence[dict]) -> None:
    """Write the rows of an evaluation, dicts with `fields`, to a CSV file. None becomes an empty cell."""
    write_csv(path, fields(classes_of(rows)), rows)


def read_rows(path: str | Path) -> list[dict]:
    """Read the table of an evaluation back: the same rows, to the last digit.

    Args:
        path: Path of a `per_image.csv`.

    Returns:
        List of dicts with `fields`, one an image: numbers as int and float, `clean` as bool, empty cells as None. An
        older table may lack the columns that describe the sample; these are None, too.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not the table of an evaluation.
    """
    classes = classes_of(read_csv(path))
    names = fields(classes if classes in {task.classes for task in Task} else CLASSES)
    required = [name for name in names if name not in _LATER]
    return [_typed(row, names, path) for row in read_csv(path, required)]


def _typed(row: dict, names: Iterable[str], path: str | Path) -> dict:
    try:
        return {name: _typed_cell(name, row[name]) if row.get(name) else None for name in names}
    except (KeyError, ValueError) as error:
        raise ValueError(f"Expected a table of scores, found a cell of another type ({error}): {path}") from error


def _typed_cell(name: str, text: str):
    return (float if name.startswith("p_") else _READ.get(name, str))(text)
