"""Predict files and folders: masks, overlays and a table, whatever single files are like."""

import errno
import json
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import tee
from statistics import median

import numpy as np

from busseg.data.sample import TASKS
from busseg.imaging.dicom import is_dicom
from busseg.imaging.dicom_seg import write_overlay
from busseg.imaging.images import read_image, write_image
from busseg.imaging.threads import PIXELS_AHEAD, map_in_turn
from busseg.inference.frames import (
    Frame,
    find_frames,
    frame_target,
    predict_frames,
    segment_scan,
)
from busseg.inference.overlay import caption_as_out_of_distribution, draw_overlay
from busseg.inference.predictor import OUT_OF_DISTRIBUTION
from busseg.inference.results import refuse_foreign
from busseg.storage.claims import claim_folder
from busseg.storage.files import append_row, append_text, blaming, flush, hidden_folder, read_csv, write_csv, write_text
from busseg.storage.run_folder import (
    OVERLAY_DICOM,
    PREDICTION,
    PREDICTION_LINES,
    PREDICTION_PARQUET,
    PREDICTIONS,
    SEGMENTATION,
)

_OF_LESIONS = ("lesion_px", "lesion_fraction", "lesion_mm2", "lesion_mm", "uncertainty", "ood_score")
_PICTURES = {  # of scans, by the ends of their names; the last one on request
    "_mask.png": lambda image, prediction: prediction.mask * 255,
    "_overlay.png": draw_overlay,
    "_probability.png": lambda image, prediction: np.rint(255 * prediction.probability_map).astype(np.uint8),
}
_BATCH = 8  # and their mirror images; more are no faster
_THREADS = 4  # that read and write; decoding and encoding leave Python's lock, and disks are waited for


def fields(task, sensitivity=None):
    """The columns of `predictions.csv` by a model of one of `TASKS`, asked for a sensitivity or not."""
    frame, of_lesions = (("frame", "regions"), _OF_LESIONS) if task == "ultrasound" else ((), ())
    decision = () if sensitivity is None else (decision_column(sensitivity),)
    probabilities = (f"p_{label}" for label in TASKS[task])
    return ("file", *frame, "label", *decision, *probabilities, *of_lesions, "warning", "error")


def decision_column(sensitivity):
    """The column that says whether an image counts as malignant, such as `malignant_at_0.95`.

    The sensitivity is in its name, so that `resume` does not put two of them into one table.
    """
    return f"malignant_at_{sensitivity:g}"


def predict_in_threads(predictor, frames, out, pictures, json_lines, run):
    """Predict pictures in this process and write their results: threads read and write while the network computes.

    A few images are in memory at a time, however many there are.

    Args:
        predictor: A `Predictor`.
        frames: Iterable of `Frame`.
        out: Path of the output folder.
        pictures: Those to write of each, by the ends of their names.
        json_lines: Whether lines are wanted; see `predict_files`.
        run: What tells this run's overlays as DICOM from those of others; None writes none.

    Yields:
        `(row, line)` of each, in their order; the line is None where none is wanted.
    """
    with hidden_folder(out) as place:
        pool = ThreadPoolExecutor(_THREADS)
        try:
            read = map_in_turn(pool, partial(_try_to_read, predictor), frames, Frame.count_pixels)
            write = partial(_write, out, place, predictor.task, pictures, json_lines, run)
            yield from map_in_turn(pool, write, _predicted(predictor, read), lambda predicted: _size(predicted[1]))
        finally:
            pool.shutdown(cancel_futures=True)


