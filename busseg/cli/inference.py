"""The verbs of a trained model at work."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from busseg.cli.program import app, errors, load_predictor, report_failures, starting_keras


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
    engine: Annotated[
        str,
        typer.Option(
            help="threads: this process. ray: Ray's workers, on this machine or on the cluster of RAY_ADDRESS; for "
            "archives. Also writes predictions.parquet."
        ),
    ] = "threads",
):
    """Tell the class of images and where the lesion lies.

    Example: busseg predict scan.png scans/ --out predictions
    """
    from busseg.inference.batch import find_inputs, predict_files

    if engine not in ("threads", "ray"):
        raise ValueError(f"Expected an engine of threads, ray, found {engine!r}")
    if engine == "ray":
        from busseg.inference.ray_engine import predict_files_on_ray

        predict_files = partial(predict_files_on_ray, model)
    files = find_inputs(inputs)
    predictor = load_predictor(model)
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
    report_failures(failed, len(files))


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
