import struct

import cv2
import numpy as np
import pytest
from PIL import Image, features

from busseg.data.phantom import draw_phantom
from busseg.imaging import clip_pixels
from busseg.imaging.clips import find_clip, read_picture
from busseg.imaging.images import read_image

GREY = draw_phantom("benign", seed=1, height=48, width=64)[0]
FRAMES = [draw_phantom("benign", seed=seed, height=48, width=64)[0] for seed in range(1, 31)]
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="needs Pillow with AVIF")


def save(path, *frames, **options):
    """Write frames, uint8 or uint16, by Pillow, as its suffix says."""
    first, *others = map(Image.fromarray, frames)
    first.save(path, **options, **({"save_all": True, "append_images": others} if others else {}))
    return path


def save_video(path, frames, codec):
    video = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, frames[0].shape[::-1])
    assert video.isOpened()
    for frame in frames:
        video.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    video.release()
    return path


# === Images ===
@pytest.mark.parametrize(
    ("name", "options"), [("a.webp", {"lossless": True}), ("a.gif", {}), ("a.jp2", {}), ("a.j2k", {}), ("a.png", {})]
)
def test_lossless_image_comes_back_exactly(tmp_path, name, options):
    path = save(tmp_path / name, GREY, **options)
    np.testing.assert_array_equal(read_picture(path), GREY)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.webp", {"quality": 95}),
        ("a.jfif", {"format": "JPEG", "quality": 95}),
        pytest.param("a.avif", {"quality": 95}, marks=needs_avif),
    ],
)
def test_lossy_image_comes_back_within_its_loss(tmp_path, name, options):
    read = read_picture(save(tmp_path / name, GREY, **options))
    assert np.abs(read.astype(int) - GREY).mean() < 3


def test_colours_come_back(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    for name, options in (("a.webp", {"lossless": True}), ("a.jp2", {}), ("a.png", {})):
        np.testing.assert_array_equal(read_picture(save(tmp_path / name, colours, **options), colour=True), colours)


def test_transparent_pixels_lie_on_black_in_grey(tmp_path):
    image = np.zeros((4, 5, 4), np.uint8)
    image[:, :2] = 200, 200, 200, 255
    image[:, 2:] = 200, 200, 200, 0
    read = read_picture(save(tmp_path / "a.webp", image, lossless=True, exact=True))
    assert read.tolist() == [[200, 200, 0, 0, 0]] * 4


@pytest.mark.parametrize("name", ["a.jp2", "a.png", "a.tif"])
def test_twelve_bits_in_sixteen_span_black_to_white(tmp_path, name):
    values = np.linspace(0, 4095, 48 * 64).round().astype(np.uint16).reshape(48, 64)
    read = read_picture(save(tmp_path / name, values))
    # 4095 / 255 = 16.06 of twelve bits are a grey level; by the range of sixteen, all would be below 16.
    np.testing.assert_array_equal(read, np.round(values / (4095 / 255)))


def test_photograph_of_a_phone_is_one_image_with_any_previews(tmp_path):
    path = save(tmp_path / "a.jpg", GREY, 255 - GREY, format="MPO", quality=95)
    with Image.open(path) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert np.abs(read_picture(path).astype(int) - GREY).mean() < 3


# === Several frames ===
@pytest.mark.parametrize(
    ("name", "options"), [("a.gif", {}), ("a.webp", {"lossless": True}), ("a.tif", {}), ("a.png", {})]
)
def test_frames_come_back_in_any_order(tmp_path, name, options):
    path = save(tmp_path / name, *FRAMES, **options)
    clip = find_clip(path)
    assert (clip.frame_count, clip.shape) == (30, (48, 64))
    for number in (1, 2, 30, 3, 29, 14, 15, 13):
        np.testing.assert_array_equal(clip.read_frame(number), FRAMES[number - 1])
    with pytest.raises(ValueError, match=rf"^Expected a frame 31, found that 30 can be read: {path}$"):
        clip.read_frame(31)
    with pytest.raises(ValueError, match=rf"^Expected a single image, found 30 frames: {path}$"):
        read_picture(path)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v"), ("a.mov", "MJPG")]
)
def test_frames_of_a_video_come_back_within_their_loss(tmp_path, name, codec):
    clip = find_clip(save_video(tmp_path / name, FRAMES, codec))
    assert (clip.frame_count, clip.shape) == (30, (48, 64))
    for number in (1, 30, 2):
        assert np.abs(clip.read_frame(number).astype(int) - FRAMES[number - 1]).mean() < 6