def predict_files(
    predictor, inputs, out, resume=False, probability_maps=False, json_lines=False, overlay_dicom=False,
    require_region=False, engine=predict_in_threads, watch=lambda: None,
):  # fmt: skip
    """Predict image and DICOM files and write, for each picture in them, `NAME_mask.png` (0/255) and
    `NAME_overlay.png`, and one table of all.

    Of a clip, each frame is a picture, `NAME_frame001` and so on. Of DICOM, the regions that the scanner marked are
    predicted, and make one answer (`join_regions`); masks and overlays are of the whole frame. Each DICOM file gets its
    lesions of all frames as DICOM, too, `NAME_seg.dcm`; see `write_segmentation`. Of tissue, which has no mask, the
    table is all there is.

    A clip is judged as a whole: where the median ood_score of its frames is above 1, all its rows and overlays say that
    it is `OUT_OF_DISTRIBUTION`. Of such a DICOM file, no segmentation is written.

    A file that cannot be read gets a row with its error, and the others go on.

    Args:
        predictor: A `Predictor`.
        inputs: Dict from path to the results' path, as `find_inputs` gives it.
        out: Path of the output folder. A former `predictions.csv` there is replaced.
        resume: Whether to go on with the prediction in `out` instead: a picture whose row, without an error, and
            results are all there is not predicted again, whatever model that was. A DICOM clip is predicted again as a
            whole.
            A table of another sensitivity is refused.
        probability_maps: Whether to write `NAME_probability.png`, too: 0..255 for lesion probabilities of 0..1. Not of
            tissue.
        json_lines: Whether to write `predictions.jsonl`, too: a JSON object a picture and line, with the box and the
            contours of the lesion; see `Prediction`.
        overlay_dicom: Whether to write the overlays of DICOM files as DICOM, too, `NAME_overlay.dcm`.
        require_region: Whether to refuse DICOM without a usable region; see `find_frames`.
        engine: What predicts and writes pictures, a function like `predict_in_threads`.
        watch: Function that is called once for each picture that is predicted, before a clip's rows come.

    Yields:
        Dicts with `fields`, one a picture in the order of `inputs`, as in `predictions.csv`; those of a clip once all
        its frames are predicted. The content of its results is on the disk by then; their names and the rows are once
        all are done. If the machine stops before, `resume` does again what is missing.

    Raises:
        FileExistsError: If `out` holds other files than a former prediction, or one of them has a result's name.
        BlockingIOError: If another process writes there.
        OSError: If the folder cannot be written.
        ImportError: If a file is DICOM, and what reads it is missing.
        ValueError: If the table to go on with has other columns.
    """
    columns = fields(predictor.task, predictor.sensitivity)
    pictures = list(_PICTURES)[: 2 + probability_maps] if predictor.task == "ultrasound" else []
    with claim_folder(out, PREDICTION) as out:
        done = _done(inputs, out, columns, pictures, json_lines, overlay_dicom) if resume else {}
        found = (frame for item in inputs.items() for frame in find_frames(*item, predictor.task, require_region))
        if (out / PREDICTIONS).exists():
            ahead, found = tee(found)
            ends = [*pictures, OVERLAY_DICOM] if overlay_dicom else pictures
            to_write = (frame for frame in ahead if frame.key not in done)
            refuse_foreign(out, (name for frame in to_write for name in _results(frame, inputs[frame.path], ends)))
        write_csv(out / PREDICTIONS, columns, [row for row, _ in done.values()])
        if json_lines:
            write_text(out / PREDICTION_LINES, "".join(line for _, line in done.values()))
        else:
            (out / PREDICTION_LINES).unlink(missing_ok=True)  # those of a former prediction tell of other results
        (out / PREDICTION_PARQUET).unlink(missing_ok=True)  # written last, by the engine that does
        ahead, frames = tee(found)
        to_do = (frame for frame in ahead if frame.key not in done)
        run = uuid.uuid4().hex if overlay_dicom else None
        predicted = engine(predictor, to_do, out, pictures, json_lines, run)
        try:
            told = _in_order(frames, done, predicted)
            for frame, row, line in _settled(told, inputs, out, run, predictor, watch):
                if frame.key not in done:
                    # One by one, so that what is done stays told when the rest is stopped; the row last, which says it.
                    if json_lines:
                        append_text(out / PREDICTION_LINES, line)
                    append_row(out / PREDICTIONS, columns, row)
                yield row
        finally:
            predicted.close()
            for path in {out, *((out / target).parent for target in inputs.values())}:
                if path.is_dir():  # none is made for files that cannot be read
                    flush(path)
            if (out / PREDICTIONS).is_file():  # the page takes its folder away when it is ended amid a batch
                flush(out / PREDICTIONS)


def _results(frame, target, ends):
    """The names of a frame's results; `target` is that of its file."""
    names = [f"{frame.target}{end}" for end in ends]
    return [*names, f"{target}{SEGMENTATION}"] if frame.scan else names


