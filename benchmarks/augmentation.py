"""Images a second that the device augments (`DeviceBatches`) and that the processor does (`Batches`), in turns.

On a machine with a GPU, `KERAS_BACKEND=jax` augments there; without one, both are the processor's. Images are kept in
memory; each turn waits until the last batch is done. Without DATA, phantoms are drawn.

Example: python -m benchmarks.augmentation data/busi --batch-size 64 --workers 16
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measuring import spread
from benchmarks.pipeline import dataset
from benchmarks.reporting import measure_and_report, parse_arguments

QUICK = {
    "size": 64,
    "batch_size": 8,
    "augmentations": ["card"],
    "workers": 2,
    "phantoms": 4,
    "batches": 2,
    "repeats": 2,
}


def measure(
    data=None,
    size=192,
    batch_size=64,
    augmentations=("card", "strong", "scanner"),
    workers=2,
    phantoms=80,
    batches=100,
    repeats=5,
):
    """Time the augmentation of cached images.

    Args:
        data: Dataset folder; None draws phantoms.
        size: Side of the image in pixels, a multiple of 8.
        batch_size: Images a batch.
        augmentations: Names of `busseg.training.device_augmentation.DEVICE_AUGMENTATIONS`.
        workers: Number of threads of the processor.
        phantoms: Number drawn a class.
        batches: Number a turn.
        repeats: Number of turns of each.

    Returns:
        List of rows.
    """
    import keras

    from busseg.data import find_samples
    from busseg.training.batches import Batches
    from busseg.training.device_batches import DeviceBatches

    rows = []
    with dataset(data, phantoms) as folder, ThreadPoolExecutor(workers) as threads:
        samples = find_samples(folder)
        for augmentation in augmentations:
            device, processor = (
                kind(samples, size, batch_size, augmentation, shuffle=True) for kind in (DeviceBatches, Batches)
            )
            speeds = {"device": [], "processor": []}
            for turn in range(repeats + 1):  # the first compiles, and fills the caches
                chosen = [number % len(device) for number in range(batches)]
                start = time.perf_counter()
                last = [device[number][0] for number in chosen][-1]
                keras.ops.convert_to_numpy(last)
                middle = time.perf_counter()
                list(threads.map(processor.__getitem__, chosen))
                end = time.perf_counter()
                if turn:
                    speeds["device"].append(batches * batch_size / (middle - start))
                    speeds["processor"].append(batches * batch_size / (end - middle))
            ratios = [one / other for one, other in zip(*speeds.values())]
            rows.append({
                "augmentation": augmentation, "device": str(keras.distribution.list_devices()[0]),
                "device, images/s": spread(speeds["device"]), "processor, images/s": spread(speeds["processor"]),
                "times as fast": spread(ratios),
            })  # fmt: skip
    return rows


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("data", {"type": Path, "nargs": "?", "help": "dataset folder, such as data/busi; phantoms without"}),
        ("--size", {"type": int, "help": "side of the image in pixels (192)"}),
        ("--batch-size", {"type": int, "help": "images a batch (64)"}),
        ("--augmentations", {"nargs": "+", "help": "(card strong scanner)"}),
        ("--workers", {"type": int, "help": "threads of the processor (2)"}),
        ("--phantoms", {"type": int, "help": "drawn a class (80)"}),
        ("--batches", {"type": int, "help": "a turn (100)"}),
        ("--repeats", {"type": int, "help": "turns (5)"}),
    )
    measure_and_report("augmentation", measure, settings, path)


if __name__ == "__main__":
    main()
