"""`busseg predict`, files in and files out, against common scripts; and its time and memory by number of files.

busseg runs its shipped models. The peers see each image and its mirror image, as `best` does: the usual loop with
Keras' `predict` runs the same networks with new weights, the usual one with PyTorch a network of their multiply-adds.
All read image files, and write for each a mask and an overlay of the native size. Then the command itself, as a process
of its own: wall time and peak memory for folders of several lengths, filled with copies. Without DATA, phantoms are
drawn.

Example: python -m benchmarks.predict data/busi --json predict.json --plot predict.png
"""

import shutil
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from rich.progress import track

from benchmarks.cold_start import BUSSEG, run_in_small_process
from benchmarks.machine import matrix_product, multiplies_bfloat16
from benchmarks.measuring import AS_BUSSEG, Worker, loop_over_files, spread, time_in_turns
from benchmarks.pipeline import dataset
from benchmarks.reporting import measure_and_report, parse_arguments
from benchmarks.torch_peer import FINEST, missing_peer
from busseg.inference.predictor import PACKAGED

NETWORKS = {"best": ("best", "small"), "small": ("small",)}  # the recipes of each model that ships
QUICK = {"images": 12, "phantoms": 4, "lengths": [10, 50], "repeats": 2}


def measure(
    data=None,
    images=780,
    phantoms=80,
    lengths=(100, 1000, 10_000),
    encoder="mobilenet_v2",
    repeats=5,
    torch_python=sys.executable,
    plot=None,
):
    """Time predictions of files.

    Args:
        data: Dataset folder; None draws phantoms.
        images: Number of files that busseg and its peers are timed on.
        phantoms: Number drawn a class.
        lengths: Numbers of files that the command is run on.
        encoder: That of the peer on PyTorch; see `benchmarks.torch_peer.FINEST`.
        repeats: Number of turns of each.
        torch_python: Interpreter that has segmentation_models_pytorch.
        plot: Path of a plot of the lengths to draw, or None.

    Returns:
        List of rows; a row of what was skipped says why.
    """
    from busseg.data import find_samples

    with dataset(data, phantoms) as folder, tempfile.TemporaryDirectory() as place:
        sources = [sample.image for sample in find_samples(folder)]
        inputs = _fill(Path(place) / "inputs", sources, images)
        rows = _against_peers(inputs, Path(place), encoder, repeats, torch_python)
        measured = []
        for length in track(lengths, "Predicting folders"):
            scans = _fill(Path(place) / f"{length}", sources, length)
            command = [*BUSSEG, "predict", str(scans), "--out", f"{{out}}/{length}-predicted"]
            run = run_in_small_process(command, made=place, out=place)
            measured.append({"what": f"busseg predict, {length} files", "files": length, **run})
            shutil.rmtree(scans)
            shutil.rmtree(Path(place) / f"{length}-predicted")
    if plot:
        draw(measured, plot)
    return rows + measured


def _fill(folder, sources, count):
    folder.mkdir()
    for number, source in enumerate(islice(cycle(sources), count)):
        shutil.copyfile(source, folder / f"{number:05}{source.suffix}")
    return folder


def _against_peers(inputs, place, encoder, repeats, torch_python):
    fixed = {"inputs": str(inputs)}
    rows = []
    with Worker("benchmarks.predict:busseg_files", {**fixed, "out": str(place / "busseg")}) as ours:
        size, forward = ours.facts["size"], ours.facts["forward, G"] / 2  # an image, without its mirror image
        peers = {
            "busseg, small": ("benchmarks.predict:busseg_files", {"name": "small"}, sys.executable),
            "Keras, a loop with predict": ("benchmarks.predict:keras_files", {"size": size}, sys.executable),
        }
        if multiplies_bfloat16():
            peers["busseg, best, bfloat16"] = (
                "benchmarks.predict:busseg_files",
                {"precision": "bfloat16"},
                sys.executable,
            )
        missing = missing_peer(torch_python)
        if not missing:
            settings = {"size": size, "encoder": encoder, "forward": forward}
            for title, helped in ((f"PyTorch, smp {encoder}, a loop", False), ("the same, helped", True)):
                own = settings | {"helped": helped}
                peers[title] = "benchmarks.torch_peer:predict_files", own, torch_python
        count = ours.facts["images"]
        for number, (name, (maker, settings, python)) in enumerate(track(peers.items(), "Against peers")):
            settings = {**fixed, "out": str(place / f"peer-{number}"), **settings}
            with Worker(maker, settings, AS_BUSSEG, python) as peer:
                times = time_in_turns(peer.time, ours.time, repeats)
            rows.append({"what": name, "images/s": spread([count / s for s in times["first"]]), **peer.facts})
            rows[-1]["busseg is faster by"] = spread(times["gain"])
        rows.insert(0, {"what": "busseg, best", "images/s": spread([count / s for s in times["second"]]), **ours.facts})
    rows += [_against_the_limit(name, repeats) for name in PACKAGED]
    if missing:
        rows.append({"what": "segmentation_models_pytorch", "skipped": missing})
    return rows


