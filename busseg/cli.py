"""The verbs: parse, call one function, print. Heavy imports stand inside, so that `--help` answers at once."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

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

Data = Annotated[Path, typer.Argument(help="Dataset folder: BUSI's, BreaKHis', or one with images/ and masks/.")]
Splits = Annotated[Path | None, typer.Option(help="CSV file of folds, as `busseg split` writes it.")]
Fold = Annotated[
    int | None, typer.Option(min=0, help="Number of the fold; must be told if the splits file holds several.")
]
Groups = Annotated[
    Path | None,
    typer.Option(help="CSV file that tells which images belong together: file, group. `busseg audit` writes one."),
]
Recipe = Annotated[str, typer.Option(help="Name of a recipe, or path of a TOML file.")]
Robustness = Annotated[bool, typer.Option("--robustness", help="Score under contrast, blur, speckle and more, too.")]
Model = Annotated[
    Path, typer.Argument(help="Trained model: best, small, a run's folder, or a file or folder of `busseg export`.")
]


def main():
    """Run the command line: one line for what went wrong, and 2 for its exit status."""
    try:
        app()
    except (OSError, ValueError, ImportError) as error:
        if os.environ.get("BUSSEG_TRACEBACK"):
            raise
        errors.print(f"busseg: error: {_one_line(error)}")
        sys.exit(2)
    except SystemExit as done:
        if done.code == 130:  # what typer makes of Ctrl-C
            errors.print("busseg: stopped")
        raise


def _one_line(error):
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


@contextmanager
def starting_keras():
    """Import Keras and its backend inside, in peace: TensorFlow's start-up notes are not for users."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Off by default on some processors; twice as fast there.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with Console().status("Starting Keras ..."), Path(os.devnull).open("w") as nowhere:
        # The notes come from C++, past Python's own stderr.
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _load_predictor(model):
    """A predictor; Keras, whose start takes seconds, is started only for a model that needs it."""
    from busseg.inference.predictor import SHIPPED, Predictor

    if str(model) in SHIPPED or model.suffix == ".onnx":
        return Predictor(model)
    with starting_keras():
        return Predictor(model)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("busseg-demo"),
):
    """See it work in a minute: draw phantoms, train on them, evaluate, predict, export.

    Example: busseg demo --out busseg-demo
    """
    with starting_keras():
        from busseg.demo import run_demo
    run_demo(out)


@app.command()
def audit(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for audit.html, audit.json and groups.csv.")] = Path("audit"),
):
    """Look a dataset over before it is trusted: faulty files and masks, copies, classes, sizes of lesions.

    Example: busseg audit data/busi --out audit
    """
    from busseg.data import find_reader
    from busseg.data.audit import audit_dataset, format_audit
    from busseg.data.files import claim_folder
    from busseg.evaluation.audit_page import AUDIT, PAGE, write_audit

    find_reader(data)  # A wrong folder on either side is refused before the work, and leaves nothing behind.
    claim_folder(out, AUDIT)
    found = audit_dataset(data, progress=_bar("Looking"))
    write_audit(found, out)
    print(format_audit(found))
    print(f"\nWrote {out / PAGE}")
    if found["findings"]["unreadable"]:
        raise typer.Exit(1)


@app.command()
def split(
    data: Data,
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("splits.csv"),
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same folds.")] = 0,
    groups: Groups = None,
    keep_conflicts: Annotated[
        bool, typer.Option("--keep-conflicts", help="Keep the groups whose images carry different classes.")
    ] = False,
):
    """Split a dataset into stratified folds that keep copies of an image together, and the images of a patient.

    Example: busseg split data/busi --folds 5 --out splits.csv
    """
    from busseg.data import breakhis, find_reader
    from busseg.data.splits import PARTS, grouped_splits, patient_splits, write_splits

    samples, tissue = _find_samples(data, groups), find_reader(data)[0] is breakhis
    splits = patient_splits(samples, folds, seed) if tissue else grouped_splits(samples, folds, seed, keep_conflicts)
    write_splits(out, splits)
    for number, fold in enumerate(splits):
        print(f"fold {number}: " + ", ".join(f"{part} {len(getattr(fold, part))}" for part in PARTS))
    print(f"Wrote {out}")


def _find_samples(data, groups, task=None):
    from busseg.data import find_samples
    from busseg.data.splits import read_groups

    samples = find_samples(data, task)
    return read_groups(groups, samples) if groups else samples


def _bar(title):
    return lambda things: track(things, title)


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
):
    """Train a network on a dataset: a U-Net for ultrasound, or by the recipe histology a classifier of tissue.

    Example: busseg train data/busi --out runs/card
    """
    from busseg.data import find_samples
    from busseg.data.protocols import default_protocol, make_splits
    from busseg.data.splits import read_split, train_on_all

    if everything and (splits or fold is not None):
        raise ValueError("Expected --all or a fold of a split, found both")
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
    fitting.fit(recipe, chosen, out, fold=fold or 0, resume=resume)
    print(f"The model is in {out / fitting.MODEL}")


def _load_recipe(name, data):
    """A recipe, for a dataset: a folder that is none is refused before Keras is started, which takes seconds."""
    from busseg.data import find_reader

    find_reader(data)
    with starting_keras():
        from busseg.training.recipe import load_recipe
    return load_recipe(name)


