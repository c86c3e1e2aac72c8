import numpy as np
import pytest
from PIL import Image

from busseg.imaging.images import read_mask, read_mask_file

SHAPE = (60, 80)
LESION = np.zeros(SHAPE, np.uint8)
LESION[20:40, 30:60] = 1  # 20 * 30 = 600 pixels
TWO = LESION.copy()
TWO[20:40, 45:60] = 2  # 300 pixels of each class
BLACK, WHITE, RED, GREEN, DARK_RED = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (128, 0, 0)


def save(folder, pixels, **options):
    path = folder / options.pop("name", "mask.png")
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def painted(*colours, classes=LESION):
    """An image whose classes have these colours, class 0 the first one."""
    return np.array(colours, np.uint8)[classes]


def with_palette(*colours, classes=LESION):
    image = Image.frombytes("P", classes.shape[::-1], classes.tobytes())
    image.putpalette([channel for colour in colours for channel in colour])
    return image


MASKS = {
    "0 and 255": LESION * 255,
    "1 bit": Image.fromarray(LESION.astype(bool)),
    "0 and 1": LESION,
    "0 and 2": LESION * 2,
    "grey 100": LESION * 100,
    "1 and 2": LESION + 1,
    "light on grey": painted(130, 250),
    "dark on grey": painted(130, 40),
    "16 bit, 0 and 1": LESION.astype(np.uint16),
    "16 bit, 0 and 2": LESION.astype(np.uint16) * 2,
    "16 bit, 0 and 255": LESION.astype(np.uint16) * 255,
    "16 bit, 0 and 300": LESION.astype(np.uint16) * 300,
    "16 bit, 0 and 65535": LESION.astype(np.uint16) * 65535,
    "class numbers 0, 1, 2": TWO,
    "16 bit, class numbers": TWO.astype(np.uint16),
    "class numbers 0, 3, 7": painted(0, 3, 7, classes=TWO),
    "grey levels 0, 127, 255": painted(0, 127, 255, classes=TWO),
    "grey levels 0, 50, 100": painted(0, 50, 100, classes=TWO),
    "palette of labelme and VOC": with_palette(BLACK, DARK_RED),
    "palette of VOC, two classes": with_palette(BLACK, (64, 0, 0), (0, 128, 0), classes=TWO),
    "palette, background green": with_palette(GREEN, DARK_RED),
    "red on black": painted(BLACK, RED),
    "red and green on black": painted(BLACK, RED, GREEN, classes=TWO),
    "CVAT, two classes": painted(BLACK, (250, 50, 83), (36, 179, 83), classes=TWO),
    "dark red on black": painted(BLACK, (40, 0, 0)),
    "the one colour that VOC ignores": painted(BLACK, (224, 224, 192)),
    "red on white": painted(WHITE, RED),
    "red and green on white": painted(WHITE, RED, GREEN, classes=TWO),
    "viridis": painted((68, 1, 84), (253, 231, 37)),
    "black on nothing": painted((0, 0, 0, 0), (0, 0, 0, 255)),
    "white on nothing": painted((255, 255, 255, 0), (255, 255, 255, 255)),
    "red at 40 % on nothing": painted((0, 0, 0, 0), (255, 0, 0, 102)),
    "red and green at 40 % on nothing": painted((0, 0, 0, 0), (*RED, 102), (*GREEN, 102), classes=TWO),
    "all at 40 %": painted((0, 0, 0, 102), (*WHITE, 102)),
    "a hole in black": painted((0, 0, 0, 255), (0, 0, 0, 0)),
    "grey and alpha": Image.fromarray(LESION * 255).convert("LA"),
}


@pytest.mark.parametrize("mask", [pytest.param(mask, id=name) for name, mask in MASKS.items()])
def test_mask_of_every_tool_has_the_same_lesion(tmp_path, mask):
    np.testing.assert_array_equal(read_mask([save(tmp_path, mask)], SHAPE), LESION)


REFUSED = {
    "one grey": (np.full(SHAPE, 100, np.uint8), "the value 100 everywhere"),
    "one colour": (painted(RED, RED), "one colour everywhere"),
    "class numbers without 0": (TWO + 1, "class numbers from 1 to 3 without 0"),
    "a class and 255": (painted(0, 1, 255, classes=TWO), "the class number 1 beside the value 255"),
    "VOC's outline to ignore": (
        with_palette(BLACK, DARK_RED, (224, 224, 192), classes=TWO),
        r"the colour \(224, 224, 192\) beside others, by which VOC means to ignore",
    ),
    "no background": (painted(130, 200, 255, classes=TWO), "3 values, none below 130"),
    "faint and soft": (np.repeat(np.arange(120, dtype=np.uint8), 60).reshape(120, 60).T, "120 values, none above 119"),
}


@pytest.mark.parametrize(("mask", "found"), [pytest.param(*one, id=name) for name, one in REFUSED.items()])
def test_mask_that_is_ambiguous_is_refused_by_name(tmp_path, mask, found):
    path = save(tmp_path, mask)
    with pytest.raises(ValueError, match=rf"^Expected a mask of background and lesion, found {found}: .*mask\.png$"):
        read_mask_file(path)


def test_image_is_no_mask(tmp_path):
    speckle = np.random.default_rng(0).integers(40, 120, (15, 20), np.uint8)
    with pytest.raises(ValueError, match=r"found 79 values, of which 41 fills an area"):
        read_mask_file(save(tmp_path, speckle.repeat(4, axis=0).repeat(4, axis=1)))


@pytest.mark.parametrize(
    "mask", [np.zeros(SHAPE, np.uint8), painted(BLACK, BLACK), painted((9, 9, 9, 0), (0, 0, 0, 0))]
)
def test_empty_mask_is_empty(tmp_path, mask):
    assert not read_mask([save(tmp_path, mask)], SHAPE).any()


@pytest.mark.parametrize("value", [1, 255])
def test_mask_may_be_lesion_everywhere(tmp_path, value):
    assert read_mask([save(tmp_path, np.full(SHAPE, value, np.uint8))], SHAPE).all()


def test_soft_edge_is_cut_between_127_and_128(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (60, 1))
    assert read_mask([save(tmp_path, ramp)], ramp.shape).sum() == 60 * 128
    sixteen = ramp.astype(np.uint16) * 257
    assert read_mask([save(tmp_path, sixteen)], ramp.shape).sum() == 60 * 128


@pytest.mark.parametrize("colours", [(BLACK, WHITE), (BLACK, RED)])
def test_compressed_mask_has_its_lesion_but_for_its_edge(tmp_path, colours):
    path = save(tmp_path, painted(*colours), name="mask.jpg", quality=90, subsampling=0)
    wrong = np.count_nonzero(read_mask([path], SHAPE) != LESION)
    assert wrong <= 100  # the edge is 2 * (20 + 30) pixels long


def test_compressed_dark_mask_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a mask of background and lesion"):
        read_mask_file(save(tmp_path, LESION * 128, name="mask.jpg", quality=75))
