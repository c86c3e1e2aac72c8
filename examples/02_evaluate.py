"""Score a trained model at native size: classification report, Dice, and a review sheet.

python examples/02_evaluate.py                                the model of example 01, on new phantoms
python examples/02_evaluate.py runs/card data/busi            a run on the parts it was trained with
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from busseg.data import find_samples
from busseg.data.phantom import write_phantoms
from busseg.data.splits import PARTS, read_split
from busseg.evaluation.scoring import evaluate
from busseg.evaluation.summary import format_summary
from busseg.inference.predictor import Predictor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default="runs/example.keras", help="run folder, .keras file or SavedModel")
parser.add_argument("data", nargs="?", help="dataset folder; without it, phantoms are drawn")
parser.add_argument("--out", default="runs/example-evaluation", help="folder for tables and figures")
arguments = parser.parse_args()
if arguments.model == parser.get_default("model") and not Path(arguments.model).exists():
    subprocess.run([sys.executable, Path(__file__).with_name("01_train_unet.py")], check=True)

with tempfile.TemporaryDirectory() as folder:
    if arguments.data is None:
        write_phantoms(folder, per_class=10, seed=1)
    samples = find_samples(arguments.data or folder)
    # A run's folder holds its parts. The scores on its training images show how much it memorised.
    splits = Path(arguments.model) / "splits.csv"
    parts = {"all": samples}
    if splits.exists():
        split = read_split(splits, samples)
        parts = {part: getattr(split, part) for part in PARTS}
    summary, _ = evaluate(Predictor(arguments.model), parts, arguments.out)

print(format_summary(summary))
print(f"Figures are in {arguments.out}/figures")
