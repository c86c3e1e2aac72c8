"""Read datasets whose images a CSV or Excel table lists, one image a row."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from zipfile import BadZipFile

from busseg.data.sample import CLASSES, Fault, Sample
from busseg.imaging.annotations import is_annotation
from busseg.storage.extras import import_extra
from busseg.storage.files import read_csv


def list_table(
    table: str | Path,
    columns: Sequence[str],
    to_sample: Callable[[dict[str, str]], Sample],
    images: Iterable[Path],
    masks: Iterable[Path],
    delimiter: str = ",",
) -> tuple[list[Sample], list[Fault]]:
    """List the samples of a table and compare them with the existing files.

    Args:
        table: Path of the table, `.csv` or `.xlsx`.
        columns: Names of the columns that it must have.
        to_sample: Function from a row, a dict of text, to its `Sample`. The files that it names need not exist.
        images: Paths of the existing image files.
        masks: Paths of the existing lesion masks.
        delimiter: Character between the columns of a `.csv`.

    Returns:
        `(samples, faults)`: the list of `Sample` whose image exists, sorted by name, where one without a mask has no
        `masks` and one without a known class no label; and a list of `(kind, path, error)`, the kind being one of
        "missing_folder", "missing_mask", "orphan_mask", "bad_label".
    """
    table = Path(table)
    try:
        rows = read_csv(table, columns, delimiter) if table.suffix == ".csv" else read_excel(table, columns)
    except FileNotFoundError:
        missing = f"Expected the table {table.name}, found none: {table.parent}"
        return [], [("missing_folder", table, FileNotFoundError(missing))]
    except ValueError as error:
        return [], [("bad_label", table, error)]
    samples, faults = compare_with_files(table, map(to_sample, rows), images, masks)
    for index, sample in enumerate(samples):
        if sample.label not in CLASSES:
            wanted = f"a label of {', '.join(CLASSES)}"
            faults.append(_bad_label(table, f"{wanted}, found {sample.label!r} for {sample.image.name!r}"))
            samples[index] = replace(sample, label=None)
    return samples, faults


def compare_with_files(
    table: Path, samples: Iterable[Sample], images: Iterable[Path], masks: Iterable[Path]
) -> tuple[list[Sample], list[Fault]]:
    """Compare the samples that a table lists with the existing files.

    Args:
        table: Path of the table, or of another file that lists the images.
        samples: `Sample`s; the files that they name need not exist.
        images: Paths of the existing image files.
        masks: Paths of the existing lesion masks. Masks inside annotation files always exist.

    Returns:
        See `list_table`.
    """
    images, masks, found = set(images), set(masks), {}
    faults: list[Fault] = []
    if not images:
        error = f"Expected the images of {table.name}, found none: {table.parent}"
        faults.append(("missing_folder", table.parent, FileNotFoundError(error)))
    for sample in samples:
        if sample.image not in images:
            faults.append(_bad_label(table, f"an image for every row, found none named {sample.image.name!r}"))
            continue
        if sample.image in found:
            faults.append(_bad_label(table, f"one row an image, found two for {sample.image.name!r}"))
            continue
        missing = {mask for mask in sample.masks if mask not in masks and not is_annotation(mask)}
        for mask in missing:
            error = f"Expected {mask.name} in {mask.parent}, found no mask: {sample.image}"
            faults.append(("missing_mask", sample.image, FileNotFoundError(error)))
        found[sample.image] = replace(sample, masks=tuple(mask for mask in sample.masks if mask not in missing))
    for image in sorted(images - found.keys()):
        faults.append(_bad_label(table, f"a row for every image, found none for {image.name!r}"))
    for mask in sorted(masks.difference(*(sample.masks for sample in found.values()))):
        error = f"Expected a row of {table.name} and an image for every mask, found none: {mask}"
        faults.append(("orphan_mask", mask, FileNotFoundError(error)))
    return sorted(found.values(), key=lambda sample: sample.name), faults


def _bad_label(table, what):
    return "bad_label", table, ValueError(f"Expected {what}: {table}")


def read_excel(path: str | Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the first sheet of an Excel file. Its first row is the header.

    Args:
        path: Path of the `.xlsx` file.
        required: Names of columns that must be there.

    Returns:
        List of dicts of text, one a row; an empty cell is "".

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If openpyxl is not installed.
        ValueError: If it is not an Excel file, or a required column is missing.
    """
    openpyxl = import_openpyxl(path)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        lines = [["" if cell is None else str(cell).strip() for cell in line] for line in book.worksheets[0].values]
        book.close()
    except (BadZipFile, KeyError, ValueError, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise ValueError(f"Expected an Excel file, found something else ({error}): {path}") from error
    columns = lines[0] if lines else []
    missing = [name for name in required if name not in columns]
    if missing:
        raise ValueError(f"Expected the column {missing[0]!r}, found {', '.join(columns) or 'no header'}: {path}")
    return [dict(zip(columns, line)) for line in lines[1:] if any(line)]


def import_openpyxl(path: str | Path) -> ModuleType:
    """Import openpyxl, which reads Excel files; see `import_extra`."""
    return import_extra("openpyxl", "openpyxl to read Excel", "excel", path)
