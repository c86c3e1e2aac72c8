import io
from pathlib import Path

import pytest
from PIL import Image

from busseg.data.phantom import draw_phantom


@pytest.fixture(scope="session")
def phantom():
    """A phantom, uint8 `(60, 80)`."""
    return draw_phantom("benign", seed=3, height=60, width=80)[0]


@pytest.fixture(scope="session")
def wheel():
    """Function from the name of a file in pydicom's own package to its path."""
    pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
    return lambda name: Path(pydicom.__file__).parent / "data/test_files" / name


@pytest.fixture(scope="session")
def encode():
    """Function that encodes uint8 pixels in a format of Pillow, and returns the bytes."""

    def encode(pixels, format, **options):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format, **options)
        return buffer.getvalue()

    return encode
