"""The program: its entry point, and the options and helpers that the verbs share."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import busseg
from busseg.cli.terminal import complain, forgive_output, say
from busseg.storage.progress import track

if TYPE_CHECKING:
    from busseg.data.sample import Sample
    from busseg.inference.predictor import Predictor

# Error texts of TensorFlow, JAX, PyTorch, ONNX Runtime and C++ for too little memory.
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
        help="Dataset folder, or several: of BUSI, BUS-BRA, BrEaST, BUS-UCLM, UDIAT or BreaKHis, one with images/ and "
        "masks/, or one of another program's format; see docs/formats.md."
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Number of epochs, instead of the recipe's.")]
Splits = Annotated[Path | None, typer.Option(help="CSV file of folds, as `busseg split` writes it.")]
Fold = Annotated[int | None, typer.Option(min=0, help="Number of the fold; required if the splits file holds several.")]
Groups = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with columns file and group: images of one group stay together. `busseg audit` of the same "
        "folders writes one."
    ),
]
Sensitivity = Annotated[
    float | None,
    typer.Option(
        min=0.5,
        max=0.99,
        help="Share of the malignant images to find: an image counts as malignant if its probability reaches the "
        "threshold that found this share out of fold.",
    ),
]
Robustness = Annotated[bool, typer.Option("--robustness", help="Score under contrast, blur, speckle and more, too.")]


def out_option(help: str) -> typer.models.OptionInfo:
    """The option that names what a verb writes, the same in every verb."""
    return typer.Option("--out", "-o", help=help)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"busseg {busseg.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run the command line. An error is one line and exit status 2."""
    forgive_output()
    try:
        app()
    except SystemExit as done:
        if done.code == 130:  # typer's exit status for Ctrl-C
            complain("stopped")
        raise
    except Exception as error:
        if os.environ.get("BUSSEG_TRACEBACK") or not (line := _one_line(error)):
            raise
        complain(f"error: {line}")
        sys.exit(2)


def _one_line(error):
    """The error in one line; None for a fault of busseg itself."""
    if ran_out_of_memory(error):
        return "Expected more memory, found too little; a smaller image_size or batch_size takes less"
    if not isinstance(error, (OSError, ValueError, ImportError)):
        return None
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, a backend or a runtime means too little memory. They share no class."""
    words = f"{type(error).__name__} {error}"
    return isinstance(error, MemoryError) or bool(re.search(_NO_MEMORY, words))


@contextmanager
def starting_keras() -> Iterator[None]:
    """A block in which Keras and its backend can be imported without TensorFlow's start-up notes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Off by default on some processors; twice as fast there.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    from busseg.inference.silence import silence

    # The spinner has a copy of stderr, which `silence` does not close.
    stderr = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    with stderr, Console(file=stderr).status("Starting Keras ..."), silence():
        yield


def needs_keras(model: Path) -> bool:
    """Whether a model may need Keras, whose start takes seconds."""
    from busseg.inference.predictor import PACKAGED

    return str(model) not in PACKAGED and model.suffix != ".onnx"


def start_keras_for(model: Path) -> None:
    """Import Keras, see `starting_keras`, if a model may need it."""
    if needs_keras(model):
        with starting_keras():
            import keras  # noqa: F401


def load_predictor(model: Path, **options) -> "Predictor":
    """The `Predictor` of a model, with further options of `Predictor`; Keras is started only if the model needs it."""
    from busseg.inference.predictor import Predictor

    with starting_keras() if needs_keras(model) else nullcontext():
        return Predictor(model, **options)


def check_datasets(data: Sequence[Path]) -> str:
    """Check dataset folders before work that takes long; warn of a BUSI folder that lacks a class.

    Returns:
        The name of all datasets together, for reports.

    Raises:
        FileNotFoundError: If a folder is missing or not a dataset.
        ValueError: If a folder is given twice.
    """
    from busseg.data import find_reader, name_sources
    from busseg.data.readers import busi

    for root in data:
        reader, folder = find_reader(root)
        if reader is busi and (missing := busi.missing_classes(folder)):
            complain(f"warning: no image of the class {' and '.join(missing)}: {folder}")
    return " + ".join(name_sources(data))


def read_samples(data: Sequence[Path], groups: Path | None, task: str | None = None) -> list["Sample"]:
    """The samples of datasets, see `busseg.data.find_samples`, with the groups of a CSV file if there is one."""
    from busseg.data import find_samples
    from busseg.data.splits import read_groups

    samples = find_samples(data, task)
    return read_groups(groups, samples) if groups else samples


def progress_bar(title: str) -> Callable[[Iterable], Iterable]:
    """A function that wraps an iteration with a progress bar of this title, see `track`."""
    return lambda things: track(things, title)


def report_passed(passed: Mapping[Path, str]) -> None:
    """Print one line with the files of folders that are not read, if any."""
    from busseg.inference.inputs import format_passed

    if passed:
        complain(format_passed(passed))


def report_warnings(warned: Mapping[str, Counter]) -> None:
    """Print the warnings of files.

    Args:
        warned: Dict from a file to a `Counter` of the warnings of its images; "" is no warning.
    """
    for file, counts in warned.items():
        of_each = Counter(one for warning in counts.elements() for one in warning.split("; ") if one)
        for warning, count in of_each.items():
            frames = f" in {count} of {counts.total()} frames" if counts.total() > 1 else ""
            complain(f"warning: {warning}{frames}: {file}")


def report_out_of_distribution(warned: Mapping[str, Counter]) -> None:
    """Print how many files of `report_warnings` are `OUT_OF_DISTRIBUTION` in all their images, if any."""
    from busseg.imaging.dicom import is_dicom
    from busseg.inference.quality import OUT_OF_DISTRIBUTION

    unreadable = [file for file, counts in warned.items() if all(one.startswith(OUT_OF_DISTRIBUTION) for one in counts)]
    if unreadable:
        scans = sum(is_dicom(file) for file in unreadable)
        complain(
            f"{len(unreadable)} of {len(warned)} files are {OUT_OF_DISTRIBUTION}: no class is printed"
            + (f", and no DICOM SEG or SR is written for {scans} DICOM files" if scans else "")
        )


def report_failures(failed: Sequence[dict], count: int) -> None:
    """Print the errors of the rows that failed, of `count` files; exit with status 1 if there is one."""
    for row in failed:
        complain(f"skipped: {row['error']}")
    if failed:
        complain(f"{len(failed)} of {count} files could not be read")
        raise typer.Exit(1)
