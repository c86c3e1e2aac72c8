import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from busseg.data.readers.busi import find_samples, list_samples, missing_classes
from busseg.data.sample import CLASSES
from busseg.imaging.images import read_image, read_mask

POSIX = pytest.mark.skipif(os.name != "posix", reason="not a name on this system")
EMPTY = Image.new("L", (6, 4))
SEVERAL_MASKS = {"benign": (4, 25, 54, 58, 83, 92, 93, 98, 100, 163, 173, 181, 195, 315, 346, 424), "malignant": (53,)}


def add(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        EMPTY.save(root / name)


@pytest.fixture
def root(tmp_path):
    """One image with its mask in each class folder, in a folder whose own name is a pattern."""
    root = tmp_path / "busi [1] (copy)"
    for label in CLASSES:
        add(root, f"{label}/{label} (1).png", f"{label}/{label} (1)_mask.png")
    return root


def found(root, label):
    """`{image name: names of its masks}` of one class."""
    return {s.image.name: [mask.name for mask in s.masks] for s in find_samples(root) if s.label == label}


def test_images_and_masks_are_paired_and_labelled_by_their_folder(root):
    samples = find_samples(str(root))
    assert [s.name for s in samples] == [f"{c}/{c} (1).png" for c in ("benign", "malignant", "normal")]
    for sample in samples:
        assert sample.label == sample.name.split("/")[0]
        assert sample.image == root / sample.name
        assert sample.masks == (sample.image.with_name(f"{sample.label} (1)_mask.png"),)


def test_several_masks_belong_to_one_image(root):
    add(root, "benign/benign (1)_mask_1.png", "benign/benign (1)_mask_2.png")
    expected = ["benign (1)_mask.png", "benign (1)_mask_1.png", "benign (1)_mask_2.png"]
    assert found(root, "benign") == {"benign (1).png": expected}


def test_number_1_does_not_take_the_masks_of_number_11(root):
    add(root, "benign/benign (11).png", "benign/benign (11)_mask.png", "benign/benign.png", "benign/benign_mask.png")
    assert found(root, "benign") == {
        f"{stem}.png": [f"{stem}_mask.png"] for stem in ("benign (1)", "benign (11)", "benign")
    }


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._benign (1).png", "notes.txt", "benign (1)_mask.txt"])
def test_files_that_are_no_images_are_passed_over(root, name):
    (root / "benign" / name).write_bytes(b"\0")
    assert found(root, "benign") == {"benign (1).png": ["benign (1)_mask.png"]}


def test_folders_are_passed_over(root):
    (root / "benign" / "folder.png").mkdir()
    (root / "benign" / ".benign (1).png.tmp").mkdir()
    assert found(root, "benign") == {"benign (1).png": ["benign (1)_mask.png"]}


@pytest.mark.parametrize(
    "stem", ["two words", "[ab]", pytest.param("a*b?", marks=POSIX), "ü", "a.b", "mask", "a_masked"]
)
def test_any_name_finds_its_mask(root, stem):
    add(root, f"benign/{stem}.png", f"benign/{stem}_mask.png")
    assert found(root, "benign")[f"{stem}.png"] == [f"{stem}_mask.png"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [("x.PNG", "x_mask.PNG"), ("x.jpg", "x_mask.png"), ("x.JPEG", "x_mask.Png"), ("x.bmp", "x_mask.bmp"),
     ("x.tif", "x_mask.TIFF")],
)  # fmt: skip
def test_suffixes_may_be_any_and_differ(root, image, mask):
    add(root, f"benign/{image}", f"benign/{mask}")
    assert found(root, "benign")[image] == [mask]


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("gone", [True, False])
def test_folder_without_one_class_is_read_and_the_class_named(root, label, gone):
    others = [other for other in CLASSES if other != label]
    empty_folder(root / label, gone)
    assert sorted(sample.label for sample in find_samples(root)) == sorted(others)
    assert missing_classes(root) == [label]
    _, [(kind, path, _)] = list_samples(root)
    assert (kind, path) == ("missing_class", root / label)


def test_folder_with_every_class_misses_none(root):
    assert missing_classes(root) == []


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (True, "^Expected the class folders normal, benign, malignant, found no normal: "),
        (False, "^Expected images in the class folder, found none: .*normal$"),
    ],
)
def test_folder_without_any_image_is_refused(root, gone, message):
    for label in CLASSES:
        empty_folder(root / label, gone)
    with pytest.raises(FileNotFoundError, match=message):
        find_samples(root)


def empty_folder(folder, gone):
    for path in folder.iterdir():
        path.unlink()
    if gone:
        folder.rmdir()


def test_image_without_mask_is_named_with_the_mask_it_wants(root):
    add(root, "benign/lost (2).png")
    message = r"^Expected lost \(2\)_mask\.png .*, found no mask: .*lost \(2\)\.png$"
    with pytest.raises(FileNotFoundError, match=message):
        find_samples(root)


@pytest.mark.parametrize("mask", ["lost_mask.png", "lost_mask_1.png"])
def test_mask_without_image_is_named_with_the_image_it_wants(root, mask):
    add(root, f"benign/{mask}")
    with pytest.raises(FileNotFoundError, match=rf"^Expected the image lost .*, found none: .*{mask}$"):
        find_samples(root)


def test_two_images_of_one_name_are_refused(root):
    add(root, "benign/benign (1).jpg")
    with pytest.raises(ValueError, match=r"^Expected one image named benign \(1\), found .*jpg too: .*png$"):
        find_samples(root)


def test_published_copies_share_a_group_and_other_images_stand_alone(root):
    add(root, *(f"{name}.png" for name in ("benign/benign (433)", "benign/benign (433)_mask", "malignant/mine")))
    add(root, "malignant/malignant (145).png", "malignant/malignant (145)_mask.png", "malignant/mine_mask.png")
    groups = {sample.image.stem: sample.group for sample in find_samples(root)}
    assert groups["benign (433)"] == groups["malignant (145)"]  # the same pixels, in two classes
    assert len(set(groups.values())) == len(groups) - 1 == 5


# === The real BUSI ===
def test_busi_has_its_780_images_in_587_groups(busi_folder):
    samples = find_samples(busi_folder)
    assert len(samples) == len({sample.name for sample in samples}) == 780
    assert Counter(sample.label for sample in samples) == {"benign": 437, "malignant": 210, "normal": 133}
    assert len({sample.group for sample in samples}) == 587
    several = {sample.image.stem for sample in samples if len(sample.masks) > 1}
    assert several == {f"{label} ({number})" for label, numbers in SEVERAL_MASKS.items() for number in numbers}
    assert sum(len(sample.masks) for sample in samples) == 798  # 780 + 16 + 2, for benign (195) has three


@pytest.mark.slow
def test_every_mask_of_busi_is_readable_and_empty_only_where_normal(busi_folder):
    for sample in find_samples(busi_folder):
        with Image.open(sample.image) as image:
            width, height = image.size
        assert read_mask(sample.masks, (height, width)).any() == (sample.label != "normal"), sample.name


def test_every_stored_kind_of_busi_image_is_readable(busi_folder):
    samples = {sample.image.stem: sample for sample in find_samples(busi_folder)}
    for stem in ("benign (1)", "benign (6)", "malignant (1)", "normal (1)"):  # benign (6) is in colour
        image = read_image(samples[stem].image)
        assert image.dtype == np.uint8
        assert image.std() > 20
