from dataclasses import replace

import pytest
from PIL import Image

from busseg.data import find_samples
from busseg.data.readers import busi, pairs
from busseg.data.sample import CLASSES


def add(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4)).save(root / name)


def add_busi(root):
    add(root, *(f"{label}/{label} (1){end}.png" for label in CLASSES for end in ("", "_mask")))


def of_source(name, samples):
    return [replace(sample, source=name) for sample in samples]


def test_class_folders_are_read_as_busi(tmp_path):
    add_busi(tmp_path)
    assert find_samples(tmp_path) == of_source(tmp_path.name, busi.find_samples(tmp_path))
    assert len(find_samples(str(tmp_path))) == 3


def test_images_and_masks_are_read_as_pairs(tmp_path):
    add(tmp_path, "images/a.png", "masks/a.png")
    assert find_samples(tmp_path) == of_source(tmp_path.name, pairs.find_samples(tmp_path))
    assert [sample.name for sample in find_samples(tmp_path)] == ["a.png"]


@pytest.mark.parametrize("beside", [(), ("__MACOSX/x.png",), (".cache/x.png",), ("__MACOSX/x.png", "cover.png")])
@pytest.mark.parametrize("inner", ["Dataset_BUSI_with_GT", "archive/Dataset_BUSI_with_GT"])
def test_folder_that_only_holds_the_dataset_is_looked_into(tmp_path, inner, beside):
    add_busi(tmp_path / inner)
    add(tmp_path, *beside)
    assert find_samples(tmp_path) == of_source(tmp_path.name, busi.find_samples(tmp_path / inner))


def test_other_folders_beside_the_classes_do_no_harm(tmp_path):
    add_busi(tmp_path)
    add(tmp_path, "other/x.png")
    assert len(find_samples(tmp_path)) == 3


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("benign/benign (1).png", r"^Expected benign \(1\)_mask\.png beside the image, found no mask: "),
        ("images/a.png", "found no masks"),
        ("masks/a.png", "found no images"),
    ],
)
def test_error_names_what_half_a_dataset_lacks(tmp_path, only, message):
    add(tmp_path, only)
    with pytest.raises(FileNotFoundError, match=message):
        find_samples(tmp_path)


@pytest.mark.parametrize("names", [(), ("a.png",), ("one/a.png", "two/a.png"), ("one/a.png",)])
def test_folder_of_neither_shape_is_refused(tmp_path, names):
    add(tmp_path, *names)
    with pytest.raises(FileNotFoundError, match=r"^Expected the folders .*images and masks, .*, found none: ") as error:
        find_samples(tmp_path)
    assert str(tmp_path) in str(error.value)


# === Several folders ===
def test_samples_of_several_folders_know_their_source_and_share_no_name_or_group(tmp_path):
    for name in ("one", "two"):
        add(tmp_path / name, "images/a.png", "masks/a.png", "images/b.png", "masks/b.png")
        (tmp_path / name / "labels.csv").write_text("file,label,group\na.png,benign,7\nb.png,malignant,7\n")
    samples = find_samples([tmp_path / "two", tmp_path / "one"])
    assert [(sample.name, sample.group, sample.source) for sample in samples] == [
        ("one/a.png", "one/7", "one"),
        ("one/b.png", "one/7", "one"),
        ("two/a.png", "two/7", "two"),
        ("two/b.png", "two/7", "two"),
    ]
    assert [sample.image for sample in samples[1:3]] == [tmp_path / "one/images/b.png", tmp_path / "two/images/a.png"]


def test_folders_of_one_name_are_distinguished_by_the_ends_of_their_paths(tmp_path):
    names = ("a/scans/busi", "b/scans/busi", "x/y/pairs")
    for name in names:
        add(tmp_path / name, "images/a.png", "masks/a.png")
    samples = find_samples([str(tmp_path / name) for name in names])
    assert [sample.source for sample in samples] == list(names)
    assert [sample.name for sample in samples] == [f"{name}/a.png" for name in names]


def test_list_of_one_folder_is_that_folder(tmp_path):
    add_busi(tmp_path / "busi")
    assert find_samples([tmp_path / "busi"]) == find_samples(tmp_path / "busi")


def test_folder_that_is_given_twice_is_refused(tmp_path, monkeypatch):
    add_busi(tmp_path / "busi")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^Expected each dataset folder once, found one twice: busi, .*busi$"):
        find_samples(["busi", tmp_path / "busi"])


def test_wrong_folder_among_several_is_named(tmp_path):
    add_busi(tmp_path / "busi")
    with pytest.raises(FileNotFoundError, match=r"^Expected a dataset folder, found nothing: .*gone$"):
        find_samples([tmp_path / "busi", tmp_path / "gone"])


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected a dataset folder, found nothing: .*gone$"):
        find_samples(tmp_path / "gone")


def test_file_in_place_of_a_folder_is_named(tmp_path):
    add(tmp_path, "busi.png")
    with pytest.raises(FileNotFoundError, match=r"^Expected a dataset folder, found a file: .*busi\.png$"):
        find_samples(tmp_path / "busi.png")
