"""The verbs that score."""

from pathlib import Path
from typing import Annotated

import typer

from busseg.cli.program import (
    Data,
    Fold,
    Robustness,
    Sensitivity,
    Splits,
    app,
    check_datasets,
    load_predictor,
    progress_bar,
    report_failures,
)
from busseg.cli.terminal import say


@app.command()
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="Trained model: best, small, a run's folder, or a file or folder of `busseg export`."),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the scores and pictures.")],
    splits: Splits = None,
    fold: Fold = None,
    robustness: Robustness = False,
    sensitivity: Sensitivity = None,
):
    """Score a model on the parts of a dataset, or of several, and report.

    The parts are those of the splits file; without one, those a run's folder was trained with; else all images are one.
    To score a run on another dataset, name its model: runs/card/model.keras.

    Example: busseg evaluate runs/card data/busi --out runs/card/evaluation
    """
    from busseg.data import find_samples
    from busseg.data.claims import EVALUATION, check_folder, claim_folder
    from busseg.data.splits import PARTS, read_split
    from busseg.evaluation.protocol import evaluate, format_summary
    from busseg.evaluation.report import HEADLINE, write_report
    from busseg.evaluation.robustness import ROBUSTNESS, measure_robustness, write_robustness

    name = check_datasets(data)
    check_folder(out, EVALUATION)
    predictor = load_predictor(model, sensitivity)
    samples = find_samples(data, predictor.task)
    if splits is None and (model / "splits.csv").is_file():
        splits = model / "splits.csv"
    parts = {"all": samples}
    if fold is not None and splits is None:
        raise ValueError(f"Expected a splits file to read fold {fold} from, found none; tell it by --splits")
    if splits:
        chosen = read_split(splits, samples, fold)
        parts = {part: getattr(chosen, part) for part in PARTS if getattr(chosen, part)}
    with claim_folder(out, EVALUATION):
        summary, rows = evaluate(predictor, parts, out, progress_bar("Evaluating"), model=str(model), data=name)
        if robustness:
            part = next((name for name in HEADLINE if name in parts), next(iter(parts)))
            write_robustness(out / ROBUSTNESS, measure_robustness(predictor, parts[part], progress_bar("Disturbing")))
        write_report(out, samples, runs=[model] if model.is_dir() else [])
    say(format_summary(summary))
    say(f"\nWrote {out}")
    report_failures([row for row in rows if row.get("error")], len(rows))


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

    say(format_comparison(compare_folders(folders, out)))
    say(f"\nWrote {out}")
