"""A whole epoch of training as busseg runs it, against the loop that example notebooks write.

Network and images are the same. busseg keeps the resized images in memory and prepares batches in threads; the
notebook's loop reads, resizes and changes each image anew and calls `fit`. The first epoch also compiles the network,
and fills busseg's cache. Without DATA, phantoms are drawn.

Example: python -m benchmarks.epoch data/busi --networks "as it comes" fast --json epoch.json
"""

from contextlib import ExitStack
from pathlib import Path

from rich.progress import track

from benchmarks.measuring import Worker, spread, time_in_turns
from benchmarks.models import NETWORKS
from benchmarks.pipeline import dataset
from benchmarks.reporting import measure_and_report, parse_arguments

QUICK = {"networks": ["plain"], "size": 96, "batch_size": 4, "phantoms": 4, "repeats": 3}


def measure(
    data=None, networks=("as it comes", "fast"), size=192, batch_size=16, augmentation="card", phantoms=80, repeats=5
):
    """Time epochs.

    Args:
        data: Dataset folder; None draws phantoms.
        networks: Names of `benchmarks.models.NETWORKS`.
        size: Side of the image in pixels.
        batch_size: Images a step.
        augmentation: Of both loops; see `busseg.data.augmentation`.
        phantoms: Number drawn a class.
        repeats: Number of epochs of each, after the first.

    Returns:
        List of rows.
    """
    rows = []
    with dataset(data, phantoms) as folder:
        for network in track(networks, "Training epochs"):
            fixed = {"data": str(folder), "size": size, "batch_size": batch_size, "augmentation": augmentation}
            fixed["network"] = NETWORKS[network]
            with ExitStack() as stack:
                notebook, ours = (
                    stack.enter_context(Worker("benchmarks.epoch:build_epoch", {**fixed, **loop}))
                    for loop in ({"loop": "notebook"}, {"loop": "Batches", "workers": 2})
                )
                first = notebook.time(), ours.time()
                times = time_in_turns(notebook.time, ours.time, repeats)
            images = ours.facts["images"]
            for loop, cold, seconds in zip(("notebook", "busseg"), first, (times["first"], times["second"])):
                row = {"network": network, "loop": loop, "images": images, "first epoch, s": cold}
                row["later epochs, s"] = spread(seconds)
                row["images/s"] = spread([images / one for one in seconds])
                row["busseg is faster by"] = spread(times["gain"]) if loop == "notebook" else None
                rows.append(row)
    return rows


def build_epoch(network, **settings):
    """A worker's maker: an epoch of training, beginning with new weights."""
    import keras

    from benchmarks.models import build
    from benchmarks.pipeline import build_batches
    from busseg.training.network import compile_model, create_state
    from busseg.training.recipe import Recipe

    keras.utils.set_random_seed(0)
    samples, batches = build_batches(**settings)
    model = build(image_size=settings["size"], **network)
    compile_model(model, Recipe(batch_size=settings["batch_size"]), steps_per_epoch=len(batches))
    if settings["loop"] == "Batches":  # as `fit` does
        create_state(model)
    return {"images": len(samples)}, lambda: model.fit(batches, shuffle=False, verbose=0)


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("data", {"type": Path, "nargs": "?", "help": "dataset folder, such as data/busi; phantoms without"}),
        ("--networks", {"nargs": "+", "choices": NETWORKS, "help": "(as it comes, fast)"}),
        ("--size", {"type": int, "help": "side of the image in pixels (192)"}),
        ("--batch-size", {"type": int, "help": "images a step (16)"}),
        ("--augmentation", {"help": "none, card or strong (card)"}),
        ("--phantoms", {"type": int, "help": "drawn a class (80)"}),
        ("--repeats", {"type": int, "help": "epochs of each, after the first (5)"}),
    )
    measure_and_report("epoch", measure, settings, path)


if __name__ == "__main__":
    main()
