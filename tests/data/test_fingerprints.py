import cv2
import numpy as np
import pytest

from busseg.data import find_samples
from busseg.data.fingerprints import (
    FINGERPRINTS,
    MOST_BITS,
    describe_fingerprints,
    fingerprint,
    fingerprint_samples,
    knows,
    read_fingerprints,
)
from busseg.data.phantom import draw_phantom
from busseg.data.splits import train_on_all
from busseg.imaging.images import read_image


@pytest.fixture(scope="module")
def image():
    return draw_phantom("benign", seed=0)[0]


@pytest.fixture(scope="module")
def fingerprints():
    """Of eight phantoms, of which the first is `image`."""
    return np.stack([fingerprint(draw_phantom("benign", seed=seed)[0]) for seed in range(8)])


def jpeg(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def half(image):
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def framed(image):
    top, side = image.shape[0] // 8, image.shape[1] // 6
    return cv2.copyMakeBorder(image, top, top, side, side, cv2.BORDER_CONSTANT)


COPIES = {
    "the same": lambda image: image,
    "half size, JPEG": lambda image: jpeg(half(image), 75),
    "twice the size": lambda image: cv2.resize(image, None, fx=2, fy=2),
    "a square": lambda image: cv2.resize(image, (256, 256)),
    "brighter": lambda image: np.clip(image * 1.1 + 10, 0, 255).astype(np.uint8),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "framed": framed,
    "marked": lambda image: cv2.putText(image.copy(), "LEFT 10", (10, 30), 0, 0.7, 255),
    "in colours": lambda image: np.repeat(image[..., None], 3, axis=2),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copy_is_known(image, fingerprints, kind):
    assert knows(fingerprints, COPIES[kind](image))


def test_other_phantoms_are_not_known(fingerprints):
    others = [draw_phantom(label, seed=seed)[0] for label in ("normal", "benign", "malignant") for seed in (8, 9, 10)]
    assert not any(knows(fingerprints, other) for other in others)


def test_turned_upside_down_is_another_image(image, fingerprints):
    assert not knows(fingerprints, image[::-1])


@pytest.mark.parametrize(("changed", "expected"), [(MOST_BITS, True), (MOST_BITS + 1, False)])
def test_known_is_what_differs_in_few_bits(image, changed, expected):
    bits = np.unpackbits(fingerprint(image))
    bits[:changed] ^= 1
    assert knows(np.packbits(bits)[None], image) == expected


def test_nothing_is_known_without_fingerprints(image):
    assert not knows(np.zeros((0, 16), np.uint8), image)


def test_fingerprints_of_samples_are_those_of_their_images(phantom_samples):
    found = fingerprint_samples(phantom_samples[:3])
    np.testing.assert_array_equal(found, [fingerprint(read_image(sample.image)) for sample in phantom_samples[:3]])


# === In a model's metadata ===
def test_metadata_holds_them_in_22_letters_each_and_gives_them_back(fingerprints):
    metadata = describe_fingerprints(fingerprints)
    (text,) = metadata[FINGERPRINTS].values()
    assert len(text) == 172  # 8 * 16 bytes, four letters for three, filled up: 4 * 43
    np.testing.assert_array_equal(read_fingerprints(metadata, "model"), fingerprints)


@pytest.mark.parametrize("metadata", [{}, {"task": "ultrasound"}, {FINGERPRINTS: {"of a later kind": "AAAA"}}])
def test_model_without_comparable_fingerprints_has_none(metadata):
    assert read_fingerprints(metadata, "model") is None


@pytest.mark.parametrize("broken", [{"dct128": "AAAA"}, {"dct128": "no!"}, {"dct128": 7}, "dct128"])
def test_broken_fingerprints_are_refused_by_the_name_of_the_model(broken):
    with pytest.raises(ValueError, match=r"^Expected the fingerprints of a model, found .*: old\.onnx$"):
        read_fingerprints({FINGERPRINTS: broken}, "old.onnx")


# === Real scans ===
@pytest.mark.slow
def test_busi_is_known_as_jpeg_of_half_size_and_other_hospitals_are_not(busi_folder, busbra_folder, breast_folder):
    samples = train_on_all(find_samples(busi_folder)).train
    known = fingerprint_samples(samples)
    assert all(knows(known, jpeg(half(read_image(sample.image)), 75)) for sample in samples[::10])
    others = [*find_samples(busbra_folder)[::20], *find_samples(breast_folder)[::10]]
    assert not any(knows(known, read_image(sample.image)) for sample in others)
