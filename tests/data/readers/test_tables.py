import sys

import pytest

from busseg.data.readers.tables import list_table, read_excel
from busseg.data.sample import Sample, without_faults

HEADER = ("name", "class")


def write_excel(path, *rows):
    openpyxl = pytest.importorskip("openpyxl", reason="needs busseg[excel]")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


@pytest.fixture
def listed(tmp_path):
    """Function from the lines of a table to `(names and labels, faults)`: images a and b, each with a mask."""
    files = {kind: [tmp_path / kind / f"{stem}.png" for stem in "ab"] for kind in ("images", "masks")}

    def to_sample(row):
        image, mask = (tmp_path / kind / f"{row['name']}.png" for kind in ("images", "masks"))
        return Sample(image.name, image, (mask,), row["class"], row["name"])

    def run(*lines, images=files["images"], masks=files["masks"]):
        table = tmp_path / "table.csv"
        table.write_text("\n".join(lines) + "\n")
        samples, faults = list_table(table, HEADER, to_sample, images, masks)
        assert all(str(error).startswith("Expected ") for _, _, error in faults)
        return samples, [
            (kind, str(error).removeprefix("Expected ").replace(str(tmp_path), ".")) for kind, _, error in faults
        ]

    return run


# === Tables and files ===
def test_rows_are_samples_sorted_by_name(listed):
    samples, faults = listed("name,class", "b,malignant", "a,benign")
    assert [(sample.name, sample.label, len(sample.masks)) for sample in samples] == [
        ("a.png", "benign", 1),
        ("b.png", "malignant", 1),
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("lines", "kept", "fault"),
    [
        (["a,benign"], 1, "a row for every image, found none for 'b.png': ./table.csv"),
        (["a,benign", "b,benign", "c,benign"], 2, "an image for every row, found none named 'c.png': ./table.csv"),
        (["a,benign", "b,benign", "a,benign"], 2, "one row an image, found two for 'a.png': ./table.csv"),
        (["a,benign", "b,odd"], 2, "a label of normal, benign, malignant, found 'odd' for 'b.png': ./table.csv"),
    ],
)
def test_row_that_does_not_fit_the_images_is_a_fault_that_names_it(listed, lines, kept, fault):
    samples, faults = listed("name,class", *lines)
    assert len(samples) == kept
    assert faults[0] == ("bad_label", fault)


def test_unknown_class_is_no_class(listed):
    samples, _ = listed("name,class", "a,benign", "b,odd")
    assert [sample.label for sample in samples] == ["benign", None]


def test_missing_mask_and_mask_without_a_row_are_named(listed, tmp_path):
    masks = [tmp_path / "masks" / "a.png", tmp_path / "masks" / "z.png"]
    samples, faults = listed("name,class", "a,benign", "b,benign", masks=masks)
    assert [len(sample.masks) for sample in samples] == [1, 0]
    assert faults == [
        ("missing_mask", "b.png in ./masks, found no mask: ./images/b.png"),
        ("orphan_mask", "a row of table.csv and an image for every mask, found none: ./masks/z.png"),
    ]


def test_no_images_and_a_table_without_its_columns_are_reported(listed):
    assert listed("name,class", images=[], masks=[]) == (
        [],
        [("missing_folder", "the images of table.csv, found none: .")],
    )
    assert listed("name,grade", "a,benign") == (
        [],
        [("bad_label", "the column 'class', found name, grade: ./table.csv")],
    )


def test_missing_table_is_named(tmp_path):
    ((kind, _, error),) = list_table(tmp_path / "gone.csv", (), None, [], [])[1]
    assert (kind, str(error)) == ("missing_folder", f"Expected the table gone.csv, found none: {tmp_path}")


# === Excel ===
def test_cells_of_excel_are_text_and_empty_rows_are_passed_over(tmp_path):
    path = write_excel(tmp_path / "a.xlsx", HEADER, (1, " 4a "), (None, None), (0.5, None))
    assert read_excel(path, ("class",)) == [{"name": "1", "class": "4a"}, {"name": "0.5", "class": ""}]


def test_excel_without_a_needed_column_is_refused(tmp_path):
    path = write_excel(tmp_path / "a.xlsx", HEADER)
    with pytest.raises(ValueError, match=r"^Expected the column 'grade', found name, class: .*a\.xlsx$"):
        read_excel(path, ("grade",))
    with pytest.raises(ValueError, match=r"^Expected the column 'grade', found no header: .*b\.xlsx$"):
        read_excel(write_excel(tmp_path / "b.xlsx"), ("grade",))


def test_what_is_no_excel_file_is_refused_by_name(tmp_path):
    pytest.importorskip("openpyxl", reason="needs busseg[excel]")
    (tmp_path / "a.xlsx").write_text("name,class\n")
    with pytest.raises(ValueError, match=r"^Expected an Excel file, found something else .*: .*a\.xlsx$"):
        read_excel(tmp_path / "a.xlsx")
    with pytest.raises(FileNotFoundError):
        read_excel(tmp_path / "gone.xlsx")


def test_missing_openpyxl_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openpyxl", None)  # Python's way to say: cannot be imported
    with pytest.raises(ImportError, match=r'found none; pip install "busseg\[excel\]": .*a\.xlsx$'):
        read_excel(tmp_path / "a.xlsx")


def test_first_fault_is_raised_and_samples_without_fault_are_given_back(tmp_path):
    faults = [("missing_mask", tmp_path, FileNotFoundError("first")), ("bad_label", tmp_path, ValueError("second"))]
    with pytest.raises(FileNotFoundError, match=r"^first$"):
        without_faults([], faults)
    sample = Sample("a.png", tmp_path / "a.png", (), None, "a")
    assert without_faults([sample], []) == [sample]
