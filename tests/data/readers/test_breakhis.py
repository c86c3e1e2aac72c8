from collections import Counter, defaultdict
from itertools import cycle
from pathlib import Path

import pytest

from busseg.data import find_samples
from busseg.data.readers import breakhis
from busseg.data.readers.breakhis import (
    MAGNIFICATIONS,
    SUBTYPES,
    Tissue,
    group_by_slide,
    label_by_subtype,
    list_samples,
    parse_name,
)
from busseg.data.sample import Sample
from busseg.data.splits import PARTS, patient_splits
from busseg.data.task import Task

# Patients, and images at each magnification, of each subtype, as in Spanhol et al. (2016).
PATIENTS = {"A": 4, "F": 10, "PT": 3, "TA": 7, "DC": 38, "LC": 5, "MC": 9, "PC": 6}
IMAGES = {
    "A": (114, 113, 111, 106), "F": (253, 260, 264, 237), "PT": (109, 121, 108, 115), "TA": (149, 150, 140, 130),
    "DC": (864, 903, 896, 788), "LC": (156, 170, 163, 137), "MC": (205, 222, 196, 169), "PC": (145, 142, 135, 138),
}  # fmt: skip


def names_of_all():
    """7,909 names of 82 patients, placed as in the archive."""
    for number, (subtype, counts) in enumerate(IMAGES.items()):
        letter, label = ("B", "benign") if subtype in ("A", "F", "PT", "TA") else ("M", "malignant")
        slides = [f"14-{1000 * number + patient}" for patient in range(PATIENTS[subtype])]
        for magnification, count in zip(MAGNIFICATIONS, counts, strict=True):
            for image, slide in zip(range(count), cycle(slides)):
                yield (
                    f"{label}/SOB/{SUBTYPES[subtype]}/SOB_{letter}_{subtype}_{slide}/{magnification}X/"
                    f"SOB_{letter}_{subtype}-{slide}-{magnification}-{image:03}.png"
                )


def add(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The samples of a folder of the whole dataset's shape; the files are empty."""
    root = tmp_path_factory.mktemp("breakhis")
    add(root / "BreaKHis_v1/histology_slides/breast", *names_of_all())
    return find_samples(root)


# === Names ===
def test_name_gives_class_subtype_slide_magnification_and_number():
    assert parse_name("40X/SOB_M_DC-14-2523-40-010.png") == Tissue(
        "malignant", "ductal_carcinoma", "14-2523", "14-2523", 40, 10
    )


def test_letters_of_a_slide_are_not_of_the_case():
    tissue = parse_name("SOB_B_TA-14-16184CD-400-027.png")
    assert (tissue.slide, tissue.case, tissue.subtype) == ("14-16184CD", "14-16184", "tubular_adenoma")


@pytest.mark.parametrize(
    "name",
    [
        "SOB_M_DC-14-2523-50-010.png",  # no such magnification
        "SOB_B_DC-14-2523-40-010.png",  # ductal carcinoma is malignant
        "SOB_M_DC-14-2523-40.png",
        "SOB_M_XX-14-2523-40-010.png",
        "scan.png",
    ],
)
def test_wrong_names_are_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=rf"^Expected a name such as SOB_M_DC-.*, found another: {name}$"):
        parse_name(name)
    add(tmp_path, "SOB_M_DC-14-2523-40-001.png", name)
    with pytest.raises(ValueError, match=rf"found another: .*{name}$"):
        find_samples(tmp_path)


def test_image_in_the_folder_of_the_other_class_is_refused(tmp_path):
    add(tmp_path, "malignant/SOB_M_DC-14-2523-40-001.png", "malignant/SOB_B_A-14-22549AB-40-001.png")
    with pytest.raises(ValueError, match=r"^Expected a benign image under benign, found it elsewhere: .*22549AB"):
        find_samples(tmp_path)


# === Folders ===
def test_flat_folder_is_read_as_the_tree_is(tmp_path):
    names = ("SOB_M_DC-14-2523-40-010.png", "SOB_B_A-14-22549AB-40-001.png", "SOB_B_A-14-22549CD-100-002.png")
    add(tmp_path, *names, "notes.txt")
    samples = find_samples(tmp_path)
    assert [sample.name for sample in samples] == sorted(names)
    assert [sample.label for sample in samples] == ["benign", "benign", "malignant"]
    assert [sample.group for sample in samples] == ["14-22549", "14-22549", "14-2523"]
    assert [sample.attributes["magnification"] for sample in samples] == ["40", "100", "40"]
    assert [sample.group for sample in group_by_slide(samples)] == ["14-22549AB", "14-22549CD", "14-2523"]
    assert not any(sample.masks for sample in samples)


