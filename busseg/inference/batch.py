"""Predict files and folders: masks, overlays and a table, whatever single files are like."""

import csv
import glob
import json
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, takewhile
from pathlib import Path

import numpy as np

from busseg.data.busi import MASK_STEM
from busseg.data.files import claim_folder, read_csv, write_csv, write_text
from busseg.data.images import is_image, write_image
from busseg.data.sample import TASKS
from busseg.inference.overlay import draw_overlay
from busseg.inference.predictor import UNREADABLE

TABLE, LINES, PARQUET = "predictions.csv", "predictions.jsonl", "predictions.parquet"
_OF_LESIONS = ("lesion_px", "lesion_fraction", "uncertainty", "novelty")
_PICTURES = {  # of scans, by the ends of their names; the last one on request
    "_mask.png": lambda image, prediction: prediction.mask * 255,
    "_overlay.png": draw_overlay,
    "_probability.png": lambda image, prediction: np.rint(255 * prediction.probability_map).astype(np.uint8),
}
_BATCH = 8  # and their mirror images; more are no faster
_THREADS = 4  # that read and write; decoding and encoding leave Python's lock, and disks are waited for
_AHEAD = 2 * _BATCH


def fields(task):
    """The columns of `predictions.csv` by a model of one of `TASKS`."""
    of_lesions = _OF_LESIONS if task == "ultrasound" else ()
    return ("file", "label", *(f"p_{label}" for label in TASKS[task]), *of_lesions, "warning", "error")


def find_inputs(paths):
    """Find the image files that inputs name, and where their results go.

    Folders are searched with all their subfolders, and patterns such as `scans/*.png` for the images that they match
    (`**` stands for folders in folders). Masks that lie beside their image (`NAME_mask.png` beside
    `NAME.png`) are passed over, for they are no scans, and so is what a former prediction wrote.

    Args:
        paths: Sequence of paths of files and folders, and of patterns.

    Returns:
        Dict from image path to the results' path without suffix, relative to the output folder.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds, or a pattern matches, no image.
        ValueError: If the results of two inputs would have one name.
    """
    found = {}
    for path in map(Path, paths):
        if path.is_dir():
            written = {table.parent for table in path.rglob(TABLE)}
            images = _images(file for file in path.rglob("*") if not written & set(file.parents))
            if not images:
                raise FileNotFoundError(f"Expected images in the folder, found none: {path}")
            found |= {image: image.relative_to(path) for image in images}
        elif path.exists():
            found[path] = Path(path.name)
        elif glob.has_magic(str(path)):
            fixed = list(takewhile(lambda part: not glob.has_magic(part), path.parts))
            images = _images(Path(*fixed).glob(str(Path(*path.parts[len(fixed) :]))))
            if not images:
                raise FileNotFoundError(f"Expected images that match the pattern, found none: {path}")
            found |= {image: image.relative_to(Path(*fixed)) for image in images}
        else:
            raise FileNotFoundError(f"Expected an image or a folder of images, found nothing: {path}")
    # x.png and x.jpg of one folder keep their suffixes, so that both have results.
    stems = Counter(target.with_suffix("") for target in found.values())
    targets = {image: t if stems[t.with_suffix("")] > 1 else t.with_suffix("") for image, t in found.items()}
    owners = {}
    for image, target in targets.items():
        if owners.setdefault(target, image) != image:
            raise ValueError(
                f"Expected inputs with different names, found two named {target}: {owners[target]}, {image}"
            )
    return targets


def _images(paths):
    """The images among paths, sorted, without masks that lie beside their image."""
    files = sorted(path for path in paths if path.is_file() and is_image(path))
    stems = {(file.parent, file.stem) for file in files}
    return [file for file in files if not _is_mask(file, stems)]


def _is_mask(file, stems):
    match = MASK_STEM.fullmatch(file.stem)
    return bool(match) and (file.parent, match["image"]) in stems


def predict_in_threads(predictor, inputs, out, pictures, json_lines):
    """Predict image files on this machine and write their pictures: threads read and write while the network computes.

    A few images are in memory at a time, however many there are.

    Args:
        predictor, inputs, out, json_lines: See `predict_files`.
        pictures: Those to write, by the ends of their names.

    Yields:
        `(row, line)` of each file, in the order of `inputs`; the line is None where none is wanted.
    """
    pool = ThreadPoolExecutor(_THREADS)
    try:
        read = _in_turn(pool, partial(_try_to_read, predictor), inputs)
        write = partial(_write, out, inputs, predictor.task, pictures, json_lines)
        yield from _in_turn(pool, write, _predicted(predictor, read))
    finally:
        pool.shutdown(cancel_futures=True)


