"""Datasets of other programs whose masks are pictures or arrays, written by hand as their documentation says."""

import json

import numpy as np
import pytest

from busseg.data import find_reader, find_samples
from busseg.data.convert import convert_dataset
from busseg.data.readers import imagefolder, medmnist, nnunet
from busseg.imaging.clips import read_picture
from busseg.imaging.images import read_image, write_image

SHAPE = (4, 6)


# === nnU-Net ===
@pytest.fixture
def write_nnunet(add):
    """Function that writes a dataset of nnU-Net, with label maps of one value each."""

    def write(root, labels, values, **more):
        add(root, *(f"imagesTr/{case}_0000.png" for case in values))
        for case, value in values.items():
            write_image(root / f"labelsTr/{case}.png", np.repeat(np.uint8([0, value]), 12).reshape(SHAPE))
        content = {
            "channel_names": {"0": "US"},
            "labels": labels,
            "numTraining": len(values),
            "file_ending": ".png",
            **more,
        }
        (root / "dataset.json").write_text(json.dumps(content))

    return write


def test_nnunet_classes_are_read_from_the_label_maps(masks_of, write_nnunet, tmp_path):
    write_nnunet(tmp_path, {"background": 0, "benign": 1, "malignant": 2}, {"a": 1, "b": 2, "c": 0})
    samples = find_samples(tmp_path)
    assert [sample.label for sample in samples] == ["benign", "malignant", "normal"]
    assert [np.sum(mask) for mask in masks_of(samples)] == [12, 12, 0]


def test_nnunet_with_one_label_gives_no_classes(write_nnunet, tmp_path):
    write_nnunet(tmp_path, {"background": 0, "tumour": 1}, {"a": 1, "b": 0})
    assert [sample.label for sample in find_samples(tmp_path)] == [None, None]


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (
            {"background": 0, "fat": 1, "lesion": 2},
            {},
            "Expected one category, or normal, benign, malignant, found fat",
        ),
        ({"background": 0, "lesion": 1, "ignore": 2}, {}, "Expected labels without regions and ignored pixels"),
        ({"background": 0, "lesion": [1, 2]}, {}, "Expected labels without regions and ignored pixels"),
        ({"background": 0, "lesion": 1}, {"channel_names": {"0": "a", "1": "b"}}, "Expected one channel, found 2"),
        ({"background": 0, "lesion": 1}, {"file_ending": ".nii.gz"}, "Expected 2D images, .*, found '.nii.gz'"),
        (None, {}, "Expected a dataset of nnU-Net, found something else"),
    ],
)
def test_nnunet_of_another_kind_is_refused(write_nnunet, tmp_path, labels, more, message):
    write_nnunet(tmp_path, labels, {"a": 1}, **more)
    with pytest.raises(ValueError, match=f"^{message}.*dataset.json$"):
        nnunet.find_samples(tmp_path)


def test_nnunet_faults_name_files(write_nnunet, tmp_path):
    write_nnunet(tmp_path, {"background": 0, "lesion": 1}, {"a": 1, "b": 1})
    (tmp_path / "labelsTr/a.png").unlink()
    (tmp_path / "imagesTr/b_0000.png").unlink()
    _, faults = nnunet.list_samples(tmp_path)
    assert [(kind, path.name) for kind, path, _ in faults] == [("missing_mask", "a_0000.png"), ("orphan_mask", "b.png")]


