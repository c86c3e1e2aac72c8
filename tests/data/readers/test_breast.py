from collections import Counter

import pytest

from busseg.data import find_reader, find_samples
from busseg.data.readers import breast

pytest.importorskip("openpyxl", reason="needs busseg[excel]")

HEADER = (
    *("CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Pixel_size", "Age"),
    *("BIRADS", "Diagnosis", "Classification"),
)
ROWS = (
    (1, "case001.png", "case001_tumor.png", None, 0.0078125, 57, 2, "not applicable", "benign"),
    (22, "case022.png", "case022_tumor.png", "case022_other1.png", 0.01, 43, "4b", "Fibroadenoma", "malignant"),
    (45, "case045.png", None, None, "not available", 32, 1, "not applicable", "normal"),
)
FILES = ("case001", "case001_tumor", "case022", "case022_tumor", "case022_other1", "case045")


@pytest.fixture
def root(tmp_path):
    """A folder of BrEaST's shape, one image a class. The images are empty files; pairing reads no pixels."""
    import openpyxl

    book = openpyxl.Workbook()
    for row in (HEADER, *ROWS):
        book.active.append(row)
    book.save(tmp_path / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx")
    folder = tmp_path / "BrEaST-Lesions_USG-images_and_masks"
    folder.mkdir()
    for stem in FILES:
        (folder / f"{stem}.png").touch()
    return tmp_path


def test_table_gives_class_patient_and_what_else_it_knows(root):
    first, second, third = breast.find_samples(root)
    assert [sample.name for sample in (first, second, third)] == ["case001.png", "case022.png", "case045.png"]
    assert [sample.label for sample in (first, second, third)] == ["benign", "malignant", "normal"]
    assert [sample.group for sample in (first, second, third)] == ["1", "22", "45"]
    assert first.attributes == {"patient": "1", "birads": "2"}  # its diagnosis is not applicable
    assert second.attributes == {"patient": "22", "birads": "4b", "histology": "Fibroadenoma"}


def test_pixel_size_in_cm_becomes_mm(root):
    assert [sample.pixel_mm for sample in breast.find_samples(root)] == [0.078125, 0.1, None]


def test_lesion_is_the_tumour_alone_and_a_normal_image_has_no_mask(root):
    masks = [[path.name for path in sample.masks] for sample in breast.find_samples(root)]
    assert masks == [["case001_tumor.png"], ["case022_tumor.png"], []]


def test_images_may_lie_beside_the_table(root):
    before = breast.find_samples(root)
    folder = root / "BrEaST-Lesions_USG-images_and_masks"
    for path in folder.iterdir():
        path.rename(root / path.name)
    folder.rmdir()
    samples = find_samples(root)
    assert [sample.name for sample in samples] == [sample.name for sample in before]
    assert samples[0].image == root / "case001.png"


def test_folder_is_recognised_by_its_table(root):
    assert find_reader(root) == (breast, root)
    assert len(find_samples(root)) == 3


def test_mask_without_a_row_is_refused_by_name(root):
    (root / "BrEaST-Lesions_USG-images_and_masks" / "case045_tumor.png").touch()
    with pytest.raises(FileNotFoundError, match=r"^Expected a row of BrEaST-.* for every mask, .*case045_tumor\.png$"):
        breast.find_samples(root)


def test_real_breast_has_its_counts(breast_folder):
    """256 images of as many patients when whole (154 benign, 98 malignant, 4 normal), or a part of them."""
    samples = find_samples(breast_folder)
    labels = Counter(sample.label for sample in samples)
    assert labels in [
        {"benign": 154, "malignant": 98, "normal": 4},
        {"benign": 109, "malignant": 79, "normal": 4},
    ]
    assert len({sample.group for sample in samples}) == len(samples)
    assert all(bool(sample.masks) == (sample.label != "normal") for sample in samples)
    # A B-mode pixel is some hundredths of a mm.
    assert all(0.03 < sample.pixel_mm < 0.3 for sample in samples if sample.pixel_mm)
