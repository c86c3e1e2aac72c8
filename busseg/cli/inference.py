"""The verbs for trained models: predict, explain, export, calibrate, and the page."""

import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from busseg.cli.program import (
    Sensitivity,
    app,
    load_predictor,
    needs_keras,
    out_option,
    progress_bar,
    report_failures,
    report_out_of_distribution,
    report_passed,
    report_warnings,
    starting_keras,
)
from busseg.cli.terminal import say
from busseg.storage.escaping import printable
from busseg.storage.progress import bars, track

if TYPE_CHECKING:
    from busseg.inference.operating_point import OperatingPoint

_SHOWN = 20  # rows that are printed

Inputs = Annotated[
    list[Path],
    typer.Argument(help="Images, videos or ultrasound DICOM, folders of them, or patterns such as 'scans/*.png'."),
]
RequireRegion = Annotated[
    bool,
    typer.Option(
        "--require-region", help="Refuse DICOM without a usable region. Without this, its whole frame is used."
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu or gpu, for ONNX and OpenVINO. auto: the GPU if ONNX Runtime has one.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="float32 or bfloat16, for ONNX and OpenVINO. bfloat16 is faster on processors with AMX or AVX512-BF16, "
        "needs OpenVINO, and answers slightly differently."
    ),
]
Model = Annotated[
    Path,
    typer.Option(
        help="A model that comes with busseg, best or small; or your own: a run's folder, or a file or folder of "
        "`busseg export`."
    ),
]


