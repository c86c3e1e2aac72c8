import numpy as np
import pytest

from busseg.imaging.images import read_mask, write_image


@pytest.fixture(scope="session")
def add():
    """Function that writes images of 4 x 6 pixels under names in a folder."""

    def add(root, *names):
        for name in names:
            write_image(root / name, np.arange(24, dtype=np.uint8).reshape(4, 6))

    return add


@pytest.fixture(scope="session")
def masks_of():
    """Function that returns the masks of samples of 4 x 6 pixels, as lists."""
    return lambda samples: [read_mask(sample.masks, (4, 6)).tolist() for sample in samples]


@pytest.fixture(scope="session")
def rows():
    """Function that returns a mask as lists, drawn as texts in which # is a pixel of it."""
    return lambda *texts: [[int(character == "#") for character in text] for text in texts]
