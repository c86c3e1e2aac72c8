"""Predict one image: its class, its lesion, and an overlay of the lesion.

python examples/03_predict_and_overlay.py                     the model of example 01, on a new phantom
python examples/03_predict_and_overlay.py runs/card scan.png
"""

import argparse
import subprocess
import sys
from pathlib import Path

from busseg.data.phantom import draw_phantom
from busseg.imaging.images import read_image, write_image
from busseg.inference.overlay import draw_overlay
from busseg.inference.predictor import Predictor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default="runs/example.keras", help="run folder, .keras file or SavedModel")
parser.add_argument("image", nargs="?", help="image file; without it, a phantom is drawn")
parser.add_argument("--out", default="runs/example-overlay.png", help="file for the overlay")
arguments = parser.parse_args()
if arguments.model == parser.get_default("model") and not Path(arguments.model).exists():
    subprocess.run([sys.executable, Path(__file__).with_name("01_train_unet.py")], check=True)

image = read_image(arguments.image) if arguments.image else draw_phantom("benign", seed=1000)[0]
prediction = Predictor(arguments.model).predict(image)

print(f"label: {prediction.label}")
print(f"probabilities of normal, benign, malignant: {prediction.probabilities.round(3)}")
print(f"lesion: {prediction.lesion_px} px, {prediction.lesion_fraction:.1%} of the image")
write_image(arguments.out, draw_overlay(image, prediction))
print(f"Wrote {arguments.out}")
