import numpy as np
import pytest

from busseg.imaging.images import write_image
from busseg.storage.files import write_csv


def draw(shape, *rectangles):
    """A mask of 0 and 1 with rectangles `(top, bottom, left, right)`, in turn of lesion and of a hole."""
    mask = np.zeros(shape, np.uint8)
    for number, (top, bottom, left, right) in enumerate(rectangles):
        mask[top:bottom, left:right] = number % 2 == 0
    return mask


MASKS = {
    "a b (1)": draw((24, 32), (2, 12, 3, 15), (5, 8, 6, 9), (6, 7, 7, 8)),  # a dot in a hole in a square
    "c": draw((24, 32), (0, 4, 0, 6)) | draw((24, 32), (23, 24, 31, 32)),  # at two corners of the image
    "d": draw((24, 32)),
    "é": draw((24, 32), (4, 6, 4, 6)) | draw((24, 32), (6, 8, 6, 8)),  # two squares that touch at a corner
}
ROWS = {
    "a b (1)": {"label": "benign", "group": "p1", "birads": "3", "pixel_mm": "0.07", "patient": "p1", "split": "train"},
    "c": {"label": "malignant", "group": "p2", "birads": "5", "pixel_mm": "0.08", "patient": "p2", "split": "train"},
    "d": {"label": "normal", "group": "p2", "patient": "p2", "split": "validation"},
    "é": {"label": "benign", "group": "p3", "patient": "p3", "split": "test"},
}


@pytest.fixture
def write_dataset(tmp_path):
    """Function that writes a dataset of busseg's layout, with the columns that it is given, and returns its folder."""

    def write(*columns, name="source", masks=MASKS):
        random = np.random.default_rng(0)
        for stem, mask in masks.items():
            write_image(tmp_path / name / f"images/{stem}.png", random.integers(0, 256, mask.shape, np.uint8))
            write_image(tmp_path / name / f"masks/{stem}.png", mask * np.uint8(255))
        if columns:
            rows = [
                {"file": f"{stem}.png", **{c: row[c] for c in columns if c in row}}
                for stem, row in ROWS.items()
                if stem in masks
            ]
            write_csv(tmp_path / name / "labels.csv", ("file", *columns), rows)
        return tmp_path / name

    return write
