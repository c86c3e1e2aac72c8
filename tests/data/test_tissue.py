from itertools import pairwise

import cv2
import numpy as np
import pytest

from busseg.data import find_samples
from busseg.data.readers.breakhis import CLASSES, MAGNIFICATIONS, parse_name
from busseg.data.tissue import draw_tissue, write_tissue
from busseg.imaging.images import read_image


def nuclei(image):
    """Areas in pixels of the dark parts that lie whole in the image."""
    dark = (image[..., 0] < 200).astype(np.uint8)
    dark = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    height, width = dark.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats(dark)
    return [area for x, y, w, h, area in stats[1:] if x > 0 and y > 0 and x + w < width and y + h < height]


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_image_is_repeated_by_its_numbers_alone(label, magnification):
    image = draw_tissue(label, magnification, patient=3, number=1, height=60, width=80)
    assert (image.shape, image.dtype) == ((60, 80, 3), np.uint8)
    np.testing.assert_array_equal(image, draw_tissue(label, magnification, 3, 1, 60, 80))
    for other in ((4, 1), (3, 2)):
        assert not np.array_equal(image, draw_tissue(label, magnification, *other, 60, 80))


def test_malignant_nuclei_are_larger_and_of_more_sizes():
    areas = {label: [area for p in range(5) for area in nuclei(draw_tissue(label, 200, p, 0))] for label in CLASSES}
    assert np.mean(areas["malignant"]) > 1.5 * np.mean(areas["benign"])
    assert np.std(np.log(areas["malignant"])) > 1.5 * np.std(np.log(areas["benign"]))


def test_nuclei_grow_with_the_magnification():
    means = [np.median(nuclei(draw_tissue("benign", magnification, 0, 0))) for magnification in MAGNIFICATIONS]
    assert all(more > 1.5 * less for less, more in pairwise(means))


def test_patients_differ_in_stain_more_than_their_images_do():
    means = np.array([[draw_tissue("benign", 100, p, n).mean(axis=(0, 1)) for n in range(3)] for p in range(6)])
    assert (means.mean(axis=1).std(axis=0) > 3 * means.std(axis=1).mean(axis=0))[1]  # green, which eosin takes away


@pytest.mark.parametrize("wrong", [("normal", 40), ("benign", 50)])
def test_unknown_tissue_is_refused(wrong):
    with pytest.raises(ValueError, match="must be one of"):
        draw_tissue(*wrong, patient=0, number=0)


def test_folder_is_read_as_breakhis(tmp_path):
    write_tissue(tmp_path, patients=2, images=1)
    samples = find_samples(tmp_path)
    assert len(samples) == 2 * 2 * 4
    assert len({sample.group for sample in samples}) == 4
    for sample in samples:
        tissue = parse_name(sample.name)
        drawn = draw_tissue(sample.label, tissue.magnification, int(tissue.case[-3:]), 0)
        np.testing.assert_array_equal(read_image(sample.image, colour=True), drawn)
