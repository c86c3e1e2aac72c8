"""Predict files and folders: masks, overlays and one table. One bad file does not stop the run.

The steps of a frame: find it, read it, predict it in a batch, write its results. Then its file is judged as a whole.
"""

import errno
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import tee
from pathlib import Path
from typing import NamedTuple

from busseg.imaging.threads import map_in_turn
from busseg.inference.clips import clip_fields, to_clip_line, to_clip_record, to_clip_row
from busseg.inference.dicom_results import remove_dicom_results, write_dicom_results
from busseg.inference.frames import Frame, find_frames
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.inference.records import add_warning, failure, fields, is_out_of_distribution, to_line, to_row
from busseg.inference.results import IMAGES, Output, check_replaceable
from busseg.inference.resume import read_done
from busseg.inference.stream import THREADS, Item, read_and_predict
from busseg.storage.claims import claim_folder
from busseg.storage.files import append_row, append_text, blaming, flush, hidden_folder, write_csv, write_text
from busseg.storage.run_folder import (
    CLIP_LINES,
    CLIPS,
    PREDICTION,
    PREDICTION_LINES,
    PREDICTION_PARQUET,
    PREDICTIONS,
)

Rows = Generator[tuple[dict, str | None], None, None]  # row and line of each frame


class _Result(NamedTuple):
    """Row and line of a frame; `new` unless a former run predicted it."""

    frame: Frame
    row: dict
    line: str | None
    new: bool


