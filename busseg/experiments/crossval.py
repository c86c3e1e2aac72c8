"""Cross-validation: a model a fold, each scored on what it has not seen, and all those scores together."""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from busseg.data.protocols import SCORED_SIZE, make_splits
from busseg.data.splits import Split, leaked, write_splits
from busseg.evaluation.pooling import pool_folds
from busseg.evaluation.report import write_report
from busseg.evaluation.robustness import read_robustness, write_robustness
from busseg.experiments.score import score_parts
from busseg.imaging.images import read_image, read_mask
from busseg.storage.claims import claim_folder
from busseg.storage.files import blaming, read_json, write_text
from busseg.storage.run_folder import CROSSVAL, ROBUSTNESS, SETTINGS, SPLITS, SUMMARY, evaluation_folder, fold_folder
from busseg.training.recipe import Recipe


class _Fold(NamedTuple):
    """A model to train and score: the number of its fold, the folder of its run, and what `fit` and `evaluate` take."""

    number: int
    run: Path
    split: Split
    scored: list
    recipe: Recipe
    size: int | None
    robustness: bool

    @property
    def is_done(self):
        evaluation = evaluation_folder(self.run)
        return (evaluation / SUMMARY).exists() and (not self.robustness or (evaluation / ROBUSTNESS).exists())

    def do(self):
        import keras  # here, so that a job can silence what TensorFlow says when it starts

        from busseg.inference.predictor import Predictor
        from busseg.training.fit import fit

        fit(self.recipe, self.split, self.run, fold=self.number, resume=True)
        score_parts(
            Predictor(self.run), {"test": self.scored}, evaluation_folder(self.run), robustness=self.robustness,
            size=self.size, fold=self.number, model=self.run.name,
        )  # fmt: skip
        keras.backend.clear_session()  # or the next fold's network stands in memory beside this one's


def cross_validate(samples, out, recipe, protocol="grouped", folds=5, seed=0, jobs=1, robustness=False, data=""):
    """Train a model a fold and score each on the images it has not seen.

    The folder `out` then holds a run's folder a fold, `fold-0/` and on, each with its `evaluation/`; `splits.csv`;
    and over all folds `per_image.csv`, the out-of-fold predictions, `summary.json` and `report.html`. Called again, it
    goes on where it was stopped.

    Args:
        samples: Sequence of `Sample`, the whole dataset.
        out: Path of the output folder.
        recipe: A `Recipe`.
        protocol: One of `PROTOCOLS`; see `make_splits`.
        folds: Number of folds, where the protocol does not set it.
        seed: Integer, for the folds. The recipe's own seed is for the training.
        jobs: Number of folds that are trained at once, each by a process of its own that writes `fold-K.log`.
        robustness: Whether to score under disturbances, too; see `measure_robustness`.
        data: What to call the dataset in the report.

    Returns:
        What `summary.json` holds: see `evaluate`, and beside it `protocol`, `seed`, `size`; `folds`, the scores of
        each, with the number of its images that are `known` to its model, see `count_known`, and by
        "leave-one-source-out" its `source`; `mean_sd`, over the folds; and `leak`, how many of the scored images have a
        copy in training.

    Raises:
        FileExistsError: If `out` holds other files than a cross-validation.
        ValueError: If it holds one with other settings, the samples cannot be split by the protocol, or an image cannot
            be read.
        BlockingIOError: If another process writes there.
        ChildProcessError: If the process of a fold was killed. The others' folds are kept.
    """
    splits = make_splits(protocol, samples, folds, seed)
    with claim_folder(out, CROSSVAL) as out:
        return _cross_validate(samples, out, recipe, splits, protocol, seed, jobs, robustness, data)


def _cross_validate(samples, out, recipe, splits, protocol, seed, jobs, robustness, data):
    settings = {"protocol": protocol, "folds": len(splits), "seed": seed, "recipe": dataclasses.asdict(recipe)}
    _settle(out, recipe, settings)
    write_splits(out / SPLITS, splits, force=True)
    by_name = {sample.name: sample for sample in samples}  # for the groups: "random" and "tang" part them
    scored = [[by_name[sample.name] for sample in split.test or split.validation] for split in splits]

    size = SCORED_SIZE.get(protocol)
    tasks = [
        _Fold(number, fold_folder(out, number), split, scored[number], recipe, size, robustness)
        for number, split in enumerate(splits)
    ]
    waiting = [task for task in tasks if not task.is_done]
    if waiting:
        _check_readable(samples)
    if jobs == 1:
        for task in waiting:
            print(f"\n=== fold {task.number} of 0 to {len(splits) - 1} ===")
            task.do()
    elif waiting:
        _do_folds_at_once(waiting, jobs, out)

    runs = [fold_folder(out, fold) for fold in range(len(splits))]
    about = {"data": data, "protocol": protocol, "seed": seed, "size": size}
    copies = [{sample.name for sample in leaked(split, samples)} for split in splits]
    with blaming(out, "the scores of its folds"):
        summary = pool_folds(out, runs, copies, about)
    if robustness:
        disturbed = [row for run in runs for row in read_robustness(evaluation_folder(run) / ROBUSTNESS)]
        write_robustness(out / ROBUSTNESS, disturbed)
    write_report(out, samples, runs)
    return summary


def _settle(out, recipe, settings):
    """Write down what a cross-validation is made of, or check that it goes on with the same."""
    path = out / SETTINGS
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")
    before = read_json(path)
    if isinstance(
        before.get("recipe"), dict
    ):  # a choice that busseg did not know when it was written was made as it is by default
        before["recipe"] = dataclasses.asdict(type(recipe)()) | before["recipe"]
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(f"Expected the {name} of the cross-validation to go on with, found another: {path}")


def _check_readable(samples):
    """Read every image once: a broken one shows now, by name, rather than after the folds that only test it."""
    for sample in track(samples, "Checking images"):
        read_mask(sample.masks, read_image(sample.image).shape)


def _do_folds_at_once(tasks, jobs, out):
    threads = max(1, (os.cpu_count() or 1) // jobs)
    executor = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _begin_job, (threads,), max_tasks_per_child=1
    )
    try:
        futures = {executor.submit(_do_logged, task): task.number for task in tasks}
        for future in track(as_completed(futures), "Folds", total=len(futures)):
            future.result()
            print(f"fold {futures[future]} is done")
    except BrokenProcessPool as error:
        logs = ", ".join(path.name for path in sorted(out.glob("fold-*.log")))
        raise ChildProcessError(
            f"Expected each fold to end, found one killed, of memory maybe; see {logs}: {out}"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _begin_job(threads):
    _redirect_output(os.devnull)  # until the fold is known
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the job, not only its fold
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))

    def follow(parent):
        parent.join()
        os._exit(1)  # or a fold would train on, beside the one that a rerun begins

    threading.Thread(target=follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _do_logged(task):
    _redirect_output(task.run.with_suffix(".log"))
    task.do()


def _redirect_output(path):
    with Path(path).open("a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