def _against_the_limit(name, repeats):
    with Worker("benchmarks.predict:model_alone", {"name": name}) as model:
        limit = max(matrix_product(2048) for _ in range(5))
        seconds = [model.time(5) / model.facts["images"] for _ in range(repeats)]
    shortest = 2 * model.facts["forward, G"] / limit
    row = {"what": f"{name} alone, batches of 16", "images/s": spread([1 / s for s in seconds]), **model.facts}
    return {**row, "times the limit's time": spread([s / shortest for s in seconds])}


# === Timed work ===
def busseg_files(inputs, out, name="best", precision="float32"):
    """A worker's maker: predicts a folder as the command does, by a model that ships."""
    from busseg.inference.batch import predict_files
    from busseg.inference.inputs import find_inputs
    from busseg.inference.predictor import Predictor

    files, predictor = find_inputs([inputs]), Predictor(name, precision=precision)

    def predict():
        for _ in predict_files(predictor, files, out):
            pass

    predict()
    return {"images": len(files), **shipped(name)}, predict


def shipped(name):
    """A shipped model's side, and its multiply-adds, in billions, of one image and its mirror image."""
    from benchmarks.models import count_multiply_adds

    networks = networks_like(name)
    forward = sum(sum(count_multiply_adds(network).values()) for network in networks)
    return {"size": networks[0].input_shape[1], "forward, G": 2 * forward / 1e9}


def networks_like(name):
    """The networks of a shipped model, with new weights, which take as long as trained ones."""
    from dataclasses import replace

    from busseg.training.network import build_model
    from busseg.training.recipe import load_recipe

    return [build_model(replace(load_recipe(recipe), weights="none")) for recipe in NETWORKS[name]]


def model_alone(name):
    """A worker's maker: one batch through a model that ships, no files."""
    import numpy as np

    from busseg.inference.runtimes import load

    facts = shipped(name)
    run, _, _ = load(PACKAGED[name])
    batch = np.random.default_rng(0).uniform(0, 255, (16, facts["size"], facts["size"], 1)).astype(np.float32)
    run(batch)
    return {"images": 16, **facts}, lambda: run(batch)


def keras_files(inputs, out, size):
    """A worker's maker: the loop of many scripts, one image at a time, with Keras' `predict`."""
    from busseg.models.serving import average

    model = average(*networks_like("best"), flip_tta=True)
    return {}, loop_over_files(
        inputs, out, size, lambda x: model.predict(x[None, ..., None], verbose=0)["mask"][0, ..., 0]
    )


# === Plot ===
def draw(rows, path):
    """Draw wall time and peak memory against the number of files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    files = [row["files"] for row in rows]
    for axis, name, unit in zip(figure.subplots(1, 2), ("s", "peak memory, MB"), ("seconds", "peak memory, MB")):
        axis.plot(files, [row[name] for row in rows], "o-")
        axis.set(xscale="log", xlabel="files", ylabel=unit, yscale="log" if name == "s" else "linear")
    axis.set_ylim(0, 1.2 * max(row["peak memory, MB"] for row in rows))
    figure.savefig(path, dpi=120)


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("data", {"type": Path, "nargs": "?", "help": "dataset folder, such as data/busi; phantoms without"}),
        ("--images", {"type": int, "help": "that busseg and its peers are timed on (780)"}),
        ("--phantoms", {"type": int, "help": "drawn a class (80)"}),
        ("--lengths", {"type": int, "nargs": "+", "help": "of folders (100 1000 10000)"}),
        ("--encoder", {"choices": FINEST, "help": "of the peer on PyTorch (mobilenet_v2)"}),
        ("--repeats", {"type": int, "help": "turns (5)"}),
        ("--torch-python", {"help": "interpreter that has segmentation_models_pytorch (this one)"}),
        ("--plot", {"type": Path, "help": "plot of the lengths to draw"}),
    )
    measure_and_report("predict", measure, settings, path)


if __name__ == "__main__":
    main()
