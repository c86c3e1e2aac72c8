import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.summary import write_scores
from busseg.evaluation.table import fields


@pytest.fixture(scope="session")
def row():
    """Function that returns a row of `per_image.csv`.

    It is of one of ten benign, ten malignant and ten normal images, each a group; right and clean by default.
    """

    def make(number, dice=0.8, label=None, predicted=None, part="test", **more):
        label = label or ("benign", "malignant", "normal")[number % 3]
        values = dict.fromkeys(fields(CLASSES)) | {
            "file": f"{number}.png",
            "part": part,
            "group": f"g{number}",
            "label": label,
        }
        predicted = predicted or label
        values |= {f"p_{name}": 0.8 if name == predicted else 0.1 for name in CLASSES}
        values |= {"predicted": predicted, "width_px": 100, "height_px": 80}
        if label == "normal":
            values |= {"clean": True, "true_px": 0, "predicted_px": 0}
        else:
            values |= dict.fromkeys(("iou", "sensitivity", "precision", "nsd"), dice) | {"dice": dice, "true_px": 50}
            values |= {"predicted_px": 50, "hd95_px": 100 * (1 - dice), "assd_px": 50 * (1 - dice)}
        return values | more

    return make


@pytest.fixture(scope="session")
def folder():
    """Function that writes an evaluation of rows into a new folder, which it returns."""

    def write(path, rows, **about):
        path.mkdir(parents=True)
        write_scores(path, rows, **about)
        return path

    return write


@pytest.fixture(scope="session")
def plain(row, folder):
    """Function that writes an evaluation of images, thirty by default, with a Dice of 0.5, 0.51, ... 0.79."""

    def write(path, numbers=range(30), **about):
        return folder(path, [row(number, 0.5 + 0.01 * number) for number in numbers], **about)

    return write
