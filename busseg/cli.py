"""The verbs: parse, call one function, print. Heavy imports stand inside, so that `--help` answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Breast ultrasound: which class (normal, benign, malignant), and where the lesion lies. "
    "Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

Data = Annotated[Path, typer.Argument(help="Dataset folder: BUSI's, or one with images/ and masks/.")]
Splits = Annotated[Path | None, typer.Option(help="CSV file of folds, as `busseg split` writes it.")]
Fold = Annotated[int | None, typer.Option(min=0, help="Fold of the splits file; 0 if not told.")]


def main():
    """Run the command line: one line for what went wrong, and 2 for its exit status."""
    # TensorFlow's start-up notes are not for users.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        app()
    except (OSError, ValueError, ImportError) as error:
        if os.environ.get("BUSSEG_TRACEBACK"):
            raise
        errors.print(f"busseg: error: {_one_line(error)}")
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("busseg: stopped")
        sys.exit(130)


def _one_line(error):
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


@app.command()
def split(
    data: Data,
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("splits.csv"),
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same folds.")] = 0,
):
    """Split a dataset into stratified folds that keep copies of an image together.

    Example: busseg split data/busi --folds 5 --out splits.csv
    """
    from busseg.data import find_samples
    from busseg.data.splits import PARTS, grouped_splits, write_splits

    samples = find_samples(data)
    splits = grouped_splits(samples, folds, seed)
    write_splits(out, splits)
    for number, fold in enumerate(splits):
        print(f"fold {number}: " + ", ".join(f"{part} {len(getattr(fold, part))}" for part in PARTS))
    print(f"Wrote {out}")


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    recipe: Annotated[
        str | None, typer.Option(help="Name of a recipe, or path of a TOML file; card if not told.")
    ] = None,
    splits: Splits = None,
    fold: Fold = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder, if there is one.")] = False,
):
    """Train a U-Net on a dataset.

    Example: busseg train data/busi --out runs/card
    """
    from busseg.data import find_samples
    from busseg.data.splits import grouped_splits, read_split
    from busseg.training import fit as fitting
    from busseg.training.recipe import load_recipe

    if resume and (out / fitting.RECIPE).exists():
        recipe = recipe or out / fitting.RECIPE
        splits = splits or out / fitting.SPLITS
    chosen = load_recipe(recipe or "card")
    samples = find_samples(data)
    split = read_split(splits, samples, fold) if splits else grouped_splits(samples)[fold or 0]
    fitting.fit(chosen, split, out, fold=fold or 0, resume=resume)
    print(f"The best model is in {out / fitting.MODEL}")


if __name__ == "__main__":
    main()
