"""Images a second of a training step, by network and size, each timed in turns with a reference.

A step is Keras' own, on a batch that lies in memory: forward, losses and metrics of the recipe, backward, optimizer.
Where segmentation_models_pytorch is installed, its U-Net is timed, too: with its own decoder, and with one narrowed to
the multiply-adds of the reference ("equal work"), and the latter also with all that makes PyTorch faster on a CPU.

Example: python -m benchmarks.training --sizes 192 --reference fast --json training.json
"""

import sys
from contextlib import nullcontext
from functools import partial

from rich.progress import track

from benchmarks.measuring import AS_BUSSEG, Worker, noise, spread, time_in_turns
from benchmarks.models import NETWORKS
from benchmarks.reporting import measure_and_report, parse_arguments
from benchmarks.torch_peer import FINEST, missing_peer, peers

TIMED = ("plain", "mobilenet_v2", "efficientnet_lite0", "efficientnetv2_b0", "densenet121", "as it comes", "fast")
QUICK = {
    "networks": ["plain"], "reference": "plain", "encoders": ["tu-tf_efficientnet_lite0"], "sizes": [96],
    "batch_size": 4, "steps": 2, "repeats": 3,
}  # fmt: skip


def measure(
    networks=TIMED,
    sizes=(128, 192, 256),
    reference="fast",
    encoders=tuple(FINEST),
    batch_size=16,
    steps=3,
    repeats=5,
    torch_python=sys.executable,
):
    """Time training steps.

    Args:
        networks: Names of `benchmarks.models.NETWORKS`.
        sizes: Sides of the image in pixels.
        reference: Name of the network that the others are timed in turns with.
        encoders: Those of the peer; see `benchmarks.torch_peer.FINEST`.
        batch_size: Images a step.
        steps: Steps a turn.
        repeats: Number of turns of each.
        torch_python: Interpreter that has segmentation_models_pytorch.

    Returns:
        List of rows.
    """
    missing = missing_peer(torch_python)
    if missing:
        print(f"segmentation_models_pytorch skipped: {missing}")
    rows = []
    for size in sizes:
        fixed = {"image_size": size, "batch_size": batch_size}
        with Worker("benchmarks.training:build_step", {**fixed, **NETWORKS[reference]}) as base:
            others = [(name, "benchmarks.training:build_step", NETWORKS[name], sys.executable) for name in networks]
            for name, network in {} if missing else peers(encoders, base.facts["forward, G"]).items():
                others.append((name, "benchmarks.torch_peer:build_step", network, torch_python))
            for name, maker, network, python in track(others, f"Training at {size} px"):
                settings = {**fixed, **network}
                same = nullcontext(base) if name == reference else None  # beside itself, it shows the noise
                with same or Worker(maker, settings, AS_BUSSEG, python) as other:
                    times = time_in_turns(partial(other.time, steps), partial(base.time, steps), repeats)
                speeds = [batch_size / seconds for seconds in times["first"]]
                row = {"network": name, "size": size, **other.facts, "images/s": spread(speeds)}
                rows.append({**row, f"{reference} is faster by": spread(times["gain"])})
    return rows


def build_step(image_size, batch_size, **network):
    """A worker's maker: a training step of a network with new weights, on one batch of noise."""
    import keras
    import numpy as np

    from benchmarks.models import build, count_multiply_adds, describe
    from busseg.data.sample import LABEL, MASK
    from busseg.training.network import compile_model
    from busseg.training.recipe import Recipe

    keras.utils.set_random_seed(0)
    model = build(image_size=image_size, **network)
    counts = count_multiply_adds(model)
    facts = {"engine": f"keras {keras.__version__}, {keras.backend.backend()}", **describe(model, counts)}
    compile_model(model, Recipe(image_size=image_size, batch_size=batch_size), steps_per_epoch=100)
    image, mask, label = noise(image_size, batch_size)
    image, mask = (keras.ops.convert_to_tensor(maps[..., None]) for maps in (image, mask))
    targets = {MASK: mask, LABEL: keras.ops.convert_to_tensor(np.eye(3, dtype=np.float32)[label])}

    def step():
        model.train_on_batch(image, targets)

    for _ in range(2):  # the first is compiled
        step()
    return facts, step


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--networks", {"nargs": "*", "choices": NETWORKS, "help": f"({', '.join(TIMED)})"}),
        ("--sizes", {"type": int, "nargs": "+", "help": "sides of the image in pixels (128 192 256)"}),
        ("--reference", {"choices": NETWORKS, "help": "timed in turns with each of the others (fast)"}),
        ("--encoders", {"nargs": "+", "choices": FINEST, "help": "of the peer (all)"}),
        ("--batch-size", {"type": int, "help": "images a step (16)"}),
        ("--steps", {"type": int, "help": "a turn (3)"}),
        ("--repeats", {"type": int, "help": "turns (5)"}),
        ("--torch-python", {"help": "interpreter that has segmentation_models_pytorch (this one)"}),
    )
    measure_and_report("training", measure, settings, path)


if __name__ == "__main__":
    main()
