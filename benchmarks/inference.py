"""Images a second by engine: Keras, SavedModel, ONNX Runtime, OpenVINO, LiteRT; and the peer on PyTorch.

One network, exported by Keras, on all threads. Each engine's answers are compared with Keras' own before it is timed in
turns with it. An engine that is not installed is reported and left out. So is segmentation_models_pytorch's U-Net,
which is another network, and is narrowed to the same multiply-adds in the row "equal work".

Example: python -m benchmarks.inference --network fast --sizes 192 --batches 1 16 --json inference.json
"""

import importlib.util
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from itertools import product

from rich.progress import track

from benchmarks.engines import ENGINES
from benchmarks.measuring import AS_BUSSEG, Worker, in_fresh_process, spread, time_in_turns
from benchmarks.models import NETWORKS
from benchmarks.reporting import measure_and_report, parse_arguments
from benchmarks.torch_peer import FINEST, missing_peer

QUICK = {"network": "plain", "sizes": [96], "batches": [1], "encoders": ["mobilenet_v2"], "seconds": 0.2, "repeats": 3}


def measure(
    network="fast",
    sizes=(192, 256),
    batches=(1, 16),
    encoders=("mobilenet_v2", "tu-tf_efficientnet_lite0"),
    seconds=1.0,
    repeats=5,
    torch_python=sys.executable,
):
    """Time predictions.

    Args:
        network: Name of `benchmarks.models.NETWORKS`; computed in float32, as busseg saves it.
        sizes: Sides of the image in pixels.
        batches: Images a call.
        encoders: Those of the peer; see `benchmarks.torch_peer.FINEST`.
        seconds: About how long a turn lasts.
        repeats: Number of turns of each.
        torch_python: Interpreter that has segmentation_models_pytorch.

    Returns:
        List of rows; a row of what was skipped says why.
    """
    skipped = {name: f"{package} is not installed" for name, (package, _) in ENGINES.items() if _missing(package)}
    peer = missing_peer(torch_python)
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            fixed = {"folder": folder, "size": size, "network": {**NETWORKS[network], "precision": "float32"}}
            exported = in_fresh_process("benchmarks.engines:export", {**fixed, "batches": batches})
            skipped |= {name: why for name, why in exported["failed"].items() if name not in skipped}
            for batch in batches:
                settings = {"image_size": size, "batch_size": batch}
                others = [
                    (name, f"benchmarks.engines:{maker}", {"folder": folder, "batch": batch}, sys.executable)
                    for name, (_, maker) in ENGINES.items()
                    if name not in skipped
                ]
                for encoder, work in product(() if peer else encoders, (None, exported["forward, G"])):
                    name = f"smp {encoder}, equal work" if work else f"smp {encoder}"
                    peer_settings = {**settings, "encoder": encoder, "forward": work, "channels_last": True}
                    others.append((name, "benchmarks.torch_peer:build_prediction", peer_settings, torch_python))
                rows += _time_engines(others, size, batch, seconds, repeats)
    if peer:
        skipped["segmentation_models_pytorch"] = peer
    return rows + [{"engine": name, "skipped": why} for name, why in skipped.items()]


def _missing(package):
    return importlib.util.find_spec(package) is None


def _time_engines(others, size, batch, seconds, repeats):
    """The rows of engines, `(name, maker, settings, interpreter)`, of which the first is timed with all others."""
    (_, maker, settings, _), rows = others[0], []
    with Worker(maker, settings) as base:
        for name, maker, settings, python in track(others, f"Predicting {batch} at {size} px"):
            same = nullcontext(base) if name == others[0][0] else None  # beside itself, it shows the noise
            with same or Worker(maker, settings, AS_BUSSEG, python) as other:
                turns = [partial(one.time, max(1, round(seconds / one.time()))) for one in (base, other)]
                times = time_in_turns(*turns, repeats)
            speed = [batch / one for one in times["second"]]
            row = {"engine": name, "size": size, "batch": batch, "images/s": spread(speed)}
            row["ms/image"] = spread([1e3 / one for one in speed])
            row["faster than Keras by"] = spread(times["gain"])
            rows.append({**row, **{key: value for key, value in other.facts.items() if key not in row}})
    return rows


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--network", {"choices": NETWORKS, "help": "(fast)"}),
        ("--sizes", {"type": int, "nargs": "+", "help": "sides of the image in pixels (192 256)"}),
        ("--batches", {"type": int, "nargs": "+", "help": "images a call (1 16)"}),
        (
            "--encoders",
            {"nargs": "+", "choices": FINEST, "help": "of the peer (mobilenet_v2, tu-tf_efficientnet_lite0)"},
        ),
        ("--seconds", {"type": float, "help": "a turn (1)"}),
        ("--repeats", {"type": int, "help": "turns (5)"}),
        ("--torch-python", {"help": "interpreter that has segmentation_models_pytorch (this one)"}),
    )
    measure_and_report("inference", measure, settings, path)


if __name__ == "__main__":
    main()