def _done(inputs, out, columns, pictures, json_lines, overlay_dicom):
    """What a former prediction is done with: dict from `Frame.key` to `(row, line)`, in the order of `inputs`."""
    rows = read_csv(out / PREDICTIONS, columns) if (out / PREDICTIONS).exists() else []
    if rows and (unknown := sorted(rows[0].keys() - set(columns))):
        raise ValueError(f"Expected a table of the same options to go on with, found the column {unknown[0]!r}: {out}")
    if rows and not (out / PREDICTIONS).read_bytes().endswith(b"\n"):
        rows.pop()  # a kill cut it short
    rows = {_key(row): row for row in rows if not row["error"]}
    lines = dict.fromkeys(rows, "")
    if json_lines:
        with blaming(out / PREDICTION_LINES, "lines of JSON"):
            text = (out / PREDICTION_LINES).read_text(encoding="utf-8") if (out / PREDICTION_LINES).exists() else ""
            whole = [line for line in text.splitlines(keepends=True) if line.endswith("}\n")]
            lines = {_key(json.loads(line)): line for line in whole}
    of_file = defaultdict(list)
    for key in rows:
        if key in lines:
            of_file[key[0]].append(key)
    done = {}
    for path, target in inputs.items():
        keys = of_file[str(path)]
        scan = bool(keys) and is_dicom(path)
        segmented = (out / f"{target}{SEGMENTATION}").exists() or is_out_of_distribution([rows[key] for key in keys])
        if scan and not segmented:
            continue
        ends = [*pictures, OVERLAY_DICOM] if scan and overlay_dicom else pictures
        for key in sorted(keys, key=lambda key: int(key[1] or 0)):
            if all((out / f"{frame_target(target, key[1])}{end}").exists() for end in ends):
                done[key] = rows[key], lines[key]
    return done


def _key(told):
    """The `Frame.key` of a row or of what a line tells."""
    return told["file"], str(told.get("frame") or "")


def _try_to_read(predictor, frame):
    """`(frame, image, error)`; one of the last two is None."""
    try:
        return frame, frame.read(predictor), None
    except (OSError, ValueError) as error:
        return frame, None, error


def _predicted(predictor, read):
    """`(frame, image, error, prediction)` of what `_try_to_read` gave; there is no prediction of an error."""
    read = iter(read)
    while some := _predict(predictor, list(_batch(read))):
        while some:
            yield some.pop(0)  # and holds it no longer


def _predict(predictor, some):
    predictions = iter(predict_frames(predictor, [(frame, image) for frame, image, error in some if error is None]))
    return [_with_answer(one, next(predictions)) if one[2] is None else (*one, None) for one in some]


def _with_answer(one, prediction):
    frame, image, _ = one
    return (frame, image, prediction, None) if isinstance(prediction, ValueError) else (frame, image, None, prediction)


def _batch(read):
    """The next few of what `_try_to_read` gave, the fewer the larger they are."""
    held = 0
    for count, one in enumerate(read, start=1):
        yield one
        held += _size(one[1])
        if count == _BATCH or held >= PIXELS_AHEAD:
            return


def _size(image):
    return 0 if image is None else image.size


def _write(out, place, task, pictures, json_lines, run, predicted):
    """Write a picture's results; return its row and, if wanted, its line."""
    frame, image, error, prediction = predicted
    if error is None:
        try:
            with blaming(frame.path, "results that can be written"):
                _draw(out, place, pictures, run, frame, image, prediction)
        except (OSError, ValueError) as raised:
            # A full disk ends the run; what cannot be drawn, or has too long a path, is one file's own.
            if isinstance(raised, OSError) and raised.errno != errno.ENAMETOOLONG:
                raise
            error = raised
    if error is not None:
        return failure(frame, error, task)
    return _row(frame, prediction, task), _line(frame, prediction, task) if json_lines else None


def _draw(out, place, pictures, run, frame, image, prediction):
    for end in pictures:
        write_image(out / f"{frame.target}{end}", _PICTURES[end](image, prediction), place)
    if run and frame.scan:
        picture = draw_overlay(image, prediction)
        write_overlay(out / f"{frame.target}{OVERLAY_DICOM}", frame.scan, frame.number or 1, picture, run)


def _in_order(frames, done, predicted):
    """`(frame, row, line, new)` of all frames, of which some are done and the others are the next predicted."""
    for frame in frames:
        new = frame.key not in done
        yield frame, *(next(predicted) if new else done[frame.key]), new


