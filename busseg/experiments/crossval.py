"""Cross-validation: one model for each fold, scored on the images it has not seen, and all scores pooled."""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from busseg.data.protocols import SCORED_SIZE, repeat_splits
from busseg.data.sample import Sample
from busseg.data.splits import Split, write_splits
from busseg.evaluation.pooling import pool_folds
from busseg.evaluation.report import write_report
from busseg.evaluation.robustness import read_robustness, write_robustness
from busseg.experiments.score import score_parts
from busseg.imaging.images import read_image, read_mask
from busseg.imaging.threads import count_cores
from busseg.storage.claims import claim_folder
from busseg.storage.files import blaming, read_json, write_text
from busseg.storage.progress import note, track
from busseg.storage.run_folder import CROSSVAL, ROBUSTNESS, SETTINGS, SPLITS, SUMMARY, evaluation_folder, fold_folder
from busseg.training.recipe import Recipe


class _Fold(NamedTuple):
    """A model to train and score: the number of its fold, the folder of its run, and inputs of `fit` and `evaluate`."""

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
        import keras  # here, so that a job can silence TensorFlow's start-up notes

        from busseg.inference.predictor import Predictor
        from busseg.training.fit import fit

        fit(self.recipe, self.split, self.run, fold=self.number, resume=True, title=f"fold {self.number}")
        score_parts(
            Predictor(self.run), {"test": self.scored}, evaluation_folder(self.run), robustness=self.robustness,
            size=self.size, fold=self.number, model=self.run.name,
        )  # fmt: skip
        keras.backend.clear_session()  # frees this fold's network before the next one is built


def cross_validate(
    samples: Sequence[Sample],
    out: str | Path,
    recipe: Recipe,
    protocol: str = "grouped",
    folds: int = 5,
    seed: int = 0,
    jobs: int = 1,
    robustness: bool = False,
    data: str = "",
    repeats: int = 1,
) -> dict:
    """Train one model for each fold, and score it on the images it has not seen.

    The folder `out` then holds the folder of a run for each fold, `fold-0/`, `fold-1/`, ..., each with its
    `evaluation/`; `splits.csv`; and over all folds `per_image.csv`, the out-of-fold predictions, `summary.json` and
    `report.html`. Called again, it resumes where it was stopped.

    Args:
        samples: Sequence of `Sample`, the whole dataset.
        out: Path of the output folder.
        recipe: A `Recipe`.
        protocol: One of `PROTOCOLS`; see `make_splits`.
        folds: Number of folds, where the protocol does not set it.
        seed: Integer, for the folds. The recipe's own seed is for the training.
        jobs: Number of folds that are trained at once, each in a process of its own that writes `fold-K.log`.
        robustness: Whether to score under perturbations, too; see `measure_robustness`.
        data: Name of the dataset in the report.
        repeats: Number of cross-validations, with the seeds `seed`, `seed + 1`, ...; see `repeat_splits`. Their folds
            are numbered on: with five folds, `fold-5/` is the first of the second.

    Returns:
        Dict of what `summary.json` holds, see `evaluate`, and also `protocol`, `seed`, `repeats`, `size`; `folds`, the
        scores of each fold, with the number of its images that are `known` to its model, see `count_known`, and for the
        protocol "leave-one-source-out" its `source`; `mean_sd`, over the folds; of several repeats `of_repeats`, the
        seed and the scores of each; and `leak`, the number and share of scored images that have a copy in training, or
        another image of their patient; in histology also `same_slide`, the number of those with one of their slide.

    Raises:
        FileExistsError: If `out` holds other files than a cross-validation.
        ValueError: If it holds one with other settings, the samples cannot be split by the protocol, or an image cannot
            be read.
        BlockingIOError: If another process writes there.
        ChildProcessError: If the process of a fold was killed. The other folds are kept.
    """
    splits = repeat_splits(protocol, samples, folds, seed, repeats)
    size = SCORED_SIZE.get(protocol)
    about = {"data": data, "protocol": protocol, "seed": seed, "repeats": repeats, "size": size}
    with claim_folder(out, CROSSVAL) as out:
        settings = {name: about[name] for name in ("protocol", "seed", "repeats")}
        settings |= {"folds": len(splits), "recipe": dataclasses.asdict(recipe)}
        _settle(out, recipe, settings)
        write_splits(out / SPLITS, splits, force=True)
        by_name = {sample.name: sample for sample in samples}  # with their groups, which "random" and "tang" ignore
        scored = [[by_name[sample.name] for sample in split.test or split.validation] for split in splits]
        tasks = [
            _Fold(number, fold_folder(out, number), split, scored[number], recipe, size, robustness)
            for number, split in enumerate(splits)
        ]
        _do_folds(tasks, samples, jobs, out)
        return _report(out, samples, splits, about, robustness=robustness)


def _do_folds(tasks, samples, jobs, out):
    waiting = [task for task in tasks if not task.is_done]
    if waiting:
        _check_readable(samples)
    if jobs == 1:
        for task in waiting:
            task.do()
    elif waiting:
        _do_folds_at_once(waiting, jobs, out)


def _report(out, samples, splits, about, *, robustness):
    """Pool the folds' scores, write the report, and return the summary."""
    runs = [fold_folder(out, fold) for fold in range(len(splits))]
    with blaming(out, "the scores of its folds"):
        summary = pool_folds(out, splits, samples, about)
    if robustness:
        rows = [row for run in runs for row in read_robustness(evaluation_folder(run) / ROBUSTNESS)]
        write_robustness(out / ROBUSTNESS, rows)
    write_report(out, samples, runs)
    return summary


def _settle(out, recipe, settings):
    """Write the settings of a cross-validation, or check that it resumes with the same."""
    path = out / SETTINGS
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")
    before = {"repeats": 1} | read_json(path)  # an older file lacks them
    if isinstance(before.get("recipe"), dict):  # an older file lacks newer settings; it used their defaults
        before["recipe"] = dataclasses.asdict(type(recipe)()) | before["recipe"]
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(f"Expected the {name} of the cross-validation to resume, found another: {path}")


def _check_readable(samples):
    """Read every image once, so that a broken one is reported now and not after hours of training."""
    for sample in track(samples, "Checking images"):
        read_mask(sample.masks, read_image(sample.image).shape)


def _do_folds_at_once(tasks, jobs, out):
    threads = max(1, count_cores() // jobs)
    executor = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _begin_job, (threads,), max_tasks_per_child=1
    )
    try:
        futures = {executor.submit(_do_logged, task): task.number for task in tasks}
        for future in track(as_completed(futures), "Folds", total=len(futures)):
            future.result()
            note(f"fold {futures[future]} is done")
    except BrokenProcessPool as error:
        logs = ", ".join(path.name for path in sorted(out.glob("fold-*.log")))
        raise ChildProcessError(
            f"Expected each fold to end, found one killed, maybe for lack of memory; see {logs}: {out}"
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
        os._exit(1)  # so that the fold does not continue beside the one that a rerun starts

    threading.Thread(target=follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _do_logged(task):
    _redirect_output(task.run.with_suffix(".log"))
    task.do()


def _redirect_output(path):
    with Path(path).open("a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
