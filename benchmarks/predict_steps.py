"""The time of `busseg predict` by step, one file after the other on one core. It writes masks and overlays.

Without DATA, phantoms are drawn.

Example: python -m benchmarks.predict_steps data/busi --json predict_steps.json
"""

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.measuring import in_fresh_process, spread
from benchmarks.pipeline import dataset
from benchmarks.reporting import measure_and_report, parse_arguments

QUICK = {"images": 4, "phantoms": 4, "repeats": 2}


def measure(data=None, model="best", images=100, phantoms=40, repeats=5):
    """Time the steps.

    Args:
        data: Dataset folder; None draws phantoms.
        model: Name of a model of the package.
        images: Number of files.
        phantoms: Number drawn a class.
        repeats: Number of turns.

    Returns:
        List of rows: one a step, and their sum.
    """
    with dataset(data, phantoms) as folder:
        settings = {"data": str(folder), "model": model, "images": images, "repeats": repeats}
        turns = in_fresh_process("benchmarks.predict_steps:time_steps", settings)
    for turn in turns:
        turn["all"] = sum(turn.values())
    return [{"step": step, "ms an image": spread([turn[step] for turn in turns])} for step in turns[0]]


def time_steps(data, model, images, repeats):
    """A worker's maker: for each turn, a dict from step to its milliseconds an image."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import cv2

    from busseg.data import find_samples
    from busseg.inference.predictor import Predictor

    cv2.setNumThreads(1)
    samples = find_samples(data)
    paths = [sample.image for sample in samples[:: max(1, len(samples) // images)]][:images]
    predictor = Predictor(model, threads=1)
    turns = []
    for _ in range(1 + repeats):
        with tempfile.TemporaryDirectory() as out:
            turns.append(_predict(predictor, paths, Path(out)))
    return turns[1:], None


def _predict(predictor, paths, out):
    import numpy as np

    from busseg.imaging.images import encode_image, fit_to_native, fit_to_square
    from busseg.inference.frames import find_frames
    from busseg.inference.overlay import draw_overlay
    from busseg.inference.quality import find_faint
    from busseg.inference.records import fields, to_row
    from busseg.inference.runtimes import load
    from busseg.storage.files import append_row, hidden_folder, replacing

    network, _, _ = load(predictor.path, 1)
    seconds = defaultdict(float)

    def timed(step, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        seconds[step] += time.perf_counter() - start
        return result

    def write(contents, place):
        for path, content in contents.items():
            with replacing(path, place) as temporary:
                temporary.write_bytes(content)

    with hidden_folder(out) as place:
        for number, path in enumerate(paths):
            [frame] = timed("find the frames", find_frames, path, Path(f"{number}"), predictor.task)
            image = timed("read and decode", frame.read, predictor)
            square = timed("fit to the square", fit_to_square, image, predictor.image_size)
            batch = np.float32(square)[None, ..., None]
            outputs = timed("network", network, batch)
            timed("mask to native size", fit_to_native, outputs["mask"][0, ..., 0], image.shape)
            timed("grey levels", find_faint, image)
            [prediction] = predictor.predict_batch([image])
            overlay = timed("draw the overlay", draw_overlay, image, prediction)
            drawn = timed("encode the overlay", encode_image, overlay)
            mask = timed("encode the mask", encode_image, 255 * prediction.mask)
            timed("write both", write, {out / f"{number}_overlay.png": drawn, out / f"{number}_mask.png": mask}, place)
            row = timed("row of the table", to_row, frame, prediction, predictor.task)
            timed("row of the table", append_row, out / "predictions.csv", fields(predictor.task), row)
    return {step: 1e3 * total / len(paths) for step, total in seconds.items()}


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("data", {"type": Path, "nargs": "?", "help": "dataset folder, such as data/busi; phantoms without"}),
        ("--model", {"help": "of the package (best)"}),
        ("--images", {"type": int, "help": "files (100)"}),
        ("--phantoms", {"type": int, "help": "drawn a class (40)"}),
        ("--repeats", {"type": int, "help": "turns (5)"}),
    )
    measure_and_report("predict_steps", measure, settings, path)


if __name__ == "__main__":
    main()
