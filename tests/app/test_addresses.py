import base64

import cv2
import numpy as np

from busseg.app.addresses import address, png_address, thumbnail


def decoded(address):
    content = base64.b64decode(address.partition(",")[2], validate=True)
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_address_holds_kind_and_content():
    assert address("application/json", b"{}") == "data:application/json;base64,e30="


def test_png_is_lossless_and_keeps_the_order_of_colours():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decoded(png_address(grey)), grey)
    red = np.uint8([[[255, 0, 0]]])
    assert decoded(png_address(red)).tolist() == [[[0, 0, 255]]]  # OpenCV decodes blue, green, red


def test_thumbnail_is_small_and_keeps_the_proportions():
    for shape, expected in (
        ((480, 640), (120, 160)),
        ((640, 480), (160, 120)),
        ((3, 1600), (1, 160)),
        ((8, 8), (160, 160)),
    ):
        assert decoded(thumbnail(np.zeros(shape, np.uint8))).shape[:2] == expected


def test_thumbnail_shows_the_outline_of_the_lesion():
    mask = np.zeros((320, 320), np.uint8)
    mask[100:200, 100:200] = 1  # 50..99 of the 160 pixels of the thumbnail
    image = np.full((320, 320), 90, np.uint8)
    plain, outlined = decoded(thumbnail(image)).astype(int), decoded(thumbnail(image, mask)).astype(int)
    assert np.ptp(plain) <= 2  # JPEG
    blue, _, red = np.moveaxis(outlined, -1, 0)
    assert (red - blue)[50, 75] > 100  # yellow on the upper edge
    assert abs(red - blue)[75, 75] < 20
    assert abs(red - blue)[20, 20] < 20
