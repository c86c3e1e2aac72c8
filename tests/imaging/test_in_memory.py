import io

import numpy as np
import pytest
from PIL import Image

from busseg.imaging.images import MAX_SIDE_PX, read_image
from busseg.imaging.in_memory import count_pixels_in_memory, to_pixels

GREY = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)  # 2 rows, 3 columns
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def content(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# === Arrays ===
@pytest.mark.parametrize(
    "array",
    [
        GREY,
        GREY[..., None],
        np.repeat(GREY[..., None], 3, axis=2),  # the luma of equal channels is their value
        GREY.astype(np.uint16),  # at most 255, so 8 bits are in use
        GREY.astype(np.uint16) * 257,  # 255 * 257 = 65535: 16 bits
        GREY.astype(np.float32) / 255,
        GREY.astype(np.float64),
        GREY.astype(np.float16) / np.float16(255),
        np.asfortranarray(GREY),
    ],
    ids=["uint8", "one channel", "rgb", "8 in 16 bits", "16 bits", "0 to 1", "0 to 255", "half", "column by column"],
)
def test_grey_values_come_back_from_every_type_and_range(array):
    found = to_pixels(array)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, GREY)


def test_twelve_bits_are_scaled_by_4095():
    # 2047.5 / 4095 * 255 = 127.5; 2048 -> 127.53 -> 128
    np.testing.assert_array_equal(to_pixels(np.uint16([[0, 2048, 4095]])), [[0, 128, 255]])


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_read_as_in_a_file(tmp_path, mode, colour):
    image = Image.fromarray(RGB).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(RGB[..., 0]))
    image.save(tmp_path / "a.png")
    expected = read_image(tmp_path / "a.png", colour=colour)
    array = np.asarray(image)
    for given in (array, array.astype(np.uint16), array.astype(np.float32) / 255, image, content(image)):
        np.testing.assert_array_equal(to_pixels(given, colour=colour), expected)


def test_luma_is_that_of_rgb_and_opacity_zero_is_black():
    # Red 0.299 * 255 = 76.2; blue 0.114 * 255 = 29.1
    np.testing.assert_array_equal(to_pixels(np.uint8([[[255, 0, 0], [0, 0, 255]]])), [[76, 29]])
    np.testing.assert_array_equal(to_pixels(np.uint8([[[200, 200, 200, 0], [200, 200, 200, 255]]])), [[0, 200]])


def test_blank_floats_are_black():
    np.testing.assert_array_equal(to_pixels(np.zeros((2, 2))), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 2), bool), r"uint16 or float, found \(2, 2\) bool; a mask of 0 and 1 .*astype\(numpy.uint8\)"),
        (np.ones((2, 2), int), r"found \(2, 2\) int64; convert it: image.astype\(numpy.uint8\) for values of 0 to 255"),
        (np.ones((2, 2), np.uint32), r"found \(2, 2\) uint32; convert it: image.astype\(numpy.uint16\)$"),
        (np.ones((2, 2), complex), r"found \(2, 2\) complex128$"),
        (np.full((2, 2), -0.1), r"floats of 0 to 1 or 0 to 255, found -0.1 to -0.1; scale them: \(image - "),
        (np.full((2, 2), 255.5), r"found 255.5 to 255.5; scale them"),
        (np.full((2, 2), np.nan), r"found nan to nan; scale them"),
        (np.full((2, 2), 1.02), r"found 1.02 to 1.02, which may be either; convert them: image.clip\(0, 1\), or"),
        (np.full((2, 2), 15.9), r"which may be either"),
        (np.zeros((3, 20, 30), np.uint8), r"found \(3, 20, 30\) uint8; .*image.transpose\(1, 2, 0\)$"),
        (np.zeros((1, 20, 30), np.uint8), r"image.transpose\(1, 2, 0\)$"),
        (np.zeros((8, 20, 30), np.uint8), r"found \(8, 20, 30\) uint8; give several images as a list: list\(images\)$"),
        (np.zeros((8, 20, 30, 3), np.uint8), r"list\(images\)$"),
        (np.zeros((20, 30, 2), np.uint8), r"found \(20, 30, 2\) uint8"),
        (np.zeros(5, np.uint8), r"grey values \(height, width\), or colours .*, found \(5,\) uint8$"),
        (np.zeros((0, 5), np.uint8), r"found \(0, 5\) uint8$"),
        (np.zeros((1, MAX_SIDE_PX + 1), np.uint8), r"pixels a side, found 32768 x 1: array \(1, 32768\) uint8$"),
    ],
)  # fmt: skip
def test_ambiguous_array_is_refused_with_the_way_to_convert_it(array, message):
    with pytest.raises(ValueError, match=f"^Expected .*{message}") as caught:
        to_pixels(array)
    assert "\n" not in str(caught.value)


