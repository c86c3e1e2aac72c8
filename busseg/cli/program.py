"""The program itself: what all verbs share, and how it ends."""

import os
import re
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from busseg.cli.terminal import complain, forgive_output

# The words of TensorFlow, JAX, PyTorch, ONNX Runtime and C++ for too little memory.
_NO_MEMORY = r"ResourceExhausted|RESOURCE_EXHAUSTED|OutOfMemory|[Oo]ut of memory|can't allocate memory|bad_?alloc"

app = typer.Typer(
    help="Breast ultrasound: which class (normal, benign, malignant), and where the lesion lies. "
    "Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[
    list[Path],
    typer.Argument(
        help="Dataset folder, or several: of BUSI, BUS-BRA, BrEaST, BUS-UCLM, UDIAT or BreaKHis, or one with images/ "
        "and masks/."
    ),
]
Splits = Annotated[Path | None, typer.Option(help="CSV file of folds, as `busseg split` writes it.")]
Fold = Annotated[
    int | None, typer.Option(min=0, help="Number of the fold; must be told if the splits file holds several.")
]
Groups = Annotated[
    Path | None,
    typer.Option(
        help="CSV file that tells which images belong together: file, group. `busseg audit` of the same folders writes "
        "one."
    ),
]
Sensitivity = Annotated[
    float | None,
    typer.Option(
        min=0.5,
        max=0.99,
        help="Share of the malignant images to find: an image counts as malignant from the probability on that found "
        "this share out of fold.",
    ),
]
Robustness = Annotated[bool, typer.Option("--robustness", help="Score under contrast, blur, speckle and more, too.")]


def main():
    """Run the command line: one line for what went wrong, and 2 for its exit status."""
    forgive_output()
    try:
        app()
    except SystemExit as done:
        if done.code == 130:  # what typer makes of Ctrl-C
            complain("stopped")
        raise
    except Exception as error:
        if os.environ.get("BUSSEG_TRACEBACK") or not (line := _one_line(error)):
            raise
        complain(f"error: {line}")
        sys.exit(2)


def _one_line(error):
    """What went wrong, in one line; None of what is a fault of busseg itself."""
    if ran_out_of_memory(error):
        return "Expected more memory, found too little; a smaller image_size or batch_size takes less"
    if not isinstance(error, (OSError, ValueError, ImportError)):
        return None
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def ran_out_of_memory(error):
    """Whether an error is Python's, a backend's or a runtime's for too little memory; they share no class."""
    words = f"{type(error).__name__} {error}"
    return isinstance(error, MemoryError) or bool(re.search(_NO_MEMORY, words))


@contextmanager
def starting_keras():
    """Import Keras and its backend inside, in peace: TensorFlow's start-up notes are not for users."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Off by default on some processors; twice as fast there.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    from busseg.inference.silence import silence

    with Console().status("Starting Keras ..."), silence():
        yield


def needs_keras(model):
    """Whether a model may need Keras, whose start takes seconds."""
    from busseg.inference.predictor import PACKAGED

    return str(model) not in PACKAGED and model.suffix != ".onnx"


def start_keras_for(model):
    """Import Keras in peace, if a model may need it."""
    if needs_keras(model):
        with starting_keras():
            import keras  # noqa: F401


def load_predictor(model, sensitivity=None):
    """A predictor; Keras is started only for a model that needs it."""
    from busseg.inference.predictor import Predictor

    with starting_keras() if needs_keras(model) else nullcontext():
        return Predictor(model, sensitivity=sensitivity)


def check_datasets(data):
    """Refuse a folder that is no dataset, or given twice, before work that takes long, and warn of a BUSI folder that
    lacks a class; return what to call all.
    """
    from busseg.data import find_reader, name_sources
    from busseg.data.readers import busi

    for root in data:
        reader, folder = find_reader(root)
        if reader is busi and (missing := busi.missing_classes(folder)):
            complain(f"warning: no image of the class {' and '.join(missing)}: {folder}")
    return " + ".join(name_sources(data))


def read_samples(data, groups, task=None):
    from busseg.data import find_samples
    from busseg.data.splits import read_groups

    samples = find_samples(data, task)
    return read_groups(groups, samples) if groups else samples


def progress_bar(title):
    return lambda things: track(things, title)


def report_passed(passed):
    """Say in one line which files of folders were passed over."""
    from busseg.inference.inputs import format_passed

    if passed:
        complain(format_passed(passed))


def report_warnings(warned):
    """Warn of files by a dict from each to the `Counter` of its pictures' warnings, of which "" is none."""
    for file, counts in warned.items():
        of_each = Counter(one for warning in counts.elements() for one in warning.split("; ") if one)
        for warning, count in of_each.items():
            frames = f" in {count} of {counts.total()} frames" if counts.total() > 1 else ""
            complain(f"warning: {warning}{frames}: {file}")


def report_out_of_distribution(warned):
    """Count the files of `report_warnings` that are `OUT_OF_DISTRIBUTION` as a whole, and say what they lack."""
    from busseg.imaging.dicom import is_dicom
    from busseg.inference.predictor import OUT_OF_DISTRIBUTION

    unreadable = [file for file, counts in warned.items() if all(one.startswith(OUT_OF_DISTRIBUTION) for one in counts)]
    if unreadable:
        scans = sum(is_dicom(file) for file in unreadable)
        complain(
            f"{len(unreadable)} of {len(warned)} files are {OUT_OF_DISTRIBUTION}: no class is told"
            + (f", and of {scans} DICOM files no DICOM SEG is written" if scans else "")
        )


def report_failures(failed, count):
    for row in failed:
        complain(f"skipped: {row['error']}")
    if failed:
        complain(f"{len(failed)} of {count} files could not be read")
        raise typer.Exit(1)
