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

from rich.progress import track

from busseg.data.claims import CROSSVAL, claim_folder
from busseg.data.files import blaming, read_json, write_text
from busseg.data.images import read_image, read_mask
from busseg.data.protocols import SCORED_SIZE, make_splits
from busseg.data.splits import leaked, write_splits
from busseg.evaluation.pooling import pool_folds
from busseg.evaluation.protocol import SUMMARY, evaluate
from busseg.evaluation.report import write_report
from busseg.evaluation.robustness import ROBUSTNESS, measure_robustness, read_robustness, write_robustness

SETTINGS = CROSSVAL.marker


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
    write_splits(out / "splits.csv", splits, force=True)
    by_name = {sample.name: sample for sample in samples}  # for the groups: "random" and "tang" part them
    scored = [[by_name[sample.name] for sample in split.test or split.validation] for split in splits]

    tasks = [
        (recipe, split, scored[fold], _run(out, fold), fold, SCORED_SIZE.get(protocol), robustness)
        for fold, split in enumerate(splits)
    ]
    waiting = [task for task in tasks if not _is_done(_run(out, task[4]) / "evaluation", robustness)]
    if waiting:
        _check_readable(samples)
    if jobs == 1:
        for task in waiting:
            print(f"\n=== fold {task[4]} of 0 to {len(splits) - 1} ===")
            _do_fold(*task)
    elif waiting:
        _do_folds_at_once(waiting, jobs, out)

    runs = [_run(out, fold) for fold in range(len(splits))]
    about = {"data": data, "protocol": protocol, "seed": seed, "size": SCORED_SIZE.get(protocol)}
    copies = [{sample.name for sample in leaked(split, samples)} for split in splits]
    with blaming(out, "the scores of its folds"):
        summary = pool_folds(out, runs, copies, about)
    if robustness:
        disturbed = [row for run in runs for row in read_robustness(run / "evaluation" / ROBUSTNESS)]
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


def _run(out, fold):
    return out / f"fold-{fold}"


def _is_done(evaluation, robustness):
    return (evaluation / SUMMARY).exists() and (not robustness or (evaluation / ROBUSTNESS).exists())


def _do_fold(recipe, split, scored, run, fold, size, robustness):
    import keras  # here, so that a job can silence what TensorFlow says when it starts

    from busseg.inference.predictor import Predictor
    from busseg.training.fit import fit

    fit(recipe, split, run, fold=fold, resume=True)
    predictor = Predictor(run)
    out = run / "evaluation"
    evaluate(predictor, {"test": scored}, out, _bar("Evaluating"), size=size, fold=fold, model=run.name)
    if robustness:
        write_robustness(out / ROBUSTNESS, measure_robustness(predictor, scored, _bar("Disturbing")))
    keras.backend.clear_session()  # or the next fold's network stands in memory beside this one's


def _bar(title):
    return lambda things: track(things, title)


def _do_folds_at_once(tasks, jobs, out):
    threads = max(1, (os.cpu_count() or 1) // jobs)
    executor = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _begin_job, (threads,), max_tasks_per_child=1
    )
    try:
        futures = {executor.submit(_do_logged_fold, out / f"fold-{task[4]}.log", task): task[4] for task in tasks}
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


def _do_logged_fold(log, task):
    _redirect_output(log)
    _do_fold(*task)


def _redirect_output(path):
    with Path(path).open("a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
