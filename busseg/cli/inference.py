"""The verbs of a trained model at work."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from busseg.cli.program import app, load_predictor, needs_keras, report_failures, report_foreign, starting_keras


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
    report_foreign(foreign)
    report_failures(failed, len(files))


@app.command()
def explain(
    inputs: Annotated[list[Path], typer.Argument(help="Images, folders of images, or patterns such as 'scans/*.png'.")],
    out: Annotated[Path, typer.Option(help="Folder for pictures, arrays and explanations.csv.")],
    model: Annotated[
        Path,
        typer.Option(
            help="One that comes with busseg, best or small; or yours: a run's folder or a .keras file, for which "
            "there is Grad-CAM, too, or an exported one."
        ),
    ] = Path("best"),
):
    """Show where a model looks: what it loses when a place is covered (occlusion), and of a Keras model also Grad-CAM.

    For each image: NAME_occlusion.png, NAME_grad_cam_label.png, NAME_grad_cam_mask.png, and NAME_heat.npz with the
    arrays occlusion, grad_cam_label and grad_cam_mask.

    Example: busseg explain scan.png --out explained --model runs/card
    """
    from contextlib import nullcontext

    from busseg.inference.batch import find_inputs
    from busseg.inference.explanations import explain_files, open_model

    files = find_inputs(inputs)
    with starting_keras() if needs_keras(model) else nullcontext():
        predictor, network = open_model(model)
    failed, foreign = [], []
    for row in track(explain_files(predictor, network, files, out), "Explaining", total=len(files)):
        if row["error"]:
            failed.append(row)
        elif row["warning"]:
            foreign.append(row)
    print(f"Wrote {out}")
    report_foreign(foreign)
    report_failures(failed, len(files))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Trained model: a run's folder or a .keras file.")],
    out: Annotated[Path, typer.Option(help="Folder to write, or .onnx file.")],
    format: Annotated[
        str, typer.Option(help="saved_model: TensorFlow's, a folder. onnx, litert: one file. openvino: a folder.")
    ] = "saved_model",
    weights: Annotated[
        str, typer.Option(help="float32, or smaller: float16 (not of saved_model), int8 (of onnx and litert).")
    ] = "float32",
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="saved_model, onnx: take an image as it is, uint8 of any size, and answer at its size."
        ),
    ] = False,
):
    """Export a model to a format that runs without busseg, and check it against its source.

    Example: busseg export runs/card --format onnx --out card.onnx
    """
    from inspect import signature

    with starting_keras():
        from busseg.inference.export import FORMATS
    if format not in FORMATS:
        raise ValueError(f"Expected a format of {', '.join(FORMATS)}, found {format!r}")
    told = ({"weights": weights} if weights != "float32" else {}) | ({"raw": True} if raw else {})
    if unknown := told.keys() - signature(FORMATS[format]).parameters.keys():
        raise ValueError(f"Expected a format that has --{min(unknown)}, found {format}")
    with starting_keras():
        difference = FORMATS[format](model, out, **told)
    print(f"Wrote {out}; its answers differ from the source's by at most {difference:.0e}")
