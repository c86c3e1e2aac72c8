"""Train the U-Net with plain Keras: build, compile, fit, evaluate.

python examples/01_train_unet.py                              phantoms, under two minutes on two CPU cores
python examples/01_train_unet.py data/busi --size 128 --epochs 80
"""

import argparse
import tempfile
from pathlib import Path

import keras

from busseg.data import find_samples
from busseg.data.phantom import write_phantoms
from busseg.data.splits import grouped_splits
from busseg.models.unet import build_unet
from busseg.training.batches import Batches
from busseg.training.losses import DiceLoss
from busseg.training.metrics import CleanNormalRate, LesionDice

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", help="dataset folder; without it, phantoms are drawn")
parser.add_argument("--size", type=int, default=64, help="side of the model's square in pixels")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--out", default="runs/example.keras", help="file for the trained model")
arguments = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    if arguments.data is None:
        write_phantoms(folder, per_class=60)
    # One fold of five. Copies of an image are never in two parts.
    split = grouped_splits(find_samples(arguments.data or folder))[0]
    keras.utils.set_random_seed(0)
    train = Batches(split.train, arguments.size, batch_size=8, augmentation="card", shuffle=True)
    validation = Batches(split.validation, arguments.size, batch_size=8)
    test = Batches(split.test, arguments.size, batch_size=8)

    # One input, two outputs: `mask` is where the lesion is, `label` the class of the image.
    model = build_unet(image_size=arguments.size, width=8)
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss={"mask": DiceLoss(), "label": keras.losses.MeanAbsoluteError()},
        metrics={"mask": [LesionDice(), CleanNormalRate()], "label": ["accuracy"]},
    )
    model.fit(train, validation_data=validation, epochs=arguments.epochs, verbose=2)

    for name, value in model.evaluate(test, return_dict=True, verbose=0).items():
        print(f"test {name}: {value:.3f}")

Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
model.save(arguments.out)
print(f"Saved {arguments.out}")
