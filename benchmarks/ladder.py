"""The ladder from "as it comes" to "fast": what each change of the network or of its computing gains, one at a time.

Each rung is timed in turns with the one below it, in processes of their own; a step is that of `benchmarks.training`.
The last rows time the top in turns with "as it comes", without oneDNN and under TensorFlow's default for it, which
hangs on the processor.

Example: python -m benchmarks.ladder --size 192 --json ladder.json
"""

from contextlib import ExitStack
from functools import partial

from rich.progress import track

from benchmarks.measuring import AS_BUSSEG, Worker, spread, time_in_turns
from benchmarks.models import NETWORKS
from benchmarks.reporting import measure_and_report, parse_arguments

BOTTOM, TOP = NETWORKS["as it comes"], NETWORKS["fast"]
ONEDNN = {"off": "0", "by default": None, "on": "1"}
# The settings in which they differ, from the bottom.
CHANGES = ("fold_batch_norm", "decoder", "width", "frozen", "precision", "frozen_depthwise")
# How many times as fast each rung was expected to be as the one below it, before it was measured: oneDNN as seen on
# another processor; folding by what batch normalization took of a profile; the decoder and its width by multiply-adds;
# freezing and half precision by a first try at the same network with another decoder; depthwise kernels by a first try.
PREDICTED = {
    "oneDNN by default": 2.3,
    "oneDNN on": 1.0,
    "fold_batch_norm True": 1.5,
    "decoder add": 1.9,
    "width 16": 1.3,
    "frozen 2": 1.4,
    "precision mixed_bfloat16": 1.4,
    "frozen_depthwise True": 1.3,
}
QUICK = {"rungs": 2, "depth": 1, "size": 96, "batch_size": 4, "steps": 2, "repeats": 3}


def ladder():
    """The ladder from the bottom: tuples of name, network and environment."""
    for name, value in ONEDNN.items():
        yield f"oneDNN {name}", BOTTOM, {**AS_BUSSEG, "TF_ENABLE_ONEDNN_OPTS": value}
    network = BOTTOM
    for setting in CHANGES:
        network = {**network, setting: TOP[setting]}
        yield f"{setting} {TOP[setting]}", network, AS_BUSSEG


def measure(rungs=None, size=192, depth=4, batch_size=16, steps=3, repeats=7):
    """Time the rungs.

    Args:
        rungs: Number of rungs to climb; None climbs all.
        size: Side of the image in pixels.
        depth: Levels of the networks below the finest; with fewer they are sooner built, for `--quick`.
        batch_size: Images a step.
        steps: Steps a turn.
        repeats: Number of turns of each.

    Returns:
        List of rows, a rung each, and one for all together.
    """
    fixed = {"image_size": size, "batch_size": batch_size, "depth": depth}
    rows = []

    def row(name, below, here):
        times = time_in_turns(partial((below or here).time, steps), partial(here.time, steps), repeats)
        speed = spread([batch_size / seconds for seconds in times["second"]])
        gain = {"predicted": PREDICTED.get(name), "gain": spread(times["gain"]) if below else None}
        rows.append({"rung": name, **here.facts, "images/s": speed, **gain})

    with ExitStack() as kept:
        starts, below = {}, None
        for name, network, environment in track(list(ladder())[:rungs], "Climbing"):
            here = kept.enter_context(Worker("benchmarks.training:build_step", {**fixed, **network}, environment))
            row(name, below, here)
            if len(starts) < 2:
                starts[name] = here
            elif below not in starts.values():
                below.close()  # or all would stand in memory side by side
            below = here
        if below not in starts.values():
            for start, worker in starts.items():
                row(f"{name}, against {start}", worker, below)
    return rows


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--rungs", {"type": int, "help": "to climb from the bottom (all)"}),
        ("--size", {"type": int, "help": "side of the image in pixels (192)"}),
        ("--depth", {"type": int, "help": "levels of the networks below the finest (4)"}),
        ("--batch-size", {"type": int, "help": "images a step (16)"}),
        ("--steps", {"type": int, "help": "a turn (3)"}),
        ("--repeats", {"type": int, "help": "turns (7)"}),
    )
    measure_and_report("ladder", measure, settings, path)


if __name__ == "__main__":
    main()
