"""What `busseg predict --resume` keeps of a former prediction in the output folder."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from busseg.imaging.dicom import is_dicom
from busseg.inference.frames import frame_target
from busseg.inference.records import is_out_of_distribution
from busseg.inference.results import Output
from busseg.storage.files import blaming, read_csv
from busseg.storage.run_folder import OVERLAY_DICOM, PREDICTION_LINES, PREDICTIONS, SEGMENTATION, STRUCTURED_REPORT


def read_done(
    inputs: Mapping[Path, Path], output: Output, columns: Sequence[str], threshold: float
) -> dict[tuple[str, str], tuple[dict, str]]:
    """Find the frames that need no new prediction: with a row, without an error, and all results.

    Args:
        inputs: Dict from path to the results' path, as `find_inputs` gives it.
        output: The `Output` of the run that resumes.
        columns: Columns of its table; see `records.fields`.
        threshold: Threshold of its masks.

    Returns:
        Dict from `Frame.key` to `(row, line)`, in the order of `inputs`; lines are "" without `output.json_lines`.

    Raises:
        ValueError: If the former table has other columns or another threshold, or a file is broken.
    """
    rows = _read_rows(output.folder, columns, threshold)
    lines = read_lines(output.folder / PREDICTION_LINES) if output.json_lines else dict.fromkeys(rows, "")
    keys = defaultdict(list)
    for key in rows:
        if key in lines:
            keys[key[0]].append(key)
    done = {}
    for path, target in inputs.items():
        found = {key: rows[key] for key in keys[str(path)]}
        for key in _with_results(path, target, found, output):
            done[key] = rows[key], lines[key]
    return done


def _read_rows(folder, columns, threshold):
    """Dict from `Frame.key` to the row of each frame without an error."""
    path = folder / PREDICTIONS
    rows = read_csv(path, columns) if path.exists() else []
    if rows and (unknown := sorted(rows[0].keys() - set(columns))):
        raise ValueError(f"Expected a table of the same options to resume, found the column {unknown[0]!r}: {folder}")
    if rows and not path.read_bytes().endswith(b"\n"):
        rows.pop()  # a kill cut it short
    rows = [row for row in rows if not row["error"]]
    wanted = f"{threshold:g}"
    for row in rows:
        if (found := row.get("threshold", wanted)) != wanted:
            raise ValueError(f"Expected masks of threshold {wanted} to resume, found {found}: {folder}")
    return {_key(row): row for row in rows}


def read_lines(path: Path) -> dict[tuple[str, str], str]:
    """The whole lines of `predictions.jsonl`: a dict from `Frame.key` to the line; {} if there is no file."""
    with blaming(path, "lines of JSON"):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("}\n")]
        return {_key(json.loads(line)): line for line in whole}


def _key(values):
    """The `Frame.key` of a row or of the values of a line."""
    return values["file"], str(values.get("frame") or "")


def _with_results(path, target, rows, output):
    """Keys of a file's rows whose results exist, by the number of the frame; [] for DICOM without its SEG or SR."""
    scan = bool(rows) and is_dicom(path)
    written = all((output.folder / f"{target}{end}").exists() for end in (SEGMENTATION, STRUCTURED_REPORT))
    if scan and not written and not is_out_of_distribution(list(rows.values())):
        return []
    ends = [*output.images, OVERLAY_DICOM] if scan and output.run else output.images
    return [
        key
        for key in sorted(rows, key=lambda key: int(key[1] or 0))
        if all((output.folder / f"{frame_target(target, key[1])}{end}").exists() for end in ends)
    ]