@app.command()
def evaluate(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the scores and pictures.")],
    splits: Splits = None,
    fold: Fold = None,
    robustness: Robustness = False,
):
    """Score a model on the parts of a dataset, and report.

    The parts are those of the splits file; without one, those a run's folder was trained with; else all images are one.
    To score a run on another dataset, name its model: runs/card/model.keras.

    Example: busseg evaluate runs/card data/busi --out runs/card/evaluation
    """
    from busseg.data import find_reader, find_samples
    from busseg.data.splits import PARTS, read_split
    from busseg.evaluation.protocol import evaluate, format_summary
    from busseg.evaluation.report import HEADLINE, write_report
    from busseg.evaluation.robustness import ROBUSTNESS, measure_robustness, write_robustness

    find_reader(data)  # a wrong folder is refused before a model is loaded
    predictor = _load_predictor(model)
    samples = find_samples(data, predictor.task)
    if splits is None and (model / "splits.csv").is_file():
        splits = model / "splits.csv"
    parts = {"all": samples}
    if fold is not None and splits is None:
        raise ValueError(f"Expected a splits file to read fold {fold} from, found none; tell it by --splits")
    if splits:
        chosen = read_split(splits, samples, fold)
        parts = {part: getattr(chosen, part) for part in PARTS if getattr(chosen, part)}
    summary, rows = evaluate(predictor, parts, out, _bar("Evaluating"), model=str(model), data=data.resolve().name)
    if robustness:
        part = next((name for name in HEADLINE if name in parts), next(iter(parts)))
        write_robustness(out / ROBUSTNESS, measure_robustness(predictor, parts[part], _bar("Disturbing")))
    write_report(out, samples, runs=[model] if model.is_dir() else [])
    print(format_summary(summary))
    print(f"\nWrote {out}")
    _report_failures([row for row in rows if row.get("error")], len(rows))


@app.command()
def crossval(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the runs, the scores and the report.")],
    protocol: Annotated[str | None, typer.Option(help="grouped (tissue: patient), random, tang or curated.")] = None,
    recipe: Recipe = "card",
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
    from busseg.data.protocols import default_protocol

    recipe = _load_recipe(recipe, data)
    with starting_keras():
        from busseg.crossval import cross_validate
        from busseg.evaluation.pooling import format_crossval
    samples = _find_samples(data, groups, recipe.task)
    protocol = protocol or default_protocol(recipe.task)
    summary = cross_validate(samples, out, recipe, protocol, folds, seed, jobs, robustness, data=data.resolve().name)
    print(format_crossval(summary))
    print(f"\nWrote {out / 'report.html'}")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `busseg evaluate` or `busseg crossval`.")],
    out: Annotated[Path, typer.Option(help="Folder for the table and the plot.")] = Path("comparison"),
):
    """Compare models on the images that all of them were scored on; the first is what the others are compared to.

    Example: busseg compare runs/light-grouped runs/card-grouped --out comparison
    """
    from busseg.evaluation.compare import compare as compare_folders
    from busseg.evaluation.compare import format_comparison

    print(format_comparison(compare_folders(folders, out)))
    print(f"\nWrote {out}")


@app.command()
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Images, folders of images, or patterns such as 'scans/*.png'.")],
    model: Annotated[
        Path,
        typer.Option(
            help="One that comes with busseg, best or small; or yours: a run's folder, or a file or folder of "
            "`busseg export`."
        ),
    ] = Path("best"),
    out: Annotated[Path, typer.Option(help="Folder for masks, overlays and predictions.csv.")] = Path("predictions"),
    resume: Annotated[bool, typer.Option(help="Go on with the prediction in the folder, if there is one.")] = False,
    probability_maps: Annotated[
        bool, typer.Option(help="Also write lesion probabilities, NAME_probability.png.")
    ] = False,
    json_lines: Annotated[bool, typer.Option(help="Also write predictions.jsonl, with boxes and contours.")] = False,
):
    """Tell the class of images and where the lesion lies.

    Example: busseg predict scan.png scans/ --out predictions
    """
    from busseg.inference.batch import find_inputs, predict_files

    files = find_inputs(inputs)
    predictor = _load_predictor(model)
    rows = track(
        predict_files(predictor, files, out, resume, probability_maps, json_lines), "Predicting", total=len(files)
    )
    failed, foreign = [], []
    for number, row in enumerate(rows):
        if row["error"]:
            failed.append(row)
        elif row["warning"]:
            foreign.append(row)
        elif number < 20:
            told = f", lesion {float(row['lesion_fraction']):.1%} of the image" if "lesion_fraction" in row else ""
            print(f"{row['file']}: {row['label']}{told}")
    if len(files) > 20:
        print(f"... and {len(files) - 20} more")
    print(f"Wrote {out}")
    for row in foreign:
        errors.print(f"busseg: warning: {row['warning']}, so its answer means nothing: {row['file']}")
    _report_failures(failed, len(files))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Trained model: a run's folder or a .keras file.")],
    out: Annotated[Path, typer.Option(help="Folder to write, or .onnx file.")],
    format: Annotated[
        str, typer.Option(help="saved_model: TensorFlow's, a folder. onnx, litert: one file. openvino: a folder.")
    ] = "saved_model",
):
    """Export a model to a format that runs without busseg, and check it against its source.

    Example: busseg export runs/card --format onnx --out card.onnx
    """
    with starting_keras():
        from busseg.inference.export import FORMATS
    if format not in FORMATS:
        raise ValueError(f"Expected a format of {', '.join(FORMATS)}, found {format!r}")
    with starting_keras():
        difference = FORMATS[format](model, out)
    print(f"Wrote {out}; its answers differ from the source's by at most {difference:.0e}")


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(help="busi: breast ultrasound, 780 images.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
):
    """Download a dataset.

    Example: busseg download busi data/busi
    """
    from busseg.data.download import download_busi

    if dataset != "busi":
        raise ValueError(f"Expected the dataset busi, found {dataset!r}")
    print(f"Wrote {download_busi(folder)}")


def _report_failures(failed, count):
    for row in failed:
        errors.print(f"busseg: skipped: {row['error']}")
    if failed:
        errors.print(f"busseg: {len(failed)} of {count} files could not be read")
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