@pytest.mark.parametrize("claimed", [3, 5000])
def test_video_is_read_until_its_end_with_any_number_of_frames_in_its_header(tmp_path, claimed):
    path = save_video(tmp_path / "a.avi", FRAMES, "MJPG")
    content = bytearray(path.read_bytes())
    # In the main header, behind its name and length, are four numbers before that of the frames; in the stream's, eight
    # before its length.
    for header, place in ((b"avih", 8 + 4 * 4), (b"strh", 8 + 8 * 4)):
        struct.pack_into("<I", content, content.index(header) + place, claimed)
    path.write_bytes(content)
    assert cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT) == claimed
    clip = find_clip(path)
    assert clip.frame_count == 30
    assert np.abs(clip.read_frame(30).astype(int) - FRAMES[29]).mean() < 6


def test_pages_of_several_sizes_are_counted_by_the_largest(tmp_path):
    clip = find_clip(save(tmp_path / "a.tif", GREY, np.vstack([GREY, GREY]), GREY[:10]))
    assert (clip.frame_count, clip.shape) == (3, (96, 64))
    assert [clip.read_frame(number).shape for number in (1, 2, 3)] == [(48, 64), (96, 64), (10, 64)]


def test_pages_of_sixteen_bits_share_their_scale(tmp_path):
    dark, bright = GREY.astype(np.uint16), GREY.astype(np.uint16) * 16  # eight bits in use, and twelve
    clip = find_clip(save(tmp_path / "a.tif", dark, bright))
    np.testing.assert_array_equal(clip.read_frame(1), np.round(dark / (4095 / 255)))
    np.testing.assert_array_equal(clip.read_frame(2), np.round(bright / (4095 / 255)))


def test_single_image_of_a_common_format_is_no_clip(tmp_path):
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif"):
        path = save(tmp_path / name, GREY)
        assert find_clip(path) is None
        np.testing.assert_array_equal(read_picture(path), read_image(path))


# === Refusing ===
@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif", "a.jp2", "a.tif"])
@pytest.mark.parametrize("cut", [60, 300, 600])
def test_file_that_is_cut_is_refused_by_name_or_from_the_frame_on_that_is_cut(tmp_path, name, cut):
    path = tmp_path / name
    save_video(path, FRAMES, "mp4v") if name == "a.mp4" else save(path, *(FRAMES if name != "a.jp2" else [GREY]))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"^Expected .*: {path}$"):
        read_all(path)


def read_all(path):
    clip = find_clip(path)
    return [clip.read_frame(number) for number in range(1, clip.frame_count + 1)] if clip else [read_image(path)]


@pytest.mark.parametrize("name", ["a.gif", "a.avi", "a.tif"])
def test_file_of_too_many_frames_is_refused(tmp_path, monkeypatch, name):
    path = tmp_path / name
    save_video(path, FRAMES, "MJPG") if name == "a.avi" else save(path, *FRAMES)
    monkeypatch.setattr(clip_pixels, "MAX_FRAMES", 29)
    with pytest.raises(ValueError, match=rf"^Expected 1 to 29 frames, found more: {path}$"):
        clip_pixels.measure_clip(path, lambda: None)
    monkeypatch.setattr(clip_pixels, "MAX_FRAMES", 30)
    assert clip_pixels.measure_clip(path, lambda: None) == (30, (48, 64))


def test_playlist_that_is_named_like_a_video_is_text(tmp_path):
    """FFmpeg would fetch what it names."""
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost/a.ts\n")
    with pytest.raises(ValueError, match=r"^Expected an image or a video, found text: .*a\.mp4$"):
        find_clip(tmp_path / "a.mp4")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected an image file, found nothing: .*gone\.mp4$"):
        find_clip(tmp_path / "gone.mp4")


def test_file_that_has_changed_is_counted_anew(tmp_path):
    path = save(tmp_path / "a.gif", *FRAMES[:3])
    assert find_clip(path).frame_count == 3
    save(path, *FRAMES[:5])
    assert find_clip(path).frame_count == 5
    np.testing.assert_array_equal(find_clip(path).read_frame(5), FRAMES[4])