# === MedMNIST and MedSegBench ===
def test_breastmnist_has_classes_alone(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    numbers = np.uint8([[0], [1], [0]])
    arrays = {f"{split}_{name}": array[:n] for split, n in (("train", 3), ("val", 1), ("test", 2))
              for name, array in (("images", images), ("labels", numbers))}  # fmt: skip
    (data := tmp_path / "data").mkdir()
    np.savez(data / "breastmnist.npz", **arrays)
    samples, faults = medmnist.list_samples(data / "breastmnist.npz")
    assert [kind for kind, _, _ in faults] == ["missing_mask"]
    found = {sample.name: (sample.label, sample.attributes["split"]) for sample in samples}
    assert found["train_images/0"] == ("malignant", "train")
    assert found["train_images/1"] == (None, "train")  # normal or benign
    assert len(found) == 6
    with pytest.raises(
        FileNotFoundError, match=r"^Expected masks, train_label as in MedSegBench, found only train_ima"
    ):
        find_samples(data / "breastmnist.npz")
    done = convert_dataset([data], tmp_path / "out", "imagefolder")
    assert (done.images, done.failed) == (6, [])
    assert read_image(tmp_path / "out/train/images/train_images_1.png").tolist() == images[1].tolist()


def test_medsegbench_has_masks_alone(masks_of, rows, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    masks = np.uint8([rows("##....", "......", "......", "......"), rows(*["######"] * 4)])
    np.savez_compressed(tmp_path / "busi_256.npz", train_images=images, train_label=masks)
    assert find_reader(tmp_path) == (medmnist, tmp_path)
    samples = find_samples(tmp_path / "busi_256.npz")
    assert [(sample.label, sample.source) for sample in samples] == [(None, "busi_256.npz")] * 2
    assert masks_of(samples) == masks.tolist()
    np.testing.assert_array_equal(read_image(samples[1].image, colour=True), images[1])
    np.testing.assert_array_equal(read_picture(samples[1].image), read_image(samples[1].image))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_labels": np.uint8([[2], [0]])}, "Expected classes of BreastMNIST, 0 and 1, found number 2"),
        ({"train_labels": np.uint8([[0]])}, "Expected 2 labels for train_images, found another number"),
        ({"train_label": np.array([{}, {}])}, "Expected a NumPy archive with train_label, found something else"),
    ],
)
def test_archive_that_is_wrong_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((2, 4, 6), np.uint8), **arrays)
    with pytest.raises(ValueError, match=f"^{message}"):
        medmnist.find_samples(tmp_path)


def test_image_that_an_archive_lacks_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((2, 4, 6), np.float32))
    with pytest.raises(ValueError, match=r"^Expected images, .* uint8, found \(2, 4, 6\) float32: "):
        read_image(tmp_path / "x.npz/train_images/0")
    np.savez(tmp_path / "x.npz", train_images=np.zeros((2, 4, 6), np.uint8))
    with pytest.raises(ValueError, match=r"^Expected one of 2 images, found number 2: "):
        read_image(tmp_path / "x.npz/train_images/2")


# === Image folders ===
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_image_folder_lists_images_and_masks(add, tmp_path, kind):
    add(tmp_path, "train/a.png", "test/b.png")
    for folder in ("train", "test"):
        write_image(tmp_path / folder / "m/x.png", np.zeros(SHAPE, np.uint8))
    for folder, name in (("train", "a.png"), ("test", "b.png")):
        row = {"image_file_name": name, "mask_file_name": "m/x.png", "label": "Benign", "patient": "7"}
        text = ",".join(row) + "\n" + ",".join(row.values()) if kind == "csv" else json.dumps(row)
        (tmp_path / folder / f"metadata.{kind}").write_text(text)
    samples = find_samples(tmp_path)
    assert [(s.name, s.label, s.attributes) for s in samples] == [
        ("test/b.png", "benign", {"patient": "7", "split": "test"}),
        ("train/a.png", "benign", {"patient": "7", "split": "train"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\na.png,cyst", "Expected a class by its name in label, found 'cyst' for 'a.png'"),
        ("file_name,mask_file_name\na.png,../x.png", "Expected files inside the dataset, found"),
        ("file_name,pixel_mm\na.png,wide", "Expected a number in pixel_mm, found 'wide' for 'a.png'"),
    ],
)
def test_image_folder_that_is_wrong_is_refused(add, tmp_path, text, message):
    add(tmp_path, "in/a.png")
    (tmp_path / "in/metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=f"^{message}"):
        imagefolder.find_samples(tmp_path / "in")
