import numpy as np

from busseg.imaging.findings import Finding, describe
from busseg.imaging.lesions import find_lesions

PROBABILITIES = {"normal": 0.05, "benign": 0.2, "malignant": 0.75}
MASK = np.zeros((20, 20), np.uint8)
MASK[2:6, 3:8] = 1  # columns 3 to 7, rows 2 to 5: center 5, 3.5; diagonal 5, 4.8 across


def test_report_of_a_lesion_has_its_class_its_sizes_and_its_place():
    finding = Finding("malignant", PROBABILITIES, find_lesions(MASK, (0.5, 0.5)))
    assert describe(finding) == (
        "Malignant, probability 75.0 % (normal 5.0 %, benign 20.0 %). "
        "Lesion: area 5.0 mm², largest diameter 2.5 mm, across it 2.4 mm, center at column 5, row 4."
    )


def test_report_without_a_scale_is_in_pixels_and_counts_lesions():
    mask = MASK.copy()
    mask[15, 10:13] = 1
    assert describe(Finding("benign", PROBABILITIES, find_lesions(mask))) == (
        "Benign, probability 20.0 % (normal 5.0 %, malignant 75.0 %). 2 lesions. "
        "Lesion 1: area 20 pixels, largest diameter 5.0 pixels, across it 4.8 pixels, center at column 5, row 4. "
        "Lesion 2: area 3 pixels, largest diameter 2.0 pixels, across it 0.0 pixels, center at column 11, row 15."
    )


def test_report_says_that_there_is_no_lesion_no_outline_or_no_breast_ultrasound():
    normal = Finding("normal", PROBABILITIES)
    assert describe(normal) == "No lesion found. Normal, probability 5.0 % (benign 20.0 %, malignant 75.0 %)."
    assert describe(Finding("malignant", PROBABILITIES)).endswith("benign 20.0 %). No pixel is marked as lesion.")
    unlike = Finding("malignant", PROBABILITIES, find_lesions(MASK), in_distribution=False)
    assert describe(unlike) == "Not like breast ultrasound: no finding is reported."
