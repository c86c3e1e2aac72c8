"""Datasets of other programs whose masks are drawn from outlines, written by hand as their documentation says."""

import json
import shutil

import pytest

from busseg.data import find_samples
from busseg.data.audit import audit_dataset
from busseg.data.convert import convert_dataset
from busseg.data.readers import coco, cvat, yolo
from busseg.imaging.images import read_mask

pytest.importorskip("yaml", reason="needs busseg[formats]")
SHAPE = (4, 6)


# === COCO ===
def write_coco(path, annotations, categories=("benign", "malignant"), names=("a.png",)):
    content = {
        "images": [{"id": 10 + n, "file_name": name, "height": 4, "width": 6} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": 10, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories, 1)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_coco_polygons_and_runs_are_united_and_the_worst_class_counts(add, masks_of, rows, tmp_path):
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
def test_coco_files_of_a_split_are_found(add, tmp_path, layout):
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
def test_coco_segmentation_that_cannot_be_drawn_is_named(add, tmp_path, annotation, categories, message):
    add(tmp_path, "images/a.png")
    write_coco(tmp_path / "a.json", [annotation], categories)
    (sample,) = find_samples(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        read_mask(sample.masks, SHAPE)
    assert str(tmp_path / "a.json") in str(error.value)


def test_coco_of_another_size_than_its_image_is_refused(add, tmp_path):
    add(tmp_path, "images/a.png")
    write_coco(tmp_path / "a.json", [])
    (sample,) = find_samples(tmp_path)
    with pytest.raises(ValueError, match=r"^Expected a mask of 4 x 6 px like its image, found 6 x 4 px: .*a.json.10$"):
        read_mask(sample.masks, (6, 4))


def test_coco_of_other_areas_is_refused(add, tmp_path):
    add(tmp_path, "images/a.png")
    annotations = [{"category_id": n, "segmentation": [[0, 0, 1, 0, 1, 1]]} for n in (1, 2)]
    write_coco(tmp_path / "a.json", annotations, ("fat", "tumor"))
    with pytest.raises(
        ValueError, match=r"^Expected one category, or normal, benign, malignant, found fat, tumor: .*a"
    ):
        coco.find_samples(tmp_path)
    write_coco(tmp_path / "a.json", annotations[1:], ("objects", "tumor"))  # a parent that nothing uses
    assert [sample.label for sample in coco.find_samples(tmp_path)] == [None]


def test_coco_finds_missing_unlisted_and_outside_images(add, tmp_path):
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
def test_yolo_polygons_are_fractions_of_width_and_height(add, masks_of, rows, tmp_path, names):
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
def test_yolo_label_file_that_is_wrong_is_named(add, tmp_path, text, message):
    add(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(text)
    (tmp_path / "data.yaml").write_text("names: [lesion]")
    with pytest.raises(ValueError, match=message):
        yolo.find_samples(tmp_path)


def test_yolo_label_file_without_an_image_and_broken_data_are_faults(add, tmp_path):
    add(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/b.txt").write_text("")
    (tmp_path / "data.yaml").write_text("names: [lesion]")
    samples, faults = yolo.list_samples(tmp_path)
    assert ([sample.label for sample in samples], [kind for kind, _, _ in faults]) == ([None], ["orphan_mask"])
    (tmp_path / "data.yaml").write_text("names: {x: [")
    with pytest.raises(ValueError, match=r"^Expected the data of a YOLO dataset, found something else"):
        yolo.find_samples(tmp_path)


# === CVAT ===
@pytest.fixture
def write_cvat(add):
    """Function that writes an export of CVAT of one image."""

    def write(root, areas, head=""):
        add(root, "images/a.png")
        text = f'<image id="3" name="a.png" width="6" height="4">{areas}</image>'
        (root / "annotations.xml").write_text(f"<?xml version='1.0'?>{head}<annotations>{text}</annotations>")

    return write


def test_cvat_polygons_and_masks_are_united(masks_of, rows, write_cvat, tmp_path):
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
def test_cvat_that_is_wrong_is_refused(write_cvat, tmp_path, areas, message):
    write_cvat(tmp_path, areas)
    with pytest.raises(ValueError, match=f"^{message}.*annotations.xml$"):
        cvat.find_samples(tmp_path)


def test_cvat_mask_outside_its_image_is_refused(write_cvat, tmp_path):
    write_cvat(tmp_path, '<mask label="lesion" rle="0, 4" left="5" top="0" width="2" height="2"/>')
    (sample,) = find_samples(tmp_path)
    with pytest.raises(ValueError, match=r"^Expected a mask inside its image, found 5, 0, 2 x 2"):
        read_mask(sample.masks, SHAPE)


def test_cvat_with_entities_is_refused(write_cvat, tmp_path):
    write_cvat(tmp_path, "&lol;", head='<!DOCTYPE x [<!ENTITY lol "lol">]>')
    with pytest.raises(ValueError, match=r"^Expected XML without a document type, found one: "):
        cvat.find_samples(tmp_path)


# === Verbs ===
@pytest.fixture(scope="module")
def few_phantoms(phantom_folder, tmp_path_factory):
    """Two phantoms a class, of which one has two masks."""
    folder = tmp_path_factory.mktemp("few")
    for path in (*phantom_folder.rglob("*(1)*"), *phantom_folder.rglob("*(10)*")):
        (folder / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


@pytest.mark.parametrize(
    ("to", "formats"),
    [("coco", ("PNG grey", "drawn from json")), ("yolo", ("PNG grey", "drawn from txt")),
     ("medmnist", ("NumPy grey", "NumPy grey")), ("cvat", ("PNG grey", "drawn from xml"))],
)  # fmt: skip
def test_audit_reads_drawn_masks_and_arrays(to, formats, few_phantoms, tmp_path):
    convert_dataset([few_phantoms], tmp_path / "out", to)
    found = audit_dataset(tmp_path / "out")
    assert (found["images"], found["image_formats"], found["mask_formats"]) == (6, {formats[0]: 6}, {formats[1]: 6})
    assert {name: values["images"] for name, values in found["classes"].items()} == {
        "normal": 2, "benign": 2, "malignant": 2,
    }  # fmt: skip
    assert not {"unreadable", "empty_mask", "lesion_on_normal", "misaligned_mask"} & {
        kind for kind, entries in found["findings"].items() if entries
    }
