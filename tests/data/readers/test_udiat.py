import pytest

from busseg.data import find_reader, find_samples
from busseg.data.readers import udiat

openpyxl = pytest.importorskip("openpyxl", reason="needs busseg[excel]")


def make(root, *rows):
    """A folder of UDIAT's shape with the images 000001 and 000012, and these rows in its table."""
    for folder in ("original", "GT"):
        (root / folder).mkdir()
        for stem in ("000001", "000012"):
            (root / folder / f"{stem}.png").touch()
    book = openpyxl.Workbook()
    for row in (("Image", "Type"), *rows):
        book.active.append(row)
    book.save(root / "DatasetB.xlsx")


@pytest.mark.parametrize("names", [("000001", "000012"), (1, 12), ("000001.png", "000012.png")])
def test_table_gives_the_class_however_it_writes_the_number(tmp_path, names):
    make(tmp_path, (names[0], "Benign"), (names[1], "Malignant"))
    samples = udiat.find_samples(tmp_path)
    assert [(sample.name, sample.label, sample.group) for sample in samples] == [
        ("000001.png", "benign", "000001.png"),
        ("000012.png", "malignant", "000012.png"),
    ]
    assert samples[1].masks == (tmp_path / "GT" / "000012.png",)


def test_folder_is_recognised_by_its_table(tmp_path):
    make(tmp_path, (1, "Benign"), (12, "Malignant"))
    assert find_reader(tmp_path) == (udiat, tmp_path)
    assert len(find_samples(tmp_path)) == 2


def test_image_that_the_table_lacks_is_named(tmp_path):
    make(tmp_path, (1, "Benign"))
    with pytest.raises(ValueError, match=r"^Expected a row for every image, found none for '000012\.png': .*\.xlsx$"):
        udiat.find_samples(tmp_path)
