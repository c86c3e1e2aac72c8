from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from busseg.data.phantom import draw_phantom
from busseg.imaging.png import encode_png
from busseg.inference.overlay import draw_contour

SCAN = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
MASK = np.uint8(255) * np.pad(np.ones((20, 30), np.uint8), ((9, 8), (11, 12)))


@pytest.mark.parametrize(
    "pixels",
    [SCAN, SCAN[..., 0], MASK, SCAN[:, :1], SCAN[:1, :1, 0], SCAN[::2, ::3], np.zeros_like(MASK)],
    ids=["colour", "grey", "mask", "one column", "one pixel", "view", "empty mask"],
)
def test_other_decoders_read_the_pixels(pixels):
    png = encode_png(pixels)
    with Image.open(BytesIO(png)) as image:
        image.load()  # checks the sums of all chunks
        assert image.mode == ("L" if pixels.ndim == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(image), pixels)
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, pixels if pixels.ndim == 2 else pixels[..., ::-1])


def test_scan_overlay_and_mask_are_as_small_as_opencvs():
    scan, mask = draw_phantom("benign", seed=0)
    for pixels in (scan, draw_contour(scan, mask), 255 * mask):
        assert len(encode_png(pixels)) <= 1.1 * len(cv2.imencode(".png", pixels)[1])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((0, 3), np.uint8),
        np.zeros((2, 3), np.uint16),
        np.zeros((2, 3, 2), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((1_000_001, 1), np.uint8),
    ],
    ids=["nothing", "16 bits", "two channels", "one row", "too tall"],
)
def test_what_png_cannot_hold_is_refused(pixels):
    with pytest.raises(ValueError, match=r"^Expected pixels that PNG can hold, found uint"):
        encode_png(pixels)
