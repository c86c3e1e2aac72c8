"""Images a second that `busseg.training.batches.Batches` prepares, compared with the loop of example notebooks.

Keras itself asks for the batches, through a network that does nothing with them. Each row is timed in turns with the
training step of a network, which should never wait for its images: at least five times as many are wanted, which is
"x training". Without DATA, phantoms are drawn.

Example: python -m benchmarks.pipeline data/busi --size 192 --json pipeline.json
"""

import tempfile
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

from rich.progress import track

from benchmarks.measuring import Worker, spread, time_in_turns
from benchmarks.models import NETWORKS
from benchmarks.reporting import measure_and_report, parse_arguments

EPOCHS = 5  # a turn, in one call of `fit`, so that its own start does not dominate
QUICK = {
    "network": "plain", "size": 96, "batch_size": 4,
    "augmentations": ["card"], "workers": [2], "caches": [True], "phantoms": 10,
    "steps": 4, "repeats": 3,
}  # fmt: skip


def measure(
    data=None,
    network="fast",
    size=192,
    batch_size=16,
    augmentations=("none", "card", "strong"),
    workers=(1, 2),
    caches=(True, False),
    phantoms=80,
    steps=3,
    repeats=5,
):
    """Time the preparation of batches.

    Args:
        data: Dataset folder; None draws phantoms.
        network: Name of `benchmarks.models.NETWORKS`, the one to keep fed.
        size: Side of the image in pixels.
        batch_size: Images a batch.
        augmentations: Names of `busseg.data.augmentation.AUGMENTATIONS`.
        workers: Numbers of threads.
        caches: Whether images are kept in memory, decoded and resized.
        phantoms: Number drawn a class.
        steps: Training steps a turn.
        repeats: Number of turns of each.

    Returns:
        List of rows.
    """
    loops = [
        {"loop": "Batches", "workers": count, "cache": cache, "augmentation": augmentation}
        for augmentation, cache, count in product(augmentations, caches, workers)
    ]
    loops += [{"loop": "notebook", "augmentation": augmentation} for augmentation in augmentations]
    rows = []
    trained = {"image_size": size, "batch_size": batch_size, **NETWORKS[network]}
    with dataset(data, phantoms) as folder, Worker("benchmarks.training:build_step", trained) as step:
        for loop in track(loops, "Preparing batches"):
            fixed = {"data": str(folder), "size": size, "batch_size": batch_size}
            with Worker("benchmarks.pipeline:build_idle_epochs", {**fixed, **loop}) as epochs:
                times = time_in_turns(partial(step.time, steps), epochs.time, repeats)
            images = epochs.facts["images"]
            speeds = [images / seconds for seconds in times["second"]]
            ratios = [images / batch_size * gain for gain in times["gain"]]
            row = {**loop, "images/s": spread(speeds), "in the first epoch": epochs.facts["first epoch"]}
            rows.append({**row, "x training": spread(ratios)})
    return rows


@contextmanager
def dataset(data, phantoms):
    """The folder of a dataset; for None, a temporary one with phantoms."""
    if data:
        yield data
        return
    from busseg.data.phantom import write_phantoms

    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder), phantoms, progress=lambda images: track(images, "Drawing phantoms"))
        yield folder


def build_batches(data, size, batch_size, loop, augmentation, workers=1, cache=True):
    """The batches of one loop, in an order of their own each epoch.

    Args:
        data: Dataset folder.
        size, batch_size, augmentation, workers, cache: See `busseg.training.batches.Batches`.
        loop: "Batches" or "notebook".
    """
    from benchmarks.notebook_loop import NotebookBatches
    from busseg.data import find_samples
    from busseg.training.batches import Batches

    samples = find_samples(data)
    if loop == "notebook":
        return samples, NotebookBatches(samples, size, batch_size, augmentation)
    return samples, Batches(samples, size, batch_size, augmentation, shuffle=True, cache=cache, workers=workers)


def build_idle_epochs(**settings):
    """A worker's maker: `EPOCHS` of `build_batches` for a network that does nothing, after a first one."""
    import time

    import keras

    class Idle(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    model = Idle()
    model.compile()
    samples, batches = build_batches(**settings)

    start = time.perf_counter()
    model.fit(batches, shuffle=False, verbose=0)
    first = len(samples) / (time.perf_counter() - start)
    facts = {"images": EPOCHS * len(samples), "first epoch": first}
    return facts, lambda: model.fit(batches, epochs=EPOCHS, shuffle=False, verbose=0)


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("data", {"type": Path, "nargs": "?", "help": "dataset folder, such as data/busi; phantoms without"}),
        ("--network", {"choices": NETWORKS, "help": "the one to keep fed (fast)"}),
        ("--size", {"type": int, "help": "side of the image in pixels (192)"}),
        ("--batch-size", {"type": int, "help": "images a batch (16)"}),
        ("--augmentations", {"nargs": "+", "help": "(none card strong)"}),
        ("--workers", {"type": int, "nargs": "+", "help": "numbers of threads (1 2)"}),
        ("--phantoms", {"type": int, "help": "drawn a class (80)"}),
        ("--steps", {"type": int, "help": "training steps a turn (3)"}),
        ("--repeats", {"type": int, "help": "turns (5)"}),
    )
    measure_and_report("pipeline", measure, settings, path)


if __name__ == "__main__":
    main()