def predict_files(
    predictor: Predictor,
    inputs: Mapping[Path, Path],
    out: str | Path,
    resume: bool = False,
    probability_maps: bool = False,
    json_lines: bool = False,
    overlay_dicom: bool = False,
    require_region: bool = False,
    engine: Callable[[Predictor, Iterable[Frame], Output], Rows] | None = None,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[dict]:
    """Predict image, video and DICOM files. Write `NAME_mask.png` (0/255) and `NAME_overlay.png` of each image, and one
    table of all.

    Each frame of a clip has its own results, `NAME_frame001` and so on. DICOM is cropped to the regions that the
    scanner marked, whose predictions are joined to one (`join_regions`); masks and overlays show the whole frame. The
    lesions of all frames of a DICOM file are also written as DICOM: a segmentation, `NAME_seg.dcm`, and a report with
    their measurements, `NAME_sr.dcm`; see `write_segmentation` and `write_report`. A model of histology, which predicts
    no mask, writes the table alone.

    `clips.csv` has a row for each clip: its class, its best frame and the number of its lesions, which are followed
    from frame to frame; see `to_clip_record`. A clip is judged as a whole: if the median ood_score of its frames is
    above 1, all its rows and overlays say that it is `OUT_OF_DISTRIBUTION`. Neither segmentation nor report is written
    of such a DICOM file.

    A file that cannot be read gets a row with its error, and the run continues.

    Args:
        predictor: A `Predictor`.
        inputs: Dict from path to the results' path, as `find_inputs` gives it.
        out: Path of the output folder. A former `predictions.csv` there is replaced.
        resume: Whether to continue the prediction in `out` instead: frames that have a row without an error and all
            results are not predicted again, even if another model predicted them, or this one in another precision. A
            DICOM clip is predicted again as a whole. A table of another sensitivity or threshold is refused.
        probability_maps: Whether to also write `NAME_probability.png`: 0..255 for lesion probabilities of 0..1. Not for
            histology.
        json_lines: Whether to also write `predictions.jsonl`: one JSON object per line and image, with the box and the
            contours of the lesion; see `records.facts`. And `clips.jsonl`, with the lesions of clips.
        overlay_dicom: Whether to also write the overlays of DICOM files as DICOM, `NAME_overlay.dcm`.
        require_region: Whether to refuse DICOM without a usable region; see `find_frames`.
        engine: Function that predicts and writes frames, with the arguments and results of `predict_in_threads`, the
            default.
        watch: Function that is called once per image, before the rows of its clip are yielded.

    Yields:
        Dicts with `records.fields`, one per image in the order of `inputs`, as in `predictions.csv`; those of a clip
        once all its frames are predicted. The content of its results is on the disk by then; their names and the rows
        are once all are done. If the machine stops before, `resume` repeats what is missing.

    Raises:
        FileExistsError: If `out` holds other files than a former prediction, or one of them has a result's name.
        BlockingIOError: If another process writes there.
        OSError: If the folder cannot be written.
        ImportError: If a file is DICOM, and a package that reads it is not installed.
        ValueError: If the table to resume has other columns or another threshold.
    """
    task = predictor.task
    images = tuple(IMAGES)[: 2 + probability_maps] if task.has_mask else ()
    columns = fields(task, predictor.sensitivity, predictor.threshold)
    with claim_folder(out, PREDICTION) as out:
        run = (predictor.identity or uuid.uuid4().hex) if overlay_dicom else None
        output = Output(out, task, images, json_lines, run)
        done = read_done(inputs, output, columns, predictor.threshold) if resume else {}
        frames, found = tee(_find(inputs, output, done, require_region))
        _begin_tables(output, columns, done)
        to_predict = (frame for frame in found if frame.key not in done)
        predicted = (engine or predict_in_threads)(predictor, to_predict, output)
        try:
            for results in _by_file(frames, done, predicted, watch):
                target = inputs[results[0].frame.path]
                finished = _finish_file(results, target, output, predictor)
                if finished[0].frame.number is not None:
                    _append_clip(output, target, finished)
                for result in finished:
                    if result.new:
                        _append(output, columns, result)
                    yield result.row
        finally:
            predicted.close()
            _flush(out, inputs)


def predict_in_threads(predictor: Predictor, frames: Iterable[Frame], output: Output) -> Rows:
    """Predict frames in this process and write their image files: threads read and write while the network computes.

    Only a few images are in memory at a time.

    Args:
        predictor: A `Predictor`.
        frames: Iterable of `Frame`.
        output: The `Output`.

    Yields:
        `(row, line)` of each frame, in their order; the line may be None without `output.json_lines`.
    """
    with hidden_folder(output.folder) as place, closing(read_and_predict(predictor, frames)) as predicted:
        yield from map_in_turn(partial(_write, output, place), predicted, Item.count_pixels, THREADS)


# === Find, write ===


def _find(inputs, output, done, require_region):
    """Iterator of the `Frame`s of all files. Files not written by busseg under the results' names are refused first."""
    frames = (frame for item in inputs.items() for frame in find_frames(*item, output.task, require_region))
    if not (output.folder / PREDICTIONS).exists():
        return frames
    ahead, frames = tee(frames)
    to_write = (frame for frame in ahead if frame.key not in done)
    check_replaceable(output.folder, (name for one in to_write for name in output.names(one, inputs[one.path])))
    return frames


def _write(output, place, item):
    """Write the image files of an item; return its row and, if wanted, its line."""
    frame, image, prediction, error = item
    if error is None:
        try:
            with blaming(frame.path, "results that can be written"):
                output.write(frame, image, prediction, place)
        except (OSError, ValueError) as raised:
            # A full disk ends the run. An image that cannot be drawn, or a path too long, concerns its file alone.
            if isinstance(raised, OSError) and raised.errno != errno.ENAMETOOLONG:
                raise
            error = raised
    if error is not None:
        return failure(frame, error, output.task)
    return to_row(frame, prediction, output.task), to_line(
        frame, prediction, output.task
    ) if output.json_lines else None


# === Files as a whole ===


def _by_file(frames, done, predicted, watch):
    """Lists of the `_Result`s of each file, once all its frames are predicted."""
    results = []
    for frame in frames:
        new = frame.key not in done
        results.append(_Result(frame, *(next(predicted) if new else done[frame.key]), new))
        watch()
        if frame.ends_file:
            yield results
            results = []


def _finish_file(results, target, output, predictor):
    """Judge a file by all its frames, write its SEG and SR; return its results, with warnings and errors added."""
    if not any(result.new for result in results):
        return results
    out_of_distribution = is_out_of_distribution([result.row for result in results])
    if out_of_distribution:
        results = [_as_out_of_distribution(result, output) for result in results]
    last, rows = results[-1].frame, [result.row for result in results]
    if last.scan:
        remove_dicom_results(target, output.folder)
        try:
            if not out_of_distribution and not any(row["error"] for row in rows):
                write_dicom_results(last.scan, target, rows, output.folder, predictor)
        except ValueError as error:
            row, line = failure(last, error, output.task)
            results[-1] = results[-1]._replace(row=row, line=line)
    return results


def _as_out_of_distribution(result, output):
    """Mark a frame of an `OUT_OF_DISTRIBUTION` clip, in its row, line and overlay, unless it is marked by itself."""
    frame, row, line, _ = result
    if row["error"] or row["warning"].startswith(OUT_OF_DISTRIBUTION):
        return result
    output.caption(frame)
    row, line = add_warning(row, line)
    return result._replace(row=row, line=line)


# === Tables ===


def _begin_tables(output, columns, done):
    """Write the tables with the rows and lines that are done."""
    write_csv(output.folder / PREDICTIONS, columns, [row for row, _ in done.values()])
    if output.json_lines:
        write_text(output.folder / PREDICTION_LINES, "".join(line for _, line in done.values()))
    else:
        (output.folder / PREDICTION_LINES).unlink(missing_ok=True)  # those of a former prediction are out of date
    for name in (PREDICTION_PARQUET, CLIPS, CLIP_LINES):  # written again, also of clips that are done
        (output.folder / name).unlink(missing_ok=True)


def _append(output, columns, result):
    """Append one by one, so that a stopped run keeps its results; the row last, which says that the rest is there."""
    if output.json_lines:
        append_text(output.folder / PREDICTION_LINES, result.line)
    append_row(output.folder / PREDICTIONS, columns, result.row)


def _append_clip(output, target, results):
    """Append the row of a clip, and its line if wanted, before the rows of its frames, which say that it is done."""
    record = to_clip_record(target, [result.row for result in results], output.folder, output.task)
    if record is None:
        return
    if not (output.folder / CLIPS).exists():
        write_csv(output.folder / CLIPS, clip_fields(output.task), [])
    append_row(output.folder / CLIPS, clip_fields(output.task), to_clip_row(record, output.task))
    if output.json_lines:
        append_text(output.folder / CLIP_LINES, to_clip_line(record))


def _flush(out, inputs):
    for path in {out, *((out / target).parent for target in inputs.values())}:
        if path.is_dir():  # none is made for files that cannot be read
            flush(path)
    for name in (PREDICTIONS, CLIPS):
        if (out / name).is_file():  # the page removes its folder when it stops amid a batch
            flush(out / name)
