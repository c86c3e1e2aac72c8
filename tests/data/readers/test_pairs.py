import pytest
from PIL import Image

from busseg.data.readers.pairs import find_samples


@pytest.fixture
def root(tmp_path):
    """Three pairs without classes: `a.png`, `b (1).JPG` and `[c].tif`, with masks in PNG."""
    for folder, names in (("images", ("a.png", "b (1).JPG", "[c].tif")), ("masks", ("a.png", "b (1).png", "[c].PNG"))):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.new("L", (6, 4)).save(tmp_path / folder / name)
    return tmp_path


def write_labels(root, *rows, header="file,label"):
    (root / "labels.csv").write_text("\n".join((header, *rows)))


LABELS = ("a.png,benign", "b (1).JPG,normal", "[c].tif,malignant")


def test_images_and_masks_are_paired_by_stem(root):
    samples = find_samples(str(root))
    assert [s.name for s in samples] == ["[c].tif", "a.png", "b (1).JPG"]
    assert [s.image.relative_to(root).as_posix() for s in samples] == [f"images/{s.name}" for s in samples]
    assert [s.masks for s in samples] == [(root / "masks" / name,) for name in ("[c].PNG", "a.png", "b (1).png")]


def test_without_labels_every_label_is_none_and_every_image_its_own_group(root):
    samples = find_samples(root)
    assert {s.label for s in samples} == {None}
    assert len({s.group for s in samples}) == 3


def test_labels_are_read(root):
    write_labels(root, *LABELS)
    samples = find_samples(root)
    assert {s.name: s.label for s in samples} == {"a.png": "benign", "b (1).JPG": "normal", "[c].tif": "malignant"}
    assert len({s.group for s in samples}) == 3


def test_groups_are_read_and_an_empty_one_means_alone(root):
    write_labels(
        root, "a.png,benign,patient 7", "b (1).JPG,benign,patient 7", "[c].tif,benign,", header="file,label,group"
    )
    groups = {s.name: s.group for s in find_samples(root)}
    assert groups == {"a.png": "patient 7", "b (1).JPG": "patient 7", "[c].tif": "[c].tif"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("a.png,cyst", *LABELS[1:]), "a label of normal, benign, malignant, found 'cyst' for 'a.png'"),
        (("a.png,Benign", *LABELS[1:]), "found 'Benign' for 'a.png'"),
        (("a.png,", *LABELS[1:]), "found '' for 'a.png'"),
        (("a.png", *LABELS[1:]), "found '' for 'a.png'"),
        ((*LABELS, "d.png,benign"), "rows for the files in images, found 'd.png'"),
        (("a,benign", *LABELS[1:]), "rows for the files in images, found 'a'"),
        (LABELS[1:], "a row for every file in images, found none for 'a.png'"),
        ((), "a row for every file in images, found none for"),
        ((*LABELS, "a.png,malignant"), "one row a file, found two for 'a.png'"),
    ],
)
def test_bad_labels_are_named(root, rows, message):
    write_labels(root, *rows)
    with pytest.raises(ValueError, match=rf"^Expected .*{message}.*: .*labels\.csv$"):
        find_samples(root)


@pytest.mark.parametrize(("header", "missing"), [("file,class", "label"), ("name,label", "file")])
def test_missing_column_is_named(root, header, missing):
    write_labels(root, *LABELS, header=header)
    with pytest.raises(ValueError, match=rf"^Expected the column '{missing}', found .*labels\.csv$"):
        find_samples(root)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_missing_folder_is_named(root, folder):
    (root / folder).rename(root / "other")
    with pytest.raises(FileNotFoundError, match=f"^Expected the folders images and masks, found no {folder}: "):
        find_samples(root)


def test_folder_without_images_is_named(root):
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"^Expected images in the folder, found none: .*images$"):
        find_samples(root)


def test_image_without_mask_is_named(root):
    (root / "masks" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^Expected a\.png in .*masks, found no mask: .*a\.png$"):
        find_samples(root)


def test_mask_without_image_is_named(root):
    (root / "images" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^Expected a\.png in .*images, found no image: .*a\.png$"):
        find_samples(root)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_two_files_of_one_stem_are_refused(root, folder):
    Image.new("L", (6, 4)).save(root / folder / "a.bmp")
    with pytest.raises(ValueError, match=r"^Expected one file named a, found a\.bmp too: .*a\.png$"):
        find_samples(root)


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._a.png", "notes.txt"])
@pytest.mark.parametrize("folder", ["images", "masks"])
def test_files_that_are_no_images_are_passed_over(root, folder, name):
    (root / folder / name).write_bytes(b"\0")
    assert len(find_samples(root)) == 3
