"""The verbs for scores."""

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
    out_option,
    report_failures,
    start_keras_for,
)
from busseg.cli.terminal import say


@app.command()
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="Trained model: best, small, a run's folder, or a file or folder of `busseg export`."),
    ],
    data: Data,
    out: Annotated[Path, out_option("Folder for the scores, figures and report.")],
    splits: Splits = None,
    fold: Fold = None,
    robustness: Robustness = False,
    sensitivity: Sensitivity = None,
) -> None:
    """Score a model on the parts of one or several datasets, and write a report.

    The parts are those of the splits file; by default those that a run's folder was trained with; else all images are
    one part. To score a run on another dataset, name its model: runs/card/model.keras.

    Example: busseg evaluate runs/card data/busi --out runs/card/evaluation
    """
    from busseg.evaluation.summary import format_summary
    from busseg.experiments.score import score_model
    from busseg.storage.claims import check_folder
    from busseg.storage.run_folder import EVALUATION

    title = check_datasets(data)
    check_folder(out, EVALUATION)
    start_keras_for(model)
    summary, rows = score_model(
        model, data, out, splits=splits, fold=fold, robustness=robustness, sensitivity=sensitivity, title=title
    )
    say(format_summary(summary))
    say(f"\nWrote {out}")
    report_failures([row for row in rows if row.get("error")], len(rows))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `busseg evaluate` or `busseg crossval`.")],
    out: Annotated[Path, out_option("Folder for the table and the plot.")] = Path("comparison"),
) -> None:
    """Compare each model with the first one, on the images that both were scored on.

    Example: busseg compare runs/light-grouped runs/card-grouped --out comparison
    """
    from busseg.evaluation.compare import compare as compare_folders
    from busseg.evaluation.compare_text import format_comparison

    say(format_comparison(compare_folders(folders, out)))
    say(f"\nWrote {out}")
