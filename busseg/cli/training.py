"""The verbs for training: demo, train, crossval, release."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from busseg.cli.program import (
    Data,
    Epochs,
    Fold,
    Groups,
    Robustness,
    Splits,
    app,
    check_datasets,
    out_option,
    read_samples,
    starting_keras,
)
from busseg.cli.terminal import say
from busseg.storage.progress import note


@app.command()
def demo(
    out: Annotated[Path, out_option("Folder for everything the demo makes.")] = Path("busseg-demo"),
) -> None:
    """Try busseg in two minutes: predict with the model it comes with, then train on phantoms, score, predict, export.

    Example: busseg demo --out busseg-demo
    """
    from busseg.storage.claims import check_folder
    from busseg.storage.run_folder import DEMO

    check_folder(out, DEMO)
    with starting_keras():
        from busseg.experiments.demo import run_demo
    run_demo(out)


@app.command()
def train(
    data: Data,
    out: Annotated[Path, out_option("Folder for the run.")],
    recipe: Annotated[
        str | None, typer.Option(help="Name of a recipe, or path of a TOML file; card by default.")
    ] = None,
    epochs: Epochs = None,
    splits: Splits = None,
    fold: Fold = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Train with all images, for a model to deploy; its recipe has validation = false."),
    ] = False,
    resume: Annotated[bool, typer.Option(help="Resume the run in the folder, if there is one.")] = False,
    data_parallel: Annotated[
        bool, typer.Option("--data-parallel", help="Share every batch among all devices (JAX, TensorFlow).")
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of process 0, if several processes train together (JAX)."),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=2, help="Number of the processes that train together.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Number of this process; 0 writes the run.")] = None,
) -> None:
    """Train a network on datasets: a U-Net for ultrasound; with the recipe histology, a classifier of histology.

    Prints one line an epoch, and at the end the scores of the validation part. A stopped run continues with --resume.

    Example: busseg train data/busi --out runs/card

    Example: busseg train data/busi --recipe light --epochs 10 -o runs/light
    """
    from busseg.storage.claims import check_folder
    from busseg.storage.run_folder import MODEL, RUN

    check_folder(out, RUN)
    check_datasets(data)
    with starting_keras():
        from busseg.experiments.train import train_model
        from busseg.training.parallel import all_devices

    def share_batches(batch_size):
        devices = all_devices(batch_size, coordinator, processes, process)
        note(f"Every batch is shared among {', '.join(devices.names)}")
        return devices

    shared = data_parallel or (coordinator, processes, process) != (None, None, None)
    history = train_model(
        data, out, recipe=recipe, epochs=epochs, splits=splits, fold=fold, everything=everything, resume=resume,
        find_devices=share_batches if shared else None,
    )  # fmt: skip
    if not process:
        say(f"The model is in {out / MODEL}")
        _report_run(data, out, history)


def _report_run(data: Sequence[Path], out: Path, history: Sequence[Mapping]) -> None:
    """Print the scores of a run's validation part, and the command to type next."""
    from busseg.storage.files import read_json
    from busseg.storage.run_folder import ENVIRONMENT, evaluation_folder
    from busseg.training.epoch_lines import format_validation

    images = read_json(out / ENVIRONMENT)["images"]
    say(format_validation(history, images["validation"]))
    if images["test"]:
        command = ["busseg", "evaluate", out, *data, "--out", evaluation_folder(out)]
        say(f"Next, score it on {images['test']} images it has not seen:")
    else:
        command = ["busseg", "predict", "scan.png", "--model", out]
        say("Next, predict scans of your own:")
    say(f"  {shlex.join(map(str, command))}")


@app.command()
def crossval(
    data: Data,
    out: Annotated[Path, out_option("Folder for the runs, the scores and the report.")],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="grouped, leave-one-source-out, random, tang, curated, busbra5 or busbra10; for histology, patient "
            "or random; given, the split of the dataset's own files."
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or path of a TOML file.")] = "card",
    epochs: Epochs = None,
    folds: Annotated[
        int, typer.Option(min=2, help="Number of folds of grouped, random and patient; other protocols fix theirs.")
    ] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same folds.")] = 0,
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of cross-validations, with the seeds SEED, SEED + 1, ...")
    ] = 1,
    groups: Groups = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of folds to train at once.")] = 1,
    robustness: Robustness = False,
) -> None:
    """Cross-validate: train one model for each fold, score it on the images it has not seen, and report all together.

    Called again after a kill, it resumes where it stopped. With several folders and the protocol leave-one-source-out,
    each folder is scored by a model that was not trained on it.

    Example: busseg crossval data/busi --protocol grouped --recipe light --out runs/light-grouped
    """
    from busseg.data.task import Task
    from busseg.storage.claims import check_folder
    from busseg.storage.run_folder import CROSSVAL, REPORT

    name = check_datasets(data)
    check_folder(out, CROSSVAL)
    with starting_keras():
        from busseg.evaluation.pooling import format_crossval
        from busseg.experiments.crossval import cross_validate
        from busseg.training.recipe import load_recipe
    chosen = load_recipe(recipe, epochs)
    samples = read_samples(data, groups, chosen.task)
    protocol = protocol or Task(chosen.task).protocol
    summary = cross_validate(samples, out, chosen, protocol, folds, seed, jobs, robustness, name, repeats)
    say(format_crossval(summary))
    say(f"\nWrote {out / REPORT}")


@app.command()
def release(
    data: Data,
    crossval: Annotated[list[Path], typer.Option(help="Folder of `busseg crossval`; repeat it to average networks.")],
    out: Annotated[Path, out_option("Folder to write.")],
    run: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of `busseg train --all`, one for each; without, the networks are only scored."),
    ] = None,
    float16: Annotated[
        bool, typer.Option("--float16", help="Round weights to half precision; the ONNX file has half the size.")
    ] = False,
) -> None:
    """Average networks, calibrate their mean out of fold, and export it with its OOD score.

    Example: busseg release data/busi --crossval runs/best --run runs/best-all --out runs/released
    """
    with starting_keras():
        from busseg.evaluation.pooling import format_crossval
        from busseg.experiments.release import release_model, score_together
    samples = read_samples(data, None)
    if run:
        say(json.dumps(release_model(samples, crossval, run, out, float16=float16), indent=2))
    else:
        say(format_crossval(score_together(samples, crossval, out)))
    say(f"\nWrote {out}")
