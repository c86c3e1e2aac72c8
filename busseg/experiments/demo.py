"""The demo: draw phantoms, split, train, evaluate, predict, export, in a minute."""

import json
from pathlib import Path

from rich.progress import track

from busseg.data import find_samples
from busseg.data.phantom import write_phantoms
from busseg.data.splits import PARTS, grouped_splits
from busseg.evaluation.report import write_report
from busseg.evaluation.summary import format_summary
from busseg.experiments.score import score_parts
from busseg.export.formats import export_saved_model
from busseg.inference.batch import predict_files
from busseg.inference.predictor import Predictor
from busseg.storage.claims import claim_folder
from busseg.storage.files import write_text
from busseg.storage.run_folder import DEMO, REPORT, evaluation_folder
from busseg.training.fit import fit
from busseg.training.recipe import load_recipe

PHANTOMS_PER_CLASS = 120


def run_demo(out: str | Path) -> dict:
    """Run the demo.

    The folder `out` then holds `phantoms/`, a dataset in the layout of BUSI; `run/`, the training; `evaluation/`, with
    scores and figures; `predictions/`, of three images the model has not seen; and `saved_model/`. A second run in the
    same folder resumes where the first one stopped.

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
    write_text(out / DEMO.marker, json.dumps({"phantoms_per_class": PHANTOMS_PER_CLASS}) + "\n")
    print("1/5  Drawing phantoms: synthetic B-mode images with and without lesions")
    write_phantoms(out / "phantoms", PHANTOMS_PER_CLASS, progress=lambda images: track(images, "Drawing"))
    samples = find_samples(out / "phantoms")
    split = grouped_splits(samples)[0]

    print("2/5  Training a small U-Net")
    fit(load_recipe("demo"), split, out / "run", resume=True)

    print("3/5  Evaluating")
    predictor = Predictor(out / "run")
    parts = {part: getattr(split, part) for part in PARTS}
    summary, _ = score_parts(predictor, parts, evaluation_folder(out), model="run", data="phantoms")
    write_report(evaluation_folder(out), samples, runs=[out / "run"])
    print(format_summary(summary))

    print("\n4/5  Predicting three images the model has not seen")
    unseen = {sample.label: sample for sample in split.test}
    rows = predict_files(predictor, {s.image: Path(s.image.stem) for s in unseen.values()}, out / "predictions")
    for row in rows:
        print(f"     {Path(row['file']).name}: {row['label']}, lesion {float(row['lesion_fraction']):.1%} of the image")

    print("5/5  Exporting to SavedModel")
    difference = export_saved_model(out / "run", out / "saved_model")
    print(f"     outputs differ from the source's by at most {difference:.0e}")
    print(f"\nDone. Open {evaluation_folder(out) / REPORT}")
    return summary
