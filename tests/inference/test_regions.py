from pathlib import Path

import numpy as np
import pytest

from busseg.data.sample import CLASSES
from busseg.imaging.dicom import Scan
from busseg.imaging.dicom_regions import Regions
from busseg.inference.prediction import Prediction
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.inference.regions import join_regions

# Two regions of 2 x 2 pixels, with a column between them.
SCAN = Scan(Path("a.dcm"), 1, (2, 5), Regions(((0, 0, 2, 2), (3, 0, 2, 2)), (0.1, 0.2), notes=("a note",)))
CORNER = np.float32([[0.9, 0.2], [0, 0]])


def prediction(*probabilities, **others):
    """One of a region with a lesion of one pixel; the probabilities are of normal, benign and malignant."""
    probabilities = np.float32(probabilities)
    label = CLASSES[int(probabilities.argmax())]
    return Prediction(label, probabilities, np.uint8(CORNER >= 0.5), CORNER, **others)


NORMAL, BENIGN, MALIGNANT = prediction(0.8, 0.1, 0.1), prediction(0.1, 0.8, 0.1), prediction(0.2, 0.3, 0.5)


@pytest.mark.parametrize(
    ("first", "second", "worst"),
    [
        (NORMAL, MALIGNANT, 1),
        (BENIGN, MALIGNANT, 1),  # though it is less probably normal
        (MALIGNANT, prediction(0.3, 0.1, 0.6), 1),
        (BENIGN, prediction(0.4, 0.3, 0.3), 0),  # no lesion by its label
        (prediction(0.3, 0.6, 0.1), BENIGN, 1),
        (NORMAL, prediction(0.5, 0.3, 0.2), 1),
    ],
)
def test_class_is_that_of_the_most_suspicious_region_in_any_order(first, second, worst):
    expected = (first, second)[worst]
    for regions in ([first, second], [second, first]):
        joined = join_regions(SCAN, regions)
        assert joined.label == expected.label
        np.testing.assert_array_equal(joined.probabilities, expected.probabilities)


def test_masks_of_all_regions_make_one_of_the_frame():
    joined = join_regions(SCAN, [NORMAL, MALIGNANT])
    np.testing.assert_array_equal(joined.mask, [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(joined.probability_map, np.float32([[0.9, 0.2, 0, 0.9, 0.2], [0, 0, 0, 0, 0]]))
    assert (joined.regions, joined.warnings) == (SCAN.regions.boxes, ("a note",))
    assert joined.lesion_mm2 == pytest.approx(2 * 0.1 * 0.2)


def test_region_unlike_a_breast_ultrasound_is_left_out_and_named():
    elastogram = prediction(0, 0, 1, ood_score=1.5)
    joined = join_regions(SCAN, [elastogram, BENIGN])
    assert (joined.label, joined.in_distribution) == ("benign", True)
    np.testing.assert_array_equal(joined.mask, [[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    assert joined.warnings == ("a note", f"left out: 1 of 2 regions, {OUT_OF_DISTRIBUTION}")
    both = join_regions(SCAN, [elastogram, elastogram])
    assert (both.label, both.lesion_px, both.warnings) == ("malignant", 2, (OUT_OF_DISTRIBUTION, "a note"))


@pytest.mark.parametrize(("first", "second", "expected"), [(False, True, True), (False, False, False)])
def test_frame_counts_as_malignant_where_one_region_does(first, second, expected):
    answers = [prediction(0.1, 0.5, 0.4, malignant=each, sensitivity=0.9) for each in (first, second)]
    joined = join_regions(SCAN, answers)
    assert (joined.malignant, joined.sensitivity) == (expected, 0.9)
    assert join_regions(SCAN, [NORMAL, BENIGN]).malignant is None
