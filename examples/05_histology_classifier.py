"""Classify histology as benign or malignant, on patients that are new to the network, and draw its attention.

python examples/05_histology_classifier.py                    synthetic histology, a minute
python examples/05_histology_classifier.py data/breakhis      real slides, by the recipe histology_cbam, for hours
python examples/05_histology_classifier.py --matrix           a network for each magnification, each tested at all
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from busseg.data import find_samples
from busseg.data.readers.breakhis import MAGNIFICATIONS
from busseg.data.splits import patient_splits
from busseg.data.tissue import write_tissue
from busseg.evaluation.recognition import format_recognition, magnification_matrix, recognition_rates
from busseg.evaluation.scoring import evaluate
from busseg.explain.grad_cam import spatial_attention
from busseg.imaging.images import read_image, write_image
from busseg.inference.overlay import draw_heat
from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import load_keras
from busseg.training.fit import fit
from busseg.training.recipe import Recipe, load_recipe

# For synthetic histology; real slides use the packaged recipe.
QUICK = Recipe(
    task="histology", image_size=64, width=8, depth=3, cbam=True, augmentation="stain", label_loss="crossentropy",
    epochs=12, batch_size=8, learning_rate=3e-3, warmup_epochs=1,
)  # fmt: skip

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", help="folder of BreaKHis; without it, synthetic histology is drawn")
parser.add_argument(
    "--out", default="runs/example-histology", help="folder for the runs, the scores and the attention maps"
)
parser.add_argument("--matrix", action="store_true", help="also train at each magnification, and test at all")
arguments = parser.parse_args()
out = Path(arguments.out)
recipe = load_recipe("histology_cbam") if arguments.data else QUICK


def train_and_score(samples, recipe, name):
    """Train on some patients; return the trained network's folder and the rows of its scores on others."""
    split = patient_splits(samples, folds=3)[0]
    fit(recipe, split, out / name)
    _, rows = evaluate(Predictor(out / name), {"test": split.test}, out / name / "evaluation")
    return out / name, split, rows


with tempfile.TemporaryDirectory() as folder:
    if arguments.data is None:
        write_tissue(folder, patients=9, images=3)
    samples = find_samples(arguments.data or folder, task="histology")
    run, split, rows = train_and_score(samples, recipe, "all")
    print(format_recognition(recognition_rates(rows)))

    network = load_keras(run)
    for sample in split.test[:: max(1, len(split.test) // 6)]:
        image = read_image(sample.image, colour=True)
        for name, attention in spatial_attention(network, image).items():
            write_image(out / "attention" / f"{sample.image.stem}-{name}.png", draw_heat(image, attention))
    print(f"Attention maps are in {out / 'attention'}")

    if arguments.matrix:
        rows_of = {}
        for magnification in MAGNIFICATIONS:
            # A quarter of the images; with four times the epochs, as many steps.
            only = replace(recipe, magnification=magnification, epochs=4 * recipe.epochs, patience=4 * recipe.epochs)
            _, _, rows_of[magnification] = train_and_score(samples, only, f"{magnification}X")
        print("patient-level rate, trained at (row), tested at " + ", ".join(f"{m}X" for m in MAGNIFICATIONS))
        for magnification, rates in zip(MAGNIFICATIONS, magnification_matrix(rows_of)):
            print(f"{magnification:4}X " + " ".join(f"{rate:6.3f}" for rate in rates))
