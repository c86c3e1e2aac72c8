"""The demo: the model of the package predicts, then a model is trained on phantoms, scored, tried and exported."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from busseg.data import find_samples
from busseg.data.phantom import write_phantoms
from busseg.data.sample import CLASSES
from busseg.data.sample_images import samples
from busseg.data.splits import grouped_splits
from busseg.evaluation.report import write_report
from busseg.evaluation.summary import format_summary
from busseg.experiments.score import score_parts
from busseg.export.formats import export_saved_model
from busseg.inference.batch import predict_files
from busseg.inference.predictor import Predictor
from busseg.inference.records import format_prediction
from busseg.storage.claims import claim_folder
from busseg.storage.files import write_text
from busseg.storage.progress import note, track
from busseg.storage.run_folder import DEMO, REPORT, evaluation_folder
from busseg.training.fit import fit
from busseg.training.recipe import load_recipe

PHANTOMS_PER_CLASS = 400


def run_demo(out: str | Path) -> dict:
    """Run the demo.

    The folder `out` then holds `first-predictions/`, of the sample images by the model of the package; `phantoms/`, a
    dataset in the layout of BUSI; `run/`, the training; `evaluation/`, with scores and figures of the phantoms that the
    training has not seen; `predictions/`, of three of those; and `saved_model/`. A second run in the same folder
    resumes where the first one stopped.

    Args:
        out: Path of the folder.

    Returns:
        The summary of the evaluation; see `evaluate`.

    Raises:
        FileExistsError: If `out` holds other files than a demo.
    """
    with claim_folder(out, DEMO) as out:
        return _run_demo(out)


def _run_demo(out):
    began = time.monotonic()
    write_text(out / DEMO.marker, json.dumps({"phantoms_per_class": PHANTOMS_PER_CLASS}) + "\n")

    note("1/6  The model that comes with busseg predicts its sample images: four lesions of BUS-BRA, from its training")
    _predict(Predictor("best"), {sample.path: sample.label for sample in samples()}, out / "first-predictions")

    count = len(CLASSES) * PHANTOMS_PER_CLASS
    note(f"2/6  Drawing {count} phantoms: synthetic ultrasound images")
    write_phantoms(out / "phantoms", PHANTOMS_PER_CLASS, progress=lambda images: track(images, "Drawing"))
    phantoms = find_samples(out / "phantoms")
    split = grouped_splits(phantoms)[0]

    note(f"3/6  Training a small U-Net with {len(split.train) + len(split.validation)} of them")
    fit(load_recipe("demo"), split, out / "run", resume=True)

    note(f"4/6  Scoring it on the {len(split.test)} that it has not seen")
    predictor = Predictor(out / "run")
    evaluation = evaluation_folder(out)
    summary, _ = score_parts(predictor, {"test": split.test}, evaluation, model="run", data="phantoms")
    write_report(evaluation, phantoms, runs=[out / "run"])
    print(format_summary(summary))

    note("5/6  Predicting three of those")
    unseen = {sample.label: sample.image for sample in reversed(split.test)}
    _predict(predictor, {unseen[label]: label for label in CLASSES}, out / "predictions")

    note("6/6  Exporting it to TensorFlow's SavedModel, and comparing both")
    difference = export_saved_model(out / "run", out / "saved_model")
    print(f"     outputs differ by at most {difference:.0e}")
    print(_closing(out, time.monotonic() - began))
    return summary


def _predict(predictor: Predictor, classes: Mapping[Path, str], out: Path) -> None:
    """Predict images into a folder, and print a line for each: its true class, and what was predicted."""
    for row in predict_files(predictor, {image: Path(image.stem) for image in classes}, out):
        print(f"     {classes[Path(row['file'])]}: predicted {format_prediction(row)}")


def _closing(out, seconds):
    return f"""
Done in {seconds:.0f} s. Phantoms are drawn: scores on them say nothing about patients.

Open  {evaluation_folder(out) / REPORT}
      {out / "first-predictions"}, with the lesions outlined
Type  busseg predict scan.png                  to predict your own scan
      busseg train my-images --out runs/mine   to train on your own images and masks
      busseg --help                            for the rest"""