def test_float_image_of_0_to_255_begins_at_a_maximum_of_16():
    np.testing.assert_array_equal(to_pixels(np.float32([[0, 16]])), [[0, 16]])


def test_grey_array_is_refused_for_colours():
    with pytest.raises(ValueError, match=r"^Expected colours .*found grey values \(2, 3\) uint8; .*numpy.stack"):
        to_pixels(GREY, colour=True)


# === Pillow ===
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "1", "CMYK", "I;16"])
def test_pillow_image_reads_as_its_file(tmp_path, mode):
    image = Image.fromarray(RGB[..., 0].astype(np.uint16) * 257 if mode == "I;16" else RGB)
    image = image if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(to_pixels(image), read_image(tmp_path / "a.tif"))
    image.getpixel((0, 0))  # still open


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pillow_image_of_32_bits_is_refused(mode):
    with pytest.raises(
        ValueError, match=f"^Expected 8 or 16 bits a channel, found 32: Pillow image of mode {mode}, 30 x 20 px$"
    ):
        to_pixels(Image.new(mode, (30, 20)))


def test_pillow_image_with_several_frames_is_refused():
    animated = content(Image.new("L", (8, 8)), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 99)])
    with pytest.raises(ValueError, match=r"^Expected a single image, found 2 frames: Pillow image of mode [LP], "):
        to_pixels(Image.open(io.BytesIO(animated)))


# === Bytes ===
@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_content_of_a_file_reads_as_the_file(tmp_path, format, kind):
    (tmp_path / "a").write_bytes(content(Image.fromarray(RGB), format))
    np.testing.assert_array_equal(to_pixels(kind((tmp_path / "a").read_bytes())), read_image(tmp_path / "a"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "found none: 0 bytes"),
        (b"\0" * 9, "found others; write them to a file and give its path: 9 bytes"),
        (b"\0" * 128 + b"DICM", "found DICOM; write them to a file and give its path: 132 bytes"),
        (content(Image.fromarray(RGB), "WEBP"), r"found WebP; write them to a file and give its path: \d+ bytes"),
    ],
)
def test_other_bytes_are_refused_by_their_kind(given, message):
    with pytest.raises(ValueError, match=f"^Expected the bytes of a PNG, JPEG, BMP or TIFF image, {message}$"):
        to_pixels(given)


def test_half_a_file_is_refused():
    half = content(Image.fromarray(RGB))[:-200]
    with pytest.raises(ValueError, match=rf"^Expected a complete image, found .*\): {len(half)} bytes$"):
        to_pixels(half)


def test_jpeg_of_too_many_scans_is_refused_from_file_and_bytes(tmp_path):
    given = content(Image.fromarray(RGB), "JPEG", progressive=True)
    to_pixels(given)
    attack = given + 101 * b"\xff\xda"
    (tmp_path / "a.jpg").write_bytes(attack)
    for read, argument in ((to_pixels, attack), (read_image, tmp_path / "a.jpg")):
        with pytest.raises(ValueError, match=r"^Expected a JPEG of at most 100 scans, found 1\d\d"):
            read(argument)


# === Others ===
class Tensor:
    """Of another library, as NumPy sees it."""

    def __array__(self, dtype=None, copy=None):
        return GREY


@pytest.mark.parametrize(
    ("given", "found"),
    [(7, "int"), (None, "NoneType"), (Tensor(), r"Tensor; convert it: numpy.asarray\(image\)")],
)
def test_other_objects_are_refused_by_their_type(given, found):
    with pytest.raises(ValueError, match=f"^Expected a path, .* or the bytes of an image file, found {found}$"):
        to_pixels(given)


def test_pixels_are_counted_without_decoding():
    assert count_pixels_in_memory(GREY) == 2 * 3
    assert count_pixels_in_memory(Image.new("L", (30, 20))) == 30 * 20
    assert count_pixels_in_memory(b"\x89PNG") == 0
