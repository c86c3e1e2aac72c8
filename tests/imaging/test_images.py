from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busseg.imaging.images import (
    fit_to_native,
    fit_to_square,
    is_image,
    read_image,
    read_mask,
    read_mask_file,
    write_image,
)

GREY = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)  # 2 rows, 3 columns


def save(path, image, **options):
    image.save(path, **options)
    return path


def noise(height=64, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


# === Reading ===
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_values_come_back_from_every_mode(tmp_path, mode):
    path = save(tmp_path / "a.png", Image.fromarray(GREY).convert(mode))
    with Image.open(path) as image:
        assert image.mode == mode
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, GREY)


def test_colours_come_back(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", Image.fromarray(colours)), colour=True), colours)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "1", "I;16"])
def test_every_mode_reads_as_three_channels(tmp_path, mode):
    image = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    path = save(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(path, colour=True), np.repeat(read_image(path)[..., None], 3, axis=2))


def test_transparent_colours_are_laid_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (200, 0, 100, 0))
    image.putpixel((1, 0), (200, 0, 100, 255))
    read = read_image(save(tmp_path / "a.png", image), colour=True)
    assert read.tolist() == [[[255, 255, 255], [200, 0, 100]]]


def test_one_bit_reads_as_0_and_255(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(GREY > 127))
    with Image.open(path) as image:
        assert image.mode == "1"
    np.testing.assert_array_equal(read_image(path), [[0, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_in_use_are_scaled_by_their_full_range(tmp_path, suffix):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values * 257))  # 255 * 257 = 65535
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
    np.testing.assert_array_equal(read_image(path), values)


@pytest.mark.parametrize(
    ("greatest", "white"),
    [(1, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (4096, 16383), (16384, 65535)],
)
def test_sixteen_bits_are_scaled_by_the_fewest_that_hold_the_greatest(tmp_path, greatest, white):
    values = np.array([[0, greatest // 2, greatest]], np.uint16)
    path = save(tmp_path / "a.png", Image.fromarray(values))
    np.testing.assert_array_equal(read_image(path), np.round(values / (white / 255)))


def test_eight_bits_stay_as_they_are_however_dark(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", Image.fromarray(GREY // 16))), GREY // 16)


def test_sixteen_bits_are_rounded_to_the_nearest_grey(tmp_path):
    values = np.array([[0, 128, 129, 65535 - 128]], np.uint16)  # / 257 = 0, 0.498, 0.502, 254.502
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", Image.fromarray(values))), [[0, 0, 1, 255]])


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((255, 0, 0), 76),  # 0.299 * 255 = 76.2
        ((0, 255, 0), 150),  # 0.587 * 255 = 149.7
        ((0, 0, 255), 29),  # 0.114 * 255 = 29.1
        ((255, 255, 0), 226),  # 0.886 * 255 = 225.9: yellow calipers are bright
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_turns_to_luma(tmp_path, colour, expected, mode):
    path = save(tmp_path / "a.png", Image.new("RGB", (3, 2), colour).convert(mode))
    np.testing.assert_array_equal(read_image(path), np.full((2, 3), expected))


@pytest.mark.parametrize(("mode", "colour"), [("LA", (200,)), ("RGBA", (200, 200, 200))])
@pytest.mark.parametrize(("alpha", "expected"), [(255, 200), (0, 0), (51, 40)])  # 200 * 51 / 255 = 40
def test_transparent_pixels_lie_on_black(tmp_path, mode, colour, alpha, expected):
    path = save(tmp_path / "a.png", Image.new(mode, (3, 2), (*colour, alpha)))
    np.testing.assert_array_equal(read_image(path), np.full((2, 3), expected))


def test_transparent_palette_entry_lies_on_black(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([200, 200, 200, 100, 100, 100])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", image, transparency=0)), [[0, 100]])


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_that_a_camera_noted_is_applied(tmp_path, turn):
    # EXIF tag 274: how the stored rows and columns must be turned to show the image.
    upright = GREY
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[274] = turn
    path = save(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.tiff", "A.PNG", "A.BMP", "A.Tif", "ü (1) [x].png"])
def test_lossless_formats_come_back_exactly(tmp_path, name):
    np.testing.assert_array_equal(read_image(save(tmp_path / name, Image.fromarray(GREY))), GREY)


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "A.JPG"])
def test_jpeg_comes_back_within_its_loss(tmp_path, name):
    ramp = np.tile(np.arange(0, 240, 3, dtype=np.uint8), (16, 1))
    read = read_image(save(tmp_path / name, Image.fromarray(ramp), quality=95))
    assert np.abs(read.astype(int) - ramp).max() <= 3


def test_format_is_recognised_by_the_content_not_the_suffix(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.jpg", Image.fromarray(GREY), format="PNG")), GREY)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", True),
        ("A.PNG", True),
        ("a.JpEg", True),
        ("a b (1).tiff", True),
        ("Thumbs.db", False),
        (".DS_Store", False),
        ("._a.png", False),
        ("notes.txt", False),
        ("png", False),
    ],
)
def test_image_names(name, expected):
    assert is_image(Path("somewhere") / name) is expected


# === Masks ===
def test_lesion_is_the_union_of_its_masks(tmp_path):
    first, second = np.zeros((2, 4, 5), np.uint8)
    first[1, 1:3] = 255
    second[1, 2:4] = 255
    paths = [save(tmp_path / f"{i}.png", Image.fromarray(mask)) for i, mask in enumerate((first, second))]
    lesion = read_mask(paths, (4, 5))
    assert lesion.dtype == np.uint8
    assert np.argwhere(lesion).tolist() == [[1, 1], [1, 2], [1, 3]]
    assert lesion.max() == 1  # the pixel that both hold is not counted twice


def test_mask_is_cut_between_127_and_128(tmp_path):
    np.testing.assert_array_equal(
        read_mask([save(tmp_path / "a.png", Image.fromarray(GREY))], GREY.shape), [[0, 0, 0], [1, 1, 1]]
    )


def test_mask_of_zeros_and_ones_is_read_as_such(tmp_path):
    Image.fromarray(np.array([[0, 1, 1, 0]], np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask([tmp_path / "mask.png"], (1, 4)), [[0, 1, 1, 0]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_mask_in_colours_is_read_by_their_brightest_channel(tmp_path, mode):
    colours = [[(255, 0, 0), (0, 255, 0), (0, 0, 255), (127, 127, 0), (0, 0, 0)]]
    path = save(tmp_path / "mask.png", Image.fromarray(np.uint8(colours)).convert(mode, palette=Image.Palette.ADAPTIVE))
    np.testing.assert_array_equal(read_mask_file(path), [[255, 255, 255, 127, 0]])
    np.testing.assert_array_equal(read_mask([path], (1, 5)), [[1, 1, 1, 0, 0]])


def test_transparent_part_of_a_mask_is_no_lesion(tmp_path):
    pixels = np.uint8([[(255, 255, 255, 255), (255, 255, 255, 0)]])
    path = save(tmp_path / "mask.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(read_mask([path], (1, 2)), [[1, 0]])


def test_no_mask_file_is_no_lesion():
    assert not read_mask([], (4, 5)).any()


def test_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    path = save(tmp_path / "a_mask.png", Image.fromarray(GREY))
    with pytest.raises(ValueError, match=r"^Expected a mask of 4 x 2 px .*, found 3 x 2 px: .*a_mask\.png$"):
        read_mask([path], (2, 4))


# === Writing ===
@pytest.mark.parametrize("name", ["a.png", "a.BMP", "a.tif"])
def test_written_image_comes_back(tmp_path, name):
    write_image(tmp_path / "new" / name, GREY)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / name), GREY)


def test_every_second_column_can_be_written(tmp_path):
    write_image(tmp_path / "a.png", GREY[:, ::2])  # a view that is not contiguous
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[0, 127], [128, 255]])


def test_colour_is_written_as_colour(tmp_path):
    write_image(tmp_path / "a.png", np.full((2, 3, 3), (255, 0, 0), np.uint8))
    with Image.open(tmp_path / "a.png") as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)


def test_name_that_is_no_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^Expected a file name that ends in one of \.png.*, found: .*a\.txt$"):
        write_image(tmp_path / "a.txt", GREY)
    assert not any(tmp_path.iterdir())


def test_pixels_that_no_such_file_can_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^Expected pixels that \.png can hold, found 1000001 x 1 px: .*a\.png$"):
        write_image(tmp_path / "a.png", np.zeros((1, 1_000_001), np.uint8))
    assert not any(tmp_path.iterdir())


# === The square ===
SHAPES = {"wide": (100, 400), "tall": (400, 100), "square": (300, 300), "small": (40, 60), "odd": (471, 562)}


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((100, 400), (24, 40), (0, 64)),  # 64 / 400: 16 rows, (64 - 16) / 2 = 24 above
        ((400, 100), (0, 64), (24, 40)),
        ((300, 300), (0, 64), (0, 64)),
        ((30, 20), (0, 64), (10, 53)),  # 64 / 30 * 20 = 42.7: 43 columns, 21 left over, 10 of them before
        ((1, 300), (31, 32), (0, 64)),  # a line stays a line, not nothing
        ((300, 1), (0, 64), (31, 32)),
    ],
)
def test_image_is_centred_with_its_aspect_and_the_rest_is_zero(shape, rows, columns):
    square = fit_to_square(np.full(shape, 200, np.uint8), 64)
    expected = np.zeros((64, 64), np.uint8)
    expected[slice(*rows), slice(*columns)] = 200
    np.testing.assert_array_equal(square, expected)
    assert square.dtype == np.uint8


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_mask_stays_0_or_1_in_the_square(shape):
    mask = (noise(*shape) > 127).astype(np.uint8)
    assert set(np.unique(fit_to_square(mask, 128))) == {0, 1}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_mask_comes_back_to_its_place(shape):
    height, width = shape
    row, column = np.ogrid[:height, :width]
    mask = ((row - 0.4 * height) / (0.2 * height)) ** 2 + ((column - 0.6 * width) / (0.3 * width)) ** 2 < 1
    back = fit_to_native(fit_to_square(mask.astype(np.uint8), 256).astype(np.float32), shape) > 0.5
    assert back.shape == shape
    assert np.sum(mask & back) / np.sum(mask | back) > 0.95


def test_square_of_the_model_size_is_left_alone():
    image = noise(64, 64)
    np.testing.assert_array_equal(fit_to_square(image, 64), image)
    np.testing.assert_array_equal(fit_to_native(image.astype(np.float32), (64, 64)), image)


def test_shrinking_averages():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255  # 0 and 255 in turn, mean 127.5
    assert set(np.unique(fit_to_square(checks.astype(np.uint8), 32))) <= {127, 128}


def test_shrinking_averages_a_line_too():
    dots = np.zeros((1, 256), np.uint8)
    dots[0, ::4] = 200  # mean 50
    assert set(np.unique(fit_to_square(dots, 64)[31])) == {50}


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (2, 301)])
def test_one_pixel_thin_map_comes_back_at_native_size(shape):
    back = fit_to_native(fit_to_square(np.ones(shape, np.uint8), 64).astype(np.float32), shape)
    np.testing.assert_allclose(back, np.ones(shape))
    assert back.dtype == np.float32


def test_padding_does_not_leak_into_the_native_map():
    values = np.zeros((64, 64), np.float32)
    values[:24], values[40:] = 1, 1  # outside the 16 rows that an image of 100 x 400 fills
    assert not fit_to_native(values, (100, 400)).any()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_colours_are_fitted_channel_by_channel(shape):
    colours = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    square = fit_to_square(colours, 64)
    assert square.shape == (64, 64, 3)
    for channel in range(3):
        np.testing.assert_array_equal(square[..., channel], fit_to_square(colours[..., channel], 64))
