"""Files that `read_image` refuses, by name and in one line."""

import errno
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from busseg.imaging.images import MAX_PIXELS, MAX_SIDE_PX, count_pixels, read_image

GREY = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)  # 2 rows, 3 columns


def save(path, image, **options):
    image.save(path, **options)
    return path


def noise(height=64, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def claimed_png(width, height):
    """A PNG of 8-bit grey that holds its header and the first pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))


def encoded(folder, name, image, **options):
    return save(folder / f"whole-{name}", image, **options).read_bytes()


CLAIMED = 30_000  # 30,000 * 30,000 = 900 million pixels
BROKEN = {
    "empty.png": (lambda folder: b"", r"found an empty file \(0 bytes\)"),
    "text.png": (lambda folder: b"not an image\n", "found something else"),
    "half.png": (lambda folder: (data := encoded(folder, "half.png", Image.fromarray(noise())))[: len(data) // 2],
                 "found a broken file"),
    "half.jpg": (lambda folder: (data := encoded(folder, "half.jpg", Image.fromarray(noise())))[: len(data) // 2],
                 "found a broken file"),
    "half.bmp": (lambda folder: (data := encoded(folder, "half.bmp", Image.fromarray(noise())))[: len(data) // 2],
                 "found a broken file"),
    "half.tif": (lambda folder: (data := encoded(folder, "half.tif", Image.fromarray(noise())))[: len(data) // 2],
                 "found"),
    "header.png": (lambda folder: claimed_png(8, 8)[:20], "found a broken file"),
    "large.png": (lambda folder: claimed_png(10_000, 10_000), "at most 25000000 pixels, found 10000 x 10000"),
    "bomb.png": (lambda folder: claimed_png(CLAIMED, CLAIMED), "at most 25000000 pixels, found more"),
    "gif.png": (lambda folder: encoded(folder, "gif.gif", Image.fromarray(GREY)), "found something else"),
    "pages.tif": (lambda folder: encoded(folder, "pages.tif", Image.fromarray(GREY), save_all=True,
                                         append_images=[Image.fromarray(GREY)]), "found 2 frames"),
    "moving.png": (lambda folder: encoded(folder, "moving.png", Image.fromarray(GREY), save_all=True,
                                          append_images=[Image.fromarray(255 - GREY)]), "found 2 frames"),
    "float.tif": (lambda folder: encoded(folder, "float.tif", Image.fromarray(GREY.astype(np.float32))), "found 32"),
    "integer.tif": (lambda folder: encoded(folder, "int.tif", Image.fromarray(GREY.astype(np.int32))), "found 32"),
    "lab.tif": (lambda folder: encoded(folder, "lab.tif", Image.frombytes("LAB", (2, 1), bytes(6))), "found CIE Lab"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BROKEN)
def test_bad_file_is_refused_in_one_line_that_names_it_and_what_was_found(tmp_path, name):
    content, found = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content(tmp_path))
    with pytest.raises(ValueError, match=rf"^Expected .*{found}") as error:
        read_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's warning, before our error
@pytest.mark.parametrize("cut", range(8, 200, 7))
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_file_cut_anywhere_is_refused_by_name(tmp_path, suffix, cut):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise()))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"^Expected .*found.*: .*a\.{suffix}$"):
        read_image(path)


def test_header_that_pillow_rejects_by_a_bare_value_error_is_refused_by_name(tmp_path):
    path = tmp_path / "a.png"
    # The header's first chunk says 12 bytes, one too few.
    path.write_bytes(claimed_png(8, 8).replace(struct.pack(">I", 13) + b"IHDR", struct.pack(">I", 12) + b"IHDR"))
    with pytest.raises(ValueError, match=r"^Expected .*found.*: .*a\.png$"):
        read_image(path)


def test_largest_image_is_allowed_by_its_header_and_one_more_column_is_not(tmp_path):
    for width, found in ((MAX_PIXELS // 5000, "broken file"), (MAX_PIXELS // 5000 + 1, "found 5001 x 5000")):
        path = tmp_path / "a.png"
        path.write_bytes(claimed_png(width, 5000))
        with pytest.raises(ValueError, match=found):
            read_image(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected an image file, found nothing: .*gone\.png$"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize(("width", "height"), [(1_000_001, 1), (1, 1_000_001), (MAX_SIDE_PX + 1, 2)])
def test_side_that_is_too_long_is_refused(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(claimed_png(width, height))
    with pytest.raises(ValueError, match=rf"^Expected at most 32767 pixels a side, found {width} x {height}: "):
        read_image(tmp_path / "a.png")


def with_chunk(folder, name):
    """A whole PNG with an empty chunk of a kind behind its header."""
    whole = encoded(folder, "a.png", Image.fromarray(GREY).convert("RGB"))
    end = 8 + 25  # the signature, and the header with its length, name and checksum
    return whole[:end] + struct.pack(">I", 0) + name + struct.pack(">I", zlib.crc32(name)) + whole[end:]


def broken_exif(folder):
    """A JPEG that a camera turned, and whose EXIF gives its width in letters."""
    entries = [(0x0100, 2, 3, 0x61620000), (0x0112, 3, 1, 6 << 16)]  # tag, kind, count, value
    directory = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHLL", *entry) for entry in entries)
    return encoded(folder, "a.jpg", Image.fromarray(GREY), exif=b"Exif\0\0MM\0*\0\0\0\x08" + directory + bytes(4))


def test_jpeg_that_is_refined_over_and_over_is_refused(tmp_path):
    """Each scan goes over all the pixels: a file of some kB would take minutes."""
    whole = encoded(tmp_path, "a.jpg", Image.fromarray(noise()), progressive=True)
    start, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    assert whole.count(b"\xff\xda") < 20
    for count in (10, 200):
        (tmp_path / f"{count}.jpg").write_bytes(whole[:end] + whole[start:end] * count + whole[end:])
    assert read_image(tmp_path / "10.jpg").shape == (64, 80)
    with pytest.raises(ValueError, match=r"^Expected a JPEG of at most 100 scans, found 2\d\d: .*200\.jpg$"):
        read_image(tmp_path / "200.jpg")


ENDS_IN_PILLOW = {
    "gAMA.png": lambda folder: with_chunk(folder, b"gAMA"),
    "tRNS.png": lambda folder: with_chunk(folder, b"tRNS"),
    "pHYs.png": lambda folder: with_chunk(folder, b"pHYs"),
    "iCCP.png": lambda folder: with_chunk(folder, b"iCCP"),
    "short.tif": lambda folder: b"MM\0*\0\0\0\x08",
    "exif.jpg": broken_exif,
}


@pytest.mark.parametrize("name", ENDS_IN_PILLOW)
def test_what_pillow_raises_is_the_error_of_the_file(tmp_path, name):
    (tmp_path / name).write_bytes(ENDS_IN_PILLOW[name](tmp_path))
    with pytest.raises(ValueError, match=rf"^Expected .*found.*: .*{name}$"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), struct.error("short"), AssertionError()])
def test_any_error_of_a_decoder_names_the_file(tmp_path, monkeypatch, error):
    def fail(image):
        raise error

    path = save(tmp_path / "a.png", Image.fromarray(GREY))
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    with pytest.raises(ValueError, match=r"^Expected a complete image, found a broken file \(\w+\): .*a\.png$"):
        read_image(path)


def test_error_of_the_system_is_raised_as_such(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(errno.EMFILE, "Too many open files", "a.png")

    path = save(tmp_path / "a.png", Image.fromarray(GREY))
    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(OSError, match=r"Too many open files: 'a\.png'"):
        read_image(path)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes and devices")
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name, found in (("pipe", "a named pipe"), ("folder", "a folder"), ("device", "a device")):
        with pytest.raises(ValueError, match=rf"^Expected an image file, found {found}: .*{name}\.png$"):
            read_image(tmp_path / f"{name}.png")


def test_pixels_are_counted_by_the_header_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(claimed_png(300, 200))
    (tmp_path / "b.png").write_text("no image")
    assert [count_pixels(tmp_path / name) for name in ("a.png", "b.png", "gone.png")] == [60_000, 0, 0]
