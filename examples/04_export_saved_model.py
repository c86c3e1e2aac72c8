"""Export a trained model to SavedModel, and run it with TensorFlow alone.

python examples/04_export_saved_model.py                      the model of example 01
python examples/04_export_saved_model.py runs/card
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from busseg.data.phantom import draw_phantom
from busseg.export.formats import export_saved_model
from busseg.imaging.images import fit_to_square

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default="runs/example.keras", help="run folder or .keras file")
parser.add_argument("--out", default="runs/example-saved-model", help="folder to write")
arguments = parser.parse_args()
if arguments.model == parser.get_default("model") and not Path(arguments.model).exists():
    subprocess.run([sys.executable, Path(__file__).with_name("01_train_unet.py")], check=True)

difference = export_saved_model(arguments.model, arguments.out)
print(f"Wrote {arguments.out}; its outputs differ from the source's by at most {difference:.0e}")

# From here on, busseg only draws the image.
serve = tf.saved_model.load(arguments.out).signatures["serving_default"]
size = serve.structured_input_signature[1]["image"].shape[1]
square = fit_to_square(draw_phantom("malignant", seed=1000)[0], size)
outputs = serve(image=tf.constant(square[None, ..., None], tf.float32))
print(f"label: {np.round(outputs['label'].numpy()[0], 3)} for normal, benign, malignant")
print(f"mask: {outputs['mask'].shape}, {int((outputs['mask'].numpy() >= 0.5).sum())} px of lesion")