def predict_files(
    predictor, inputs, out, resume=False, probability_maps=False, json_lines=False, engine=predict_in_threads
):
    """Predict image files and write, for each, `NAME_mask.png` (0/255) and `NAME_overlay.png`, and one table of all.

    Of tissue, which has no mask, the table is all there is.

    A file that cannot be read gets a row with its error, and the others go on.

    Args:
        predictor: A `Predictor`.
        inputs: Dict from image path to the results' path, as `find_inputs` gives it.
        out: Path of the output folder. A former `predictions.csv` there is replaced.
        resume: Whether to go on with the prediction in `out` instead: a file whose row, without an error, and results
            are all there is not predicted again, whatever model that was.
        probability_maps: Whether to write `NAME_probability.png`, too: 0..255 for lesion probabilities of 0..1. Not of
            tissue.
        json_lines: Whether to write `predictions.jsonl`, too: a JSON object a file and line, with the box and the
            contours of the lesion; see `Prediction`.
        engine: What predicts and writes pictures, a function like `predict_in_threads`.

    Yields:
        Dicts with `fields`, one a file in the order of `inputs`, as in `predictions.csv`. The file's results are
        written by then.

    Raises:
        FileExistsError: If `out` holds other files than a former prediction.
        OSError: If the folder cannot be written.
    """
    columns = fields(predictor.task)
    pictures = list(_PICTURES)[: 2 + probability_maps] if predictor.task == "ultrasound" else ()
    out = claim_folder(out, TABLE)
    done = _done(inputs, out, columns, pictures, json_lines) if resume else {}
    write_csv(out / TABLE, columns, [row for row, _ in done.values()])
    if json_lines:
        write_text(out / LINES, "".join(line for _, line in done.values()))
    else:
        (out / LINES).unlink(missing_ok=True)  # those of a former prediction tell of other results
    (out / PARQUET).unlink(missing_ok=True)  # written last, by the engine that does
    to_do = {path: target for path, target in inputs.items() if str(path) not in done}
    predicted = engine(predictor, to_do, out, pictures, json_lines)
    try:
        for path in inputs:
            if path not in to_do:
                yield done[str(path)][0]
                continue
            row, line = next(predicted)
            # One by one, so that what is done stays told when the rest is stopped; the row last, which says it is done.
            if json_lines:
                with (out / LINES).open("a", encoding="utf-8") as lines:
                    lines.write(line)
            with (out / TABLE).open("a", newline="", encoding="utf-8") as table:
                csv.DictWriter(table, columns, lineterminator="\n").writerow(row)
            yield row
    finally:
        predicted.close()


def _done(inputs, out, columns, pictures, json_lines):
    """`(row, line)` of each file that a former prediction is done with, in the order of `inputs`."""
    rows = read_csv(out / TABLE, columns) if (out / TABLE).exists() else []
    if rows and not (out / TABLE).read_bytes().endswith(b"\n"):
        rows.pop()  # a kill cut it short
    rows = {row["file"]: row for row in rows if not row["error"]}
    lines = dict.fromkeys(rows, "")
    if json_lines:
        text = (out / LINES).read_text(encoding="utf-8") if (out / LINES).exists() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("}\n")]
        lines = {json.loads(line)["file"]: line for line in whole}
    return {
        str(path): (rows[str(path)], lines[str(path)])
        for path, target in inputs.items()
        if str(path) in rows.keys() & lines.keys() and all((out / f"{target}{end}").exists() for end in pictures)
    }


def _in_turn(pool, function, things):
    """`map(function, things)` by the threads of a pool, which are at most `_AHEAD` things ahead."""
    waiting = deque()
    for thing in things:
        waiting.append(pool.submit(function, thing))
        while waiting and (waiting[0].done() or len(waiting) > _AHEAD):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _try_to_read(predictor, path):
    """`(path, image, error)`; one of the last two is None."""
    try:
        return path, predictor.read(path), None
    except (OSError, ValueError) as error:
        return path, None, str(error)


def _predicted(predictor, read):
    """`(path, image, error, prediction)` of what `_try_to_read` gave; there is no prediction of an error."""
    read = iter(read)
    while some := list(islice(read, _BATCH)):
        images = [image for _, image, error in some if error is None]
        predictions = iter(predictor.predict_batch(images) if images else ())
        for path, image, error in some:
            yield path, image, error, next(predictions) if error is None else None


def _write(out, inputs, task, pictures, json_lines, predicted):
    """Write a file's results; return its row and, if wanted, its line."""
    path, image, error, prediction = predicted
    if error is not None:
        return failure(path, error, task)
    for end in pictures:
        write_image(out / f"{inputs[path]}{end}", _PICTURES[end](image, prediction))
    return _row(path, prediction, task), _line(path, prediction, task) if json_lines else None


def failure(path, error, task):
    """`(row, line)` of a file that could not be predicted."""
    row = dict.fromkeys(fields(task), "") | {"file": str(path), "error": error}
    return row, json.dumps({"file": str(path), "error": error}) + "\n"


def _row(path, prediction, task):
    row = {"file": str(path), "label": prediction.label}
    row |= {f"p_{label}": f"{p:.6f}" for label, p in zip(TASKS[task], prediction.probabilities)}
    if prediction.mask is not None:
        row |= {
            "lesion_px": prediction.lesion_px,
            "lesion_fraction": f"{prediction.lesion_fraction:.6f}",
            "uncertainty": "" if prediction.uncertainty is None else f"{prediction.uncertainty:.6f}",
            "novelty": "" if prediction.novelty is None else f"{prediction.novelty:.6f}",
        }
    return row | {"warning": "" if prediction.readable else UNREADABLE, "error": ""}


def _line(path, prediction, task):
    told = {
        "file": str(path),
        "label": prediction.label,
        "probabilities": {label: round(float(p), 6) for label, p in zip(TASKS[task], prediction.probabilities)},
    }
    if prediction.mask is not None:
        told |= {
            "lesion_px": prediction.lesion_px,
            "lesion_fraction": round(prediction.lesion_fraction, 6),
            "uncertainty": None if prediction.uncertainty is None else round(prediction.uncertainty, 6),
            "novelty": None if prediction.novelty is None else round(prediction.novelty, 6),
            "box": prediction.box,
            "contours": [outline.tolist() for outline in prediction.contours],
        }
    told["warning"] = None if prediction.readable else UNREADABLE
    return json.dumps(told) + "\n"