@app.command()
def predict(
    inputs: Inputs,
    model: Model = Path("best"),
    out: Annotated[Path, out_option("Folder for masks, overlays and predictions.csv.")] = Path("predictions"),
    resume: Annotated[
        bool,
        typer.Option(
            help="Resume the prediction in the folder, if there is one; its rows stay, also those of another model."
        ),
    ] = False,
    probability_maps: Annotated[
        bool, typer.Option(help="Also write lesion probabilities, NAME_probability.png.")
    ] = False,
    json_lines: Annotated[bool, typer.Option(help="Also write predictions.jsonl, with boxes and contours.")] = False,
    overlay_dicom: Annotated[
        bool, typer.Option(help="Also write the overlays of DICOM files as DICOM, NAME_overlay.dcm.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="threads: this process. ray: Ray's workers, on this machine or on the cluster of RAY_ADDRESS; for "
            "archives. Also writes predictions.parquet."
        ),
    ] = "threads",
    sensitivity: Sensitivity = None,
    threshold: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Lesion probability from which a pixel belongs to the mask.")
    ] = 0.5,
    require_region: RequireRegion = False,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Predict the class and the lesion of images. DICOM is cropped to the 2D regions that the scanner marked, and its
    lesions are also written as DICOM SEG, NAME_seg.dcm, and their measurements as DICOM SR, NAME_sr.dcm.

    Prints a line for each of the first 20 images: the class and its probability, those of the other classes, and the
    lesion's share of the image.

    Example: busseg predict scan.png scans/ --out predictions

    Example: busseg predict 'scans/*.png' --model runs/card --threshold 0.3 -o predictions
    """
    from busseg.inference.frames import count_frames
    from busseg.inference.inputs import survey_inputs
    from busseg.storage.claims import check_folder
    from busseg.storage.run_folder import PREDICTION

    predict_files = _function_of(engine, model)
    files, passed = survey_inputs(inputs)
    check_folder(out, PREDICTION)  # before a model is loaded
    predictor = load_predictor(model, sensitivity=sensitivity, threshold=threshold, device=device, precision=precision)
    images = count_frames(files, require_region)
    options = resume, probability_maps, json_lines, overlay_dicom, require_region
    with bars() as bar:
        watch = partial(bar.advance, bar.add_task("Predicting", total=images))
        failed, warned, calls = _print_rows(predict_files(predictor, files, out, *options, watch=watch), sensitivity)
    if images > _SHOWN:
        say(f"... and {images - _SHOWN} more")
    if predictor.operating_point:
        _print_malignant(predictor.operating_point, calls)
    _print_clips(out, files)
    say(f"Wrote {out}")
    report_passed(passed)
    report_warnings(warned)
    report_out_of_distribution(warned)
    report_failures(list(failed.values()), len(files))


def _function_of(engine: str, model: Path) -> Callable[..., Iterator[dict]]:
    """The function of an engine, with the arguments of `predict_files`."""
    from busseg.inference.batch import predict_files

    if engine not in ("threads", "ray"):
        raise ValueError(f"Expected an engine of threads, ray, found {engine!r}")
    if engine == "threads":
        return predict_files
    from busseg.inference.ray_engine import predict_files_on_ray

    return partial(predict_files_on_ray, model)


def _print_rows(
    rows: Iterable[dict], sensitivity: float | None
) -> tuple[dict[str, dict], dict[str, Counter], list[bool]]:
    """Print the first rows of a prediction, one line each.

    Returns:
        `(failed, warned, calls)`: dict from a file that failed to its first row with an error; dict from any other file
        to a `Counter` of its warnings; and for each image that is in distribution, whether it is called malignant.
    """
    from busseg.inference.quality import OUT_OF_DISTRIBUTION
    from busseg.inference.records import format_prediction

    failed: dict[str, dict] = {}
    warned: dict[str, Counter] = defaultdict(Counter)
    calls = []
    for number, row in enumerate(rows):
        if row["error"]:
            failed.setdefault(row["file"], row)  # one line a file, however many frames
            continue
        warned[row["file"]][row["warning"]] += 1
        decision = ""
        if not row["warning"].startswith(OUT_OF_DISTRIBUTION):
            calls.append(_is_malignant(row, sensitivity))
            decision = f", malignant at sensitivity {sensitivity:g}" if calls[-1] else ""
        if number < _SHOWN:
            say(f"{_name(row)}: {format_prediction(row)}{decision}")
    return failed, warned, calls


def _print_malignant(point: "OperatingPoint", calls: Sequence[bool]) -> None:
    say(
        f"Malignant at sensitivity {point.sensitivity:g} (95 % interval {point.low:.2f} to {point.high:.2f}), "
        f"at p_malignant >= {point.threshold:.3f}: {sum(calls)} of {len(calls)} images"
    )


def _print_clips(out: Path, files: Mapping[Path, Path]) -> None:
    """Print the first clips, one line each: class, lesions, and the overlay of the best frame."""
    from busseg.inference.frames import frame_target
    from busseg.inference.records import format_prediction
    from busseg.storage.files import read_csv
    from busseg.storage.run_folder import CLIPS

    clips = read_csv(out / CLIPS) if (out / CLIPS).exists() else []
    for row in clips[:_SHOWN]:
        answer = f"{row['file']}, {row['counted']} of {row['frames']} frames: {format_prediction(row)}"
        overlay = f"{frame_target(files[Path(row['file'])], row['best_frame'])}_overlay.png"
        say(answer if row["warning"] else f"{answer}, lesions: {row['lesions']}, best frame: {out / overlay}")
    if len(clips) > _SHOWN:
        say(f"... and {len(clips) - _SHOWN} more clips")


def _is_malignant(row, sensitivity):
    from busseg.inference.records import decision_column

    # The value is text if the row was read back from the table.
    return sensitivity is not None and str(row[decision_column(sensitivity)]) == "True"


def _name(row):
    file = printable(row["file"])
    return f"{file}, frame {row['frame']}" if row.get("frame") else file


@app.command()
def explain(
    inputs: Inputs,
    out: Annotated[Path, out_option("Folder for heat maps, arrays and explanations.csv.")],
    model: Model = Path("best"),
    require_region: RequireRegion = False,
) -> None:
    """Draw heat maps of the image regions that matter to a model: occlusion, and for Keras models also Grad-CAM.

    For each image: NAME_occlusion.png, NAME_grad_cam_label.png, NAME_grad_cam_mask.png, and NAME_heat.npz with the
    arrays occlusion, grad_cam_label and grad_cam_mask.

    Example: busseg explain scan.png --out explained --model runs/card
    """
    from contextlib import nullcontext

    from busseg.explain.files import explain_files, open_model
    from busseg.inference.frames import count_frames
    from busseg.inference.inputs import survey_inputs
    from busseg.storage.claims import check_folder
    from busseg.storage.run_folder import EXPLANATION

    files, passed = survey_inputs(inputs)
    check_folder(out, EXPLANATION)  # before a model is loaded
    with starting_keras() if needs_keras(model) else nullcontext():
        predictor, network = open_model(model)
    failed: dict[str, dict] = {}
    warned: dict[str, Counter] = defaultdict(Counter)
    rows = explain_files(predictor, network, files, out, require_region)
    for row in track(rows, "Explaining", count_frames(files, require_region)):
        if row["error"]:
            failed.setdefault(row["file"], row)
        else:
            warned[row["file"]][row["warning"]] += 1
    say(f"Wrote {out}")
    report_passed(passed)
    report_warnings(warned)
    report_failures(list(failed.values()), len(files))


@app.command()
def export(
    model: Annotated[
        Path,
        typer.Argument(
            help="Trained model: a run's folder or a .keras file; for onnx, openvino and web also an .onnx file, or "
            "best or small."
        ),
    ],
    out: Annotated[Path, out_option("Folder to write, or .onnx file.")],
    format: Annotated[
        str,
        typer.Option(
            help="saved_model: TensorFlow's, a folder. onnx, litert: one file. openvino: a folder. web: a folder, a "
            "page that runs the model in the browser."
        ),
    ] = "saved_model",
    weights: Annotated[
        str, typer.Option(help="float32, or smaller: float16 (not for saved_model), int8 (for onnx, litert and web).")
    ] = "float32",
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="saved_model, onnx: take an image as it is, uint8 of any size, and return masks of its size."
        ),
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="litert: 1 for a network of one image at a time, which LiteRT.js needs.")
    ] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="web: folder of the unpacked npm package onnxruntime-web; see docs/export.md.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="onnx, litert: replace a file of another kind, too.")] = False,
) -> None:
    """Export a model to a format that runs without busseg, and check it against its source.

    Example: busseg export runs/card --format onnx --out card.onnx
    """
    from inspect import signature

    with starting_keras():
        from busseg.export.formats import FORMATS
        from busseg.export.web import export_web
    formats: dict[str, Callable[..., float]] = {**FORMATS, "web": export_web}
    if format not in formats:
        raise ValueError(f"Expected a format of {', '.join(formats)}, found {format!r}")
    options: dict[str, object] = {"weights": weights} if weights != "float32" else {}
    options |= {name: True for name, wanted in (("raw", raw), ("force", force)) if wanted}
    options |= {name: value for name, value in (("batch", batch), ("runtime", runtime)) if value is not None}
    if unknown := options.keys() - signature(formats[format]).parameters.keys():
        raise ValueError(f"Expected a format that has --{min(unknown)}, found {format}")
    with starting_keras():
        difference = formats[format](model, out, **options)
    say(f"Wrote {out}; its outputs differ from the source's by at most {difference:.0e}")


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="Trained model: best, small, a run's folder, a .keras or .onnx file.")],
    data: Annotated[
        list[Path],
        typer.Argument(help="Dataset folders of your own scans with their classes; 20 are enough, without masks."),
    ],
    out: Annotated[Path, out_option("New file to write: .onnx of a model in ONNX, else .keras.")],
) -> None:
    """Calibrate a model on your own labelled scans: its probabilities, and the thresholds for --sensitivity.

    The class and the mask of an image do not change. Take consecutive scans, not selected or hard ones.

    Example: busseg calibrate best my-scans --out mine.onnx
    """
    from busseg.experiments.calibrate import calibrate, find_labelled, format_calibration

    samples = find_labelled(data)
    found, failures = calibrate(load_predictor(model), samples, out, progress_bar("Predicting"))
    say(format_calibration(found))
    say(f"Wrote {out}")
    report_failures(failures, len(samples))


@app.command("app")
def page(
    model: Model = Path("best"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes any that is free.")] = 7860,
    host: Annotated[str, typer.Option(help="Name or address of this machine; 0.0.0.0 is all of its addresses.")] = (
        "127.0.0.1"
    ),
    password: Annotated[
        str | None,
        typer.Option(
            envvar="BUSSEG_PASSWORD",
            show_envvar=True,
            help="Password of the page; needed for a --host that other machines reach. Other users of this machine can "
            "read a command line, so set the variable instead.",
        ),
    ] = None,
    require_region: RequireRegion = False,
) -> None:
    """Serve a page in the browser that predicts images, for this machine alone, until Ctrl-C.

    Example: busseg app --port 7860
    """
    with Console(stderr=True).status("Starting the page ..."):
        try:
            from busseg.app.server import WARNING, is_loopback, serve
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise ImportError('Expected Gradio, found it not installed: pip install "busseg[app]"') from error
    predictor = load_predictor(model)
    # `kill`, as by service managers, ends the program cleanly, so its temporary folder is deleted.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # So does a closed terminal, unless `nohup` keeps the program running.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))

    def started(address: str) -> None:
        print(f"Research software, not a medical device: {address}", flush=True)
        if not is_loopback(host):
            print(WARNING, flush=True)

    serve(predictor, port, host, password, started, require_region)
