"""The models of the package alone, by engine and precision, on one core and on more.

Each is a process of its own that may use so many cores of the machine (on Linux), and is timed in turns with ONNX
Runtime, which `busseg predict` uses. Pixels are noise; nothing is read or written.

Example: python -m benchmarks.packaged --json packaged.json
"""

import os
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.machine import multiplies_bfloat16
from benchmarks.measuring import Worker, noise, spread, time_in_turns
from benchmarks.reporting import measure_and_report, parse_arguments

QUICK = {"models": ["small"], "cores": [1], "batches": [1], "images": 2, "repeats": 2}


def measure(models=("small", "best"), cores=(1, 2), batches=(1, 16), images=48, repeats=5):
    """Time the models.

    Args:
        models: Names of models of the package.
        cores: Numbers of cores.
        batches: Numbers of images in a batch.
        images: Number a turn.
        repeats: Number of turns of each.

    Returns:
        List of rows.
    """
    rows = []
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            export = _export(model, Path(folder) / "openvino")
            for count in cores:
                for batch in batches:
                    settings = {"model": model, "export": str(export), "cores": count, "batch": batch}
                    rows += _rows(settings, max(1, images // batch), repeats)
    return rows


def _rows(settings, count, repeats):
    """A row of ONNX Runtime, and one of each way of OpenVINO."""
    about = {name: settings[name] for name in ("model", "cores", "batch")}
    seconds, rows = [], []
    for precision in ("float32", "bfloat16") if multiplies_bfloat16() else ("float32",):
        with (
            Worker("benchmarks.packaged:run", {**settings, "engine": "onnx", "precision": "float32"}) as usual,
            Worker("benchmarks.packaged:run", {**settings, "engine": "openvino", "precision": precision}) as other,
        ):
            timed = time_in_turns(partial(usual.time, count), partial(other.time, count), repeats)
        seconds += timed["first"]
        speeds = _speed(settings, timed["second"])
        rows.append({**about, "engine": f"openvino, {precision}", "images/s": speeds, "gain": spread(timed["gain"])})
    return [{**about, "engine": "onnx, float32", "images/s": _speed(settings, seconds)}, *rows]


def _speed(settings, seconds):
    return spread([settings["batch"] / one for one in seconds])


def _export(model, out):
    from busseg.export.formats import export_openvino
    from busseg.inference.predictor import PACKAGED

    export_openvino(PACKAGED[model], out)
    return out


def run(model, export, cores, batch, engine, precision):
    """A worker that runs a model on a batch of noise; see `measuring.Worker`."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from busseg.inference.predictor import PACKAGED
    from busseg.inference.runtimes import load

    predict, shape, _ = load(PACKAGED[model] if engine == "onnx" else export, cores, precision=precision)
    pixels = noise(shape[1], batch)[0][..., None]
    predict(pixels)
    return {}, partial(predict, pixels)


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--models", {"nargs": "+", "help": "of the package (small best)"}),
        ("--cores", {"nargs": "+", "type": int, "help": "(1 2)"}),
        ("--batches", {"nargs": "+", "type": int, "help": "images in a batch (1 16)"}),
        ("--images", {"type": int, "help": "a turn (48)"}),
        ("--repeats", {"type": int, "help": "turns (5)"}),
    )
    measure_and_report("packaged", measure, settings, path)


if __name__ == "__main__":
    main()
