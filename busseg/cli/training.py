"""The verbs that train."""

from pathlib import Path
from typing import Annotated

import typer

from busseg.cli.program import Data, Fold, Groups, Robustness, Splits, app, read_samples, starting_keras
from busseg.cli.terminal import say


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("busseg-demo"),
):
    """See it work in a minute: draw phantoms, train on them, evaluate, predict, export.

    Example: busseg demo --out busseg-demo
    """
    from busseg.data.claims import DEMO, check_folder

    check_folder(out, DEMO)
    with starting_keras():
        from busseg.demo import run_demo
    run_demo(out)


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    recipe: Annotated[
        str | None, typer.Option(help="Name of a recipe, or path of a TOML file; card if not told.")
    ] = None,
    splits: Splits = None,
    fold: Fold = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Train with all images, for a model to be used; its recipe has validation = false."),
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder, if there is one.")] = False,
    data_parallel: Annotated[
        bool, typer.Option("--data-parallel", help="Share every batch among all devices (JAX, TensorFlow).")
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(help="HOST:PORT where process 0 of several that train together listens (JAX)."),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=2, help="Number of the processes that train together.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Number of this process; 0 writes the run.")] = None,
):
    """Train a network on a dataset: a U-Net for ultrasound, or by the recipe histology a classifier of tissue.

    Example: busseg train data/busi --out runs/card
    """
    from busseg.data import find_samples
    from busseg.data.claims import RUN, check_folder
    from busseg.data.protocols import default_protocol, make_splits
    from busseg.data.splits import read_split, train_on_all

    if everything and (splits or fold is not None):
        raise ValueError("Expected --all or a fold of a split, found both")
    check_folder(out, RUN)
    if resume and (out / "recipe.toml").exists():
        recipe = recipe or out / "recipe.toml"
        splits = splits or out / "splits.csv"
    recipe = _load_recipe(recipe or "card", data)
    samples = find_samples(data, recipe.task)
    if everything:
        chosen = train_on_all(samples)
    elif splits:
        chosen = read_split(splits, samples, fold)
    else:
        folds = make_splits(default_protocol(recipe.task), samples)
        if fold is not None and fold >= len(folds):
            raise ValueError(f"Expected a fold of 0 to {len(folds) - 1}, found {fold}")
        chosen = folds[fold or 0]
    with starting_keras():
        from busseg.training import fit as fitting
        from busseg.training.parallel import all_devices, one_device
    together = (coordinator, processes, process)
    if data_parallel or together != (None, None, None):
        devices = all_devices(recipe.batch_size, *together)
        say(f"Every batch is shared among {', '.join(devices.names)}")
    else:
        devices = one_device()
    fitting.fit(recipe, chosen, out, fold=fold or 0, resume=resume, devices=devices)
    if devices.keeps:
        say(f"The model is in {out / fitting.MODEL}")


def _load_recipe(name, data):
    """A recipe, for a dataset: a folder that is none is refused before Keras is started, which takes seconds."""
    from busseg.data import find_reader

    find_reader(data)
    with starting_keras():
        from busseg.training.recipe import load_recipe
    return load_recipe(name)


@app.command()
def crossval(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the runs, the scores and the report.")],
    protocol: Annotated[str | None, typer.Option(help="grouped (tissue: patient), random, tang or curated.")] = None,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or path of a TOML file.")] = "card",
    folds: Annotated[int, typer.Option(min=2, help="Number of folds; the published protocols have theirs.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same folds.")] = 0,
    groups: Groups = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of folds to train at once.")] = 1,
    robustness: Robustness = False,
):
    """Train a model a fold, score each on what it has not seen, and report all of them together.

    Called again after a kill, it goes on where it stopped.

    Example: busseg crossval data/busi --protocol grouped --recipe light --out runs/light-grouped
    """
    from busseg.data.claims import CROSSVAL, check_folder
    from busseg.data.protocols import default_protocol

    check_folder(out, CROSSVAL)
    recipe = _load_recipe(recipe, data)
    with starting_keras():
        from busseg.crossval import cross_validate
        from busseg.evaluation.pooling import format_crossval
    samples = read_samples(data, groups, recipe.task)
    protocol = protocol or default_protocol(recipe.task)
    summary = cross_validate(samples, out, recipe, protocol, folds, seed, jobs, robustness, data=data.resolve().name)
    say(format_crossval(summary))
    say(f"\nWrote {out / 'report.html'}")