def test_slide_under_two_subtypes_is_reported_and_read(tmp_path):
    add(tmp_path, "SOB_M_DC-14-13412-40-001.png", "SOB_M_LC-14-13412-40-002.png", "SOB_M_LC-14-1-40-002.png")
    assert len(find_samples(tmp_path)) == 3
    ((kind, path, error),) = list_samples(tmp_path)[1]
    assert (kind, path.name) == ("two_subtypes", "SOB_M_DC-14-13412-40-001.png")
    assert "slide 14-13412, found ductal_carcinoma and lobular_carcinoma: " in str(error)


def test_folder_without_images_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected images of BreaKHis, found none: "):
        breakhis.find_samples(tmp_path)


def test_real_images_are_parsed_right(breakhis_folder):
    samples = find_samples(breakhis_folder)
    assert samples
    for sample in samples:
        # The tree says once more what the name says: .../benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/NAME.png
        label, _, subtype, slide, magnification, name = sample.name.split("/")
        tissue = parse_name(name)
        assert (sample.label, tissue.subtype) == (label, subtype)
        assert slide.endswith(f"_{tissue.slide}")
        assert magnification == f"{tissue.magnification}X"
        assert name.endswith(f"-{tissue.number:03}.png")


# === The whole dataset ===
def test_whole_dataset_is_read(whole):
    assert len(whole) == 7909
    assert len({sample.group for sample in whole}) == 82
    assert Counter(sample.label for sample in whole) == {"benign": 2480, "malignant": 5429}


@pytest.mark.parametrize("subtypes", [False, True])
def test_folds_never_part_a_patient_and_hold_their_share_of_each_magnification(whole, subtypes):
    samples = label_by_subtype(whole) if subtypes else whole
    tested = defaultdict(int)
    for split in patient_splits(samples):
        groups = {part: {sample.group for sample in getattr(split, part)} for part in PARTS}
        assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 82
        assert sum(len(getattr(split, part)) for part in PARTS) == len(whole)  # all images of a patient
        for part in PARTS:
            shares = Counter(parse_name(sample.name).magnification for sample in getattr(split, part))
            for magnification, overall in zip(MAGNIFICATIONS, (1995, 2081, 2013, 1820), strict=True):
                assert shares[magnification] / shares.total() == pytest.approx(overall / 7909, abs=0.02)
        assert {sample.label for sample in split.train} == set(Task("subtypes" if subtypes else "histology").classes)
        for group in groups["test"]:
            tested[group] += 1
    assert set(tested.values()) == {1}
    assert len(tested) == 82


def test_class_of_two_patients_cannot_be_split(tmp_path):
    add(tmp_path, *(f"SOB_B_A-14-{n}-40-001.png" for n in range(2)))
    add(tmp_path, *(f"SOB_M_DC-14-1{n}-40-001.png" for n in range(5)))
    with pytest.raises(ValueError, match=r"^Expected at least 3 groups of images a class, found 2 of benign$"):
        patient_splits(find_samples(tmp_path))


def test_too_few_images_for_the_folds_are_refused(tmp_path):
    add(tmp_path, *(f"SOB_B_A-14-{n}-40-001.png" for n in range(4)))
    add(tmp_path, *(f"SOB_M_DC-14-1{n}-40-001.png" for n in range(4)))
    with pytest.raises(ValueError, match=r"^Expected at least 5 images to spread over 5 folds, found 4 of "):
        patient_splits(find_samples(tmp_path))
    assert len(patient_splits(find_samples(tmp_path), folds=2)) == 2


def test_samples_without_a_magnification_are_refused():
    samples = [
        Sample(name=f"{label}{n}.png", image=Path(), masks=(), label=label, group=f"{label}{n}")
        for label in ("benign", "malignant")
        for n in range(5)
    ]
    with pytest.raises(ValueError, match=r"^Expected the magnification of a BreaKHis image, found none: benign0\.png$"):
        patient_splits(samples)


def test_a_few_images_a_magnification_are_enough_for_as_many_folds(tmp_path):
    for magnification in (40, 100):
        add(tmp_path, *(f"SOB_B_A-14-{magnification}{n}-{magnification}-001.png" for n in range(3)))
        add(tmp_path, *(f"SOB_M_DC-15-{magnification}{n}-{magnification}-001.png" for n in range(3)))
    for split in patient_splits(find_samples(tmp_path), folds=3):
        assert all((split.train, split.validation, split.test))
