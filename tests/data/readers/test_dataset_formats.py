"""Datasets of other programs, written by hand as their documentation says."""

import json

import numpy as np
import pytest

from busseg.data import find_reader, find_samples
from busseg.data.audit import audit_dataset
from busseg.data.convert import convert_dataset
from busseg.data.readers import coco, cvat, imagefolder, medmnist, nnunet, yolo
from busseg.imaging.clips import read_picture
from busseg.imaging.images import read_image, read_mask, write_image

pytest.importorskip("yaml", reason="needs busseg[formats]")
SHAPE = (4, 6)


def add(root, *names):
    for name in names:
        write_image(root / name, np.arange(24, dtype=np.uint8).reshape(SHAPE))


def masks_of(samples):
    return [read_mask(sample.masks, SHAPE).tolist() for sample in samples]


def rows(*texts):
    return [[int(character == "#") for character in text] for text in texts]


# === COCO ===
def write_coco(path, annotations, categories=("benign", "malignant"), names=("a.png",)):
    content = {
        "images": [{"id": 10 + n, "file_name": name, "height": 4, "width": 6} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": 10, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories, 1)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_coco_polygons_and_runs_are_united_and_the_worst_class_counts(tmp_path):
    add(tmp_path, "images/a.png", "images/b.png")
    polygon = {"category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2], [3, 0, 4, 0, 4, 1, 3, 1]]}
    # Column by column: 20 without, 1 with (column 5, row 0), 3 without.
    runs = {"category_id": 2, "segmentation": {"size": [4, 6], "counts": [20, 1, 3]}}
    write_coco(tmp_path / "annotations/instances.json", [polygon, runs], names=("a.png", "b.png"))
    samples = find_samples(tmp_path)
    assert [(sample.name, sample.label) for sample in samples] == [
        ("images/a.png", "malignant"),
        ("images/b.png", "normal"),
    ]
    assert masks_of(samples) == [rows("##.#.#", "##....", "......", "......"), rows(*["......"] * 4)]


@pytest.mark.parametrize("layout", ["roboflow", "coco"])
def test_coco_files_of_a_split_are_found(tmp_path, layout):
    for folder in ("train", "valid"):
        if layout == "roboflow":
            path, images = tmp_path / folder / "_annotations.coco.json", folder
        else:
            path, images = tmp_path / f"annotations/instances_{folder}2017.json", f"{folder}2017"
        add(tmp_path, f"{images}/{folder}.png")
        write_coco(path, [], names=(f"{folder}.png",))
    samples = find_samples(tmp_path)
    assert [sample.attributes["split"] for sample in samples] == ["train", "validation"]


@pytest.mark.parametrize(
    ("annotation", "categories", "message"),
    [
        (
            {"category_id": 1, "segmentation": [], "bbox": [0, 0, 2, 2]},
            ("benign",),
            "found only a box, in annotation 1",
        ),
        ({"category_id": 1, "segmentation": [[0, 0, 1, 1]]}, ("benign",), "Expected a polygon of three or more points"),
        (
            {"category_id": 1, "segmentation": {"size": [6, 4], "counts": [24]}},
            ("benign",),
            "Expected run lengths of 4 x 6",
        ),
        ({"category_id": 1, "segmentation": {"size": [4, 6], "counts": "é"}}, ("benign",), "that can be drawn, found"),
    ],
)
def test_coco_segmentation_that_cannot_be_drawn_is_named(tmp_path, annotation, categories, message):
    add(tmp_path, "images/a.png")
    write_coco(tmp_path / "a.json", [annotation], categories)
    (sample,) = find_samples(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        read_mask(sample.masks, SHAPE)
    assert str(tmp_path / "a.json") in str(error.value)


def test_coco_of_another_size_than_its_image_is_refused(tmp_path):
    add(tmp_path, "images/a.png")
    write_coco(tmp_path / "a.json", [])
    (sample,) = find_samples(tmp_path)
    with pytest.raises(ValueError, match=r"^Expected a mask of 4 x 6 px like its image, found 6 x 4 px: .*a.json.10$"):
        read_mask(sample.masks, (6, 4))


def test_coco_of_other_areas_is_refused(tmp_path):
    add(tmp_path, "images/a.png")
    annotations = [{"category_id": n, "segmentation": [[0, 0, 1, 0, 1, 1]]} for n in (1, 2)]
    write_coco(tmp_path / "a.json", annotations, ("fat", "tumor"))
    with pytest.raises(
        ValueError, match=r"^Expected one category, or normal, benign, malignant, found fat, tumor: .*a"
    ):
        coco.find_samples(tmp_path)
    write_coco(tmp_path / "a.json", annotations[1:], ("objects", "tumor"))  # a parent that nothing uses
    assert [sample.label for sample in coco.find_samples(tmp_path)] == [None]


def test_coco_finds_missing_unlisted_and_outside_images(tmp_path):
    add(tmp_path, "in/images/a.png", "in/images/more.png", "secret.png")
    write_coco(tmp_path / "in/a.json", [], names=("a.png", "gone.png"))
    _, faults = coco.list_samples(tmp_path / "in")
    assert [kind for kind, _, _ in faults] == ["bad_label", "bad_label"]
    assert "none named 'gone.png'" in str(faults[0][2])
    assert "found none for 'more.png'" in str(faults[1][2])
    write_coco(tmp_path / "in/a.json", [], names=("../../secret.png",))
    with pytest.raises(ValueError, match=r"^Expected images inside the dataset, found '../../secret.png': "):
        coco.find_samples(tmp_path / "in")


# === YOLO ===


@pytest.mark.parametrize("names", ["[benign, malignant]", "\n  0: benign\n  1: malignant"])
def test_yolo_polygons_are_fractions_of_width_and_height(tmp_path, names):
    add(tmp_path, "train/images/a.png", "valid/images/b.png", "valid/images/c.png")
    (tmp_path / "data.yaml").write_text(f"train: train/images\nval: valid/images\nnames: {names}\n")
    for folder in ("train", "valid"):
        (tmp_path / folder / "labels").mkdir()
    # Width 6, height 4: x from 0 to 3, y from 1 to 3.
    (tmp_path / "train/labels/a.txt").write_text("1 0 0.25 0.5 0.25 0.5 0.75 0 0.75\n")
    (tmp_path / "valid/labels/b.txt").write_text("\n")
    samples = find_samples(tmp_path)
    assert [(s.label, s.attributes["split"]) for s in samples] == [
        ("malignant", "train"), ("normal", "validation"), ("normal", "validation"),
    ]  # fmt: skip
    assert masks_of(samples) == [rows("......", "###...", "###...", "......"), *[rows(*["......"] * 4)] * 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", r"^Expected polygons, found a box in line 1: .*a\.txt$"),
        ("0 0.5 0.5 0.2 x 1 1", r"^Expected a class and a polygon in line 1, found '0 0.5 0.5 0.2 x 1 1': .*a\.txt$"),
        ("7 0 0 1 0 1 1", r"^Expected classes of data.yaml, found number 7: .*a\.txt$"),
    ],
)
def test_yolo_label_file_that_is_wrong_is_named(tmp_path, text, message):
    add(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(text)
    (tmp_path / "data.yaml").write_text("names: [lesion]")
    with pytest.raises(ValueError, match=message):
        yolo.find_samples(tmp_path)


def test_yolo_label_file_without_an_image_and_broken_data_are_faults(tmp_path):
    add(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/b.txt").write_text("")
    (tmp_path / "data.yaml").write_text("names: [lesion]")
    samples, faults = yolo.list_samples(tmp_path)
    assert ([sample.label for sample in samples], [kind for kind, _, _ in faults]) == ([None], ["orphan_mask"])
    (tmp_path / "data.yaml").write_text("names: {x: [")
    with pytest.raises(ValueError, match=r"^Expected the data of a YOLO dataset, found something else"):
        yolo.find_samples(tmp_path)


# === nnU-Net ===
def write_nnunet(root, labels, values, **more):
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


def test_nnunet_classes_are_read_from_the_label_maps(tmp_path):
    write_nnunet(tmp_path, {"background": 0, "benign": 1, "malignant": 2}, {"a": 1, "b": 2, "c": 0})
    samples = find_samples(tmp_path)
    assert [sample.label for sample in samples] == ["benign", "malignant", "normal"]
    assert [np.sum(mask) for mask in masks_of(samples)] == [12, 12, 0]


def test_nnunet_with_one_label_gives_no_classes(tmp_path):
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
def test_nnunet_of_another_kind_is_refused(tmp_path, labels, more, message):
    write_nnunet(tmp_path, labels, {"a": 1}, **more)
    with pytest.raises(ValueError, match=f"^{message}.*dataset.json$"):
        nnunet.find_samples(tmp_path)


def test_nnunet_faults_name_files(tmp_path):
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
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    samples, faults = medmnist.list_samples(tmp_path / "breastmnist.npz")
    assert [kind for kind, _, _ in faults] == ["missing_mask"]
    found = {sample.name: (sample.label, sample.attributes["split"]) for sample in samples}
    assert found["train_images/0"] == ("malignant", "train")
    assert found["train_images/1"] == (None, "train")  # normal or benign
    assert len(found) == 6
    with pytest.raises(
        FileNotFoundError, match=r"^Expected masks, train_label as in MedSegBench, found only train_ima"
    ):
        find_samples(tmp_path / "breastmnist.npz")
    done = convert_dataset([tmp_path], tmp_path / "out", "imagefolder")
    assert (done.images, done.failed) == (6, [])
    assert read_image(tmp_path / "out/train/images/train_images_1.png").tolist() == images[1].tolist()


def test_medsegbench_has_masks_alone(tmp_path):
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
def test_image_folder_lists_images_and_masks(tmp_path, kind):
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
def test_image_folder_that_is_wrong_is_refused(tmp_path, text, message):
    add(tmp_path, "in/a.png")
    (tmp_path / "in/metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=f"^{message}"):
        imagefolder.find_samples(tmp_path / "in")


# === CVAT ===
def write_cvat(root, areas, head=""):
    add(root, "images/a.png")
    text = f'<image id="3" name="a.png" width="6" height="4">{areas}</image>'
    (root / "annotations.xml").write_text(f"<?xml version='1.0'?>{head}<annotations>{text}</annotations>")


def test_cvat_polygons_and_masks_are_united(tmp_path):
    polygon = '<polygon label="benign" points="0.00,0.00;2.00,0.00;2.00,1.00;0.00,1.00"/>'
    # The box from (3, 1), 2 x 2: row by row 1 without, 2 with, 1 without.
    mask = '<mask label="benign" rle="1, 2, 1" left="3" top="1" width="2" height="2"/>'
    write_cvat(tmp_path, polygon + mask)
    (sample,) = find_samples(tmp_path)
    assert (sample.name, sample.label) == ("a.png", "benign")
    assert masks_of([sample]) == [rows("##....", "....#.", "...#..", "......")]
    write_cvat(tmp_path, polygon + '<tag label="malignant" source="manual"/>')
    assert [sample.label for sample in find_samples(tmp_path)] == ["malignant"]


@pytest.mark.parametrize(
    ("areas", "message"),
    [
        ('<box label="lesion" xtl="0" ytl="0" xbr="2" ybr="2"/>', "Expected polygons and masks, found box on 'a.png'"),
        (
            '<polygon label="fat" points=""/><polygon label="gland" points=""/>',
            "Expected one category, or .*, found fat",
        ),
        ("<polygon/>", "Expected an export of CVAT, found something else .KeyError: 'label'"),
        ("<oops>", "Expected an export of CVAT, found something else .ParseError"),
    ],
)
def test_cvat_that_is_wrong_is_refused(tmp_path, areas, message):
    write_cvat(tmp_path, areas)
    with pytest.raises(ValueError, match=f"^{message}.*annotations.xml$"):
        cvat.find_samples(tmp_path)


def test_cvat_mask_outside_its_image_is_refused(tmp_path):
    write_cvat(tmp_path, '<mask label="lesion" rle="0, 4" left="5" top="0" width="2" height="2"/>')
    (sample,) = find_samples(tmp_path)
    with pytest.raises(ValueError, match=r"^Expected a mask inside its image, found 5, 0, 2 x 2"):
        read_mask(sample.masks, SHAPE)


def test_cvat_with_entities_is_refused(tmp_path):
    write_cvat(tmp_path, "&lol;", head='<!DOCTYPE x [<!ENTITY lol "lol">]>')
    with pytest.raises(ValueError, match=r"^Expected XML without a document type, found one: "):
        cvat.find_samples(tmp_path)


# === Verbs ===
@pytest.mark.parametrize(
    ("to", "formats"),
    [("coco", ("PNG grey", "drawn from json")), ("yolo", ("PNG grey", "drawn from txt")),
     ("medmnist", ("NumPy grey", "NumPy grey")), ("cvat", ("PNG grey", "drawn from xml"))],
)  # fmt: skip
def test_audit_reads_drawn_masks_and_arrays(to, formats, phantom_folder, tmp_path):
    convert_dataset([phantom_folder], tmp_path / "out", to)
    found = audit_dataset(tmp_path / "out")
    assert (found["images"], found["image_formats"], found["mask_formats"]) == (30, {formats[0]: 30}, {formats[1]: 30})
    assert {name: values["images"] for name, values in found["classes"].items()} == {
        "normal": 10, "benign": 10, "malignant": 10,
    }  # fmt: skip
    assert not {"unreadable", "empty_mask", "lesion_on_normal", "misaligned_mask"} & {
        kind for kind, entries in found["findings"].items() if entries
    }