def _settled(told, inputs, out, run, predictor, watch):
    """`(frame, row, line)` of what `_in_order` gives; of a file once all its frames are there to judge and segment."""
    whole, changed = [], False
    for frame, row, line, new in told:
        whole.append([frame, row, line])
        watch()
        changed = changed or new
        if not frame.ends_file:
            continue
        unreadable = is_out_of_distribution([row for _, row, _ in whole])
        if unreadable and changed:
            whole = [_as_out_of_distribution(*one, out, run) for one in whole]
        if frame.scan and changed:
            target, rows = inputs[frame.path], [row for _, row, _ in whole]
            (out / f"{target}{SEGMENTATION}").unlink(missing_ok=True)  # a former one tells of other results
            try:
                if not unreadable and not any(row["error"] for row in rows):
                    segment_scan(frame.scan, target, rows, out, predictor.name)
            except ValueError as error:
                whole[-1][1:] = failure(frame, error, predictor.task)
        yield from whole
        whole, changed = [], False


def is_out_of_distribution(rows):
    """Whether a file is `OUT_OF_DISTRIBUTION`: all its frames are, or their median OOD score is above 1."""
    rows = [row for row in rows if not row["error"]]
    scores = [float(row["ood_score"]) for row in rows if row.get("ood_score")]
    by_each = bool(rows) and all(row["warning"].startswith(OUT_OF_DISTRIBUTION) for row in rows)
    return by_each or median(scores or [0]) > 1


def _as_out_of_distribution(frame, row, line, out, run):
    """Mark a picture of an `OUT_OF_DISTRIBUTION` clip, in its row, line and overlay, where it is readable by itself."""
    if row["error"] or row["warning"].startswith(OUT_OF_DISTRIBUTION):
        return [frame, row, line]
    path = out / f"{frame.target}_overlay.png"
    height = len(read_image(out / f"{frame.target}_mask.png"))
    picture = caption_as_out_of_distribution(read_image(path, colour=True), height)
    write_image(path, picture)
    if run and frame.scan:
        write_overlay(out / f"{frame.target}{OVERLAY_DICOM}", frame.scan, frame.number, picture, run)
    warning = "; ".join(filter(None, (OUT_OF_DISTRIBUTION, row["warning"])))
    line = line and json.dumps(json.loads(line) | {"warning": warning}) + "\n"
    return [frame, row | {"warning": warning}, line]


def failure(frame, error, task):
    """Row and line of a picture that has no answer, or none that could be written."""
    told = {"file": str(frame.path)} | ({"frame": frame.number} if frame.number else {}) | {"error": str(error)}
    return dict.fromkeys(fields(task), "") | told, json.dumps(told) + "\n"


def _row(frame, prediction, task):
    row = dict.fromkeys(fields(task), "") | {"file": str(frame.path), "label": prediction.label}
    row |= {f"p_{label}": f"{p:.6f}" for label, p in zip(TASKS[task], prediction.probabilities)}
    if prediction.mask is not None:
        row |= {
            "frame": frame.number or "",
            "regions": "" if prediction.regions is None else len(prediction.regions),
            "lesion_px": prediction.lesion_px,
            "lesion_fraction": f"{prediction.lesion_fraction:.6f}",
            "lesion_mm2": "" if prediction.lesion_mm2 is None else f"{prediction.lesion_mm2:.2f}",
            "lesion_mm": "" if prediction.lesion_mm is None else f"{prediction.lesion_mm:.2f}",
            "uncertainty": "" if prediction.uncertainty is None else f"{prediction.uncertainty:.6f}",
            "ood_score": "" if prediction.ood_score is None else f"{prediction.ood_score:.6f}",
        }
    if prediction.malignant is not None:
        row[decision_column(prediction.sensitivity)] = prediction.malignant
    return row | {"warning": prediction.warning or ""}


def _line(frame, prediction, task):
    told = {
        "file": str(frame.path),
        "label": prediction.label,
        "probabilities": {label: round(float(p), 6) for label, p in zip(TASKS[task], prediction.probabilities)},
    }
    if prediction.mask is not None:
        told |= {
            "frame": frame.number,
            "regions": prediction.regions,
            "lesion_px": prediction.lesion_px,
            "lesion_fraction": round(prediction.lesion_fraction, 6),
            "lesion_mm2": None if prediction.lesion_mm2 is None else round(prediction.lesion_mm2, 2),
            "lesion_mm": None if prediction.lesion_mm is None else round(prediction.lesion_mm, 2),
            "uncertainty": None if prediction.uncertainty is None else round(prediction.uncertainty, 6),
            "ood_score": None if prediction.ood_score is None else round(prediction.ood_score, 6),
            "box": prediction.box,
            "contours": [outline.tolist() for outline in prediction.contours],
        }
    if prediction.malignant is not None:
        told[decision_column(prediction.sensitivity)] = prediction.malignant
    told["warning"] = prediction.warning
    return json.dumps(told) + "\n"
