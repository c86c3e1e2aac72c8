import io
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from busseg.imaging.images import write_image
from busseg.inference.prediction import Failure, Prediction


@pytest.fixture
def folder(tmp_path):
    """Two images, a broken one, an animation of two frames, and a text: grey values 51, 102, and 0 and 255."""
    write_image(tmp_path / "a.png", np.full((20, 30), 51, np.uint8))
    write_image(tmp_path / "in" / "b.png", np.full((20, 30), 102, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"")
    frames = [Image.new("L", (30, 20), grey) for grey in (0, 255)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def content(path):
    return path.read_bytes()


def grey_of(prediction):
    (grey,) = np.unique(prediction.image)
    return int(grey)


# === One image ===
@pytest.mark.parametrize(
    "form",
    [
        lambda path: path,
        str,
        content,
        Image.open,
        lambda path: np.asarray(Image.open(path)),
        lambda path: np.asarray(Image.open(path).convert("RGBA")) / 255,
    ],
    ids=["path", "text", "bytes", "pillow", "grey", "rgba of floats"],
)
def test_one_image_in_any_form_gives_one_prediction(echo_predictor, folder, form):
    prediction = echo_predictor.predict(form(folder / "a.png"))
    assert isinstance(prediction, Prediction)
    assert grey_of(prediction) == 51
    # 20 of 30 rows of the square are image: 51 / 255 * 21 / 32, for round(20 * 32 / 30) = 21
    assert prediction.probabilities[1] == pytest.approx(0.2 * 21 / 32, abs=1e-6)
    assert prediction.frame is None


def test_bytes_of_an_image_come_from_a_buffer(echo_predictor):
    buffer = io.BytesIO()
    Image.new("L", (30, 20), 9).save(buffer, "PNG")
    assert grey_of(echo_predictor.predict(buffer.getbuffer())) == 9


def test_only_a_file_gives_a_path(echo_predictor, folder):
    assert echo_predictor.predict(str(folder / "a.png")).path == folder / "a.png"
    assert echo_predictor.predict(content(folder / "a.png")).path is None


def test_one_frame_of_dicom_is_one_prediction_with_its_scale(echo_predictor, write_scan, tmp_path):
    pixels = np.full((20, 30), 51, np.uint8)
    path = write_scan(tmp_path / "scan.dcm", pixels, region=(0, 0, 30, 20), spacing_cm=(0.01, 0.02))
    prediction = echo_predictor.predict(path)
    assert (grey_of(prediction), prediction.path, prediction.spacing_mm) == (51, path, (0.2, 0.1))


def test_dicom_keeps_its_image_black_outside_the_region(echo_predictor, write_scan, tmp_path):
    path = write_scan(tmp_path / "scan.dcm", np.full((20, 30), 200, np.uint8), region=(10, 0, 20, 20))
    image = echo_predictor.predict(path).image
    assert (set(np.unique(image[:, :10])), set(np.unique(image[:, 10:]))) == ({0}, {200})


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("gone.png", FileNotFoundError, "Expected an image or a folder of images, found nothing: gone.png"),
        ("gone/*.png", FileNotFoundError, "Expected images that match the pattern, found none: gone"),
        ("https://example.org/a.png", FileNotFoundError, "Expected a file or a folder, found a URL"),
        (7, ValueError, "Expected a path, a NumPy array, a Pillow image or the bytes of an image file, found int$"),
        (np.array(["a.png", "b.png"]), ValueError, r"Expected grey values .*; give several images as a list: list\("),
    ],
)
def test_wrong_source_is_refused_at_the_call(echo_predictor, source, error, message):
    with pytest.raises(error, match=f"^{message}"):
        echo_predictor.predict(source)


def test_one_broken_image_raises(echo_predictor, folder):
    with pytest.raises(ValueError, match=r"^Expected an image, found an empty file .*broken.png$"):
        echo_predictor.predict(folder / "broken.png")


class Tensor:
    """An array of another library: its rows can be iterated, but are no images."""

    def __array__(self, dtype=None, copy=None):
        return np.zeros((4, 4), np.uint8)

    def __iter__(self):
        return iter(np.zeros((4, 4), np.uint8))


def test_tensor_of_another_library_is_not_taken_apart(echo_predictor):
    with pytest.raises(ValueError, match=r"found Tensor; convert it: numpy.asarray\(image\)$"):
        echo_predictor.predict(Tensor())


# === Several ===
def test_clip_gives_its_frames(echo_predictor, folder):
    found = echo_predictor.predict(folder / "clip.gif")
    assert isinstance(found, Iterator)
    assert [(one.frame, grey_of(one), one.path.name) for one in found] == [(1, 0, "clip.gif"), (2, 255, "clip.gif")]


def test_folder_gives_its_images_and_says_what_it_leaves_out(echo_predictor, folder):
    with pytest.warns(UserWarning, match=r"^passed over 1 files that are not read: 1 text \(notes.txt\): ") as caught:
        found = list(echo_predictor.predict(folder))
    assert caught[0].filename == __file__
    names = [(one.path.name, one.frame, one.error is None) for one in found]
    assert names == [
        ("a.png", None, True), ("broken.png", None, False), ("clip.gif", 1, True), ("clip.gif", 2, True),
        ("b.png", None, True),
    ]  # fmt: skip


def test_pattern_gives_what_matches(echo_predictor, folder):
    found = list(echo_predictor.predict(str(folder / "**" / "[ab].png")))
    assert [grey_of(one) for one in found] == [51, 102]


def test_list_may_mix_all_forms_and_keeps_the_place_of_each(echo_predictor, folder):
    grey = np.full((20, 30), 7, np.uint8)
    sources = [folder / "a.png", "gone.png", grey, 7, content(folder / "a.png"), folder / "in", Image.fromarray(grey)]
    found = list(echo_predictor.predict(sources))
    assert [one.error or grey_of(one) for one in found] == [
        51,
        "Expected an image or a folder of images, found nothing: gone.png",
        7,
        "Expected a path, a NumPy array, a Pillow image or the bytes of an image file, found int: image 4 of several",
        51,
        102,
        7,
    ]
    assert [isinstance(one, Failure) for one in found] == [False, True, False, True, False, False, False]


def test_files_of_one_name_in_two_folders_are_both_predicted(echo_predictor, folder):
    write_image(folder / "in" / "a.png", np.full((20, 30), 99, np.uint8))
    found = echo_predictor.predict([folder / "a.png", folder / "in" / "a.png"])
    assert [grey_of(one) for one in found] == [51, 99]


def test_endless_iterable_is_read_as_needed(echo_predictor, four_threads):
    given = []

    def endless():
        while True:
            given.append(np.full((20, 30), 51, np.uint8))
            yield given[-1]

    stream = echo_predictor.predict(endless())
    assert [grey_of(next(stream)) for _ in range(30)] == 30 * [51]
    stream.close()
    # Eight batches of four that are taken, three that are predicted or next, and what is read ahead.
    assert len(given) <= 8 * 4 + 3 * 4 + 16 + 1


def test_empty_list_gives_nothing(echo_predictor):
    assert list(echo_predictor.predict([])) == []


# === Fast ===
def test_predicting_loads_neither_keras_nor_matplotlib():
    code = """
import sys, busseg
predictor = busseg.Predictor("small")
prediction = predictor.predict(busseg.samples()[0].path)
list(predictor.predict([busseg.samples()[1].path]))
print(repr(prediction), prediction.to_dict()["label"], len(prediction._repr_png_()) > 0)
print(sys.modules.keys() & {"tensorflow", "keras", "matplotlib", "pydicom", "albumentations"})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nset()\n")
