import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from busseg.data import find_samples
from busseg.data.convert import FORMATS, convert_dataset
from busseg.data.protocols import given_splits
from busseg.data.readers import label_studio
from busseg.data.splits import grouped_splits, write_splits
from busseg.data.writers import nnunet
from busseg.imaging.images import read_image, read_mask, write_image
from busseg.storage.files import write_csv

ALL = ("label", "group", "birads", "pixel_mm", "patient", "split")
pytest.importorskip("yaml", reason="needs busseg[formats]")
CARRYING = ("nnunet", "coco", "imagefolder", "label-studio", "busseg")


def convert(source, out, to, **options):
    """Convert; for Label Studio, submit its pre-annotations as a person does who agrees with them."""
    done = convert_dataset([source], out, to, **options)
    if to == "label-studio":
        submit(out)
    return done


def submit(folder):
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks, 1):
        task["id"] = number
        task["annotations"] = [{"id": number, "result": task["predictions"][0]["result"], "was_cancelled": False}]
    (folder / "export.json").write_text(json.dumps(tasks))


def stem_of(sample):
    return Path(sample.name).stem.removesuffix("_0000")


def by_stem(folder, source):
    """Dict from the stem of each image in `source` to its `Sample` in `folder`; arrays have no names, but an order."""
    samples = find_samples(folder)
    if any(".npz" in str(sample.image) for sample in samples):
        parts = ("train", "validation", "test", None)
        stems = sorted(find_samples(source), key=lambda s: (parts.index(s.attributes.get("split")), s.name))
        order = ("train", "val", "test")
        samples.sort(key=lambda s: (order.index(s.name.split("_")[0]), int(s.image.name)))
        return {stem_of(one): sample for one, sample in zip(stems, samples, strict=True)}
    return {stem_of(sample): sample for sample in samples}


def pixels(sample):
    image = read_image(sample.image)
    return image.tolist(), read_mask(sample.masks, image.shape).tolist()


# === Round trips ===
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("to", FORMATS)
def test_every_format_gives_back_pixels_masks_classes_and_the_split(to, split, write_dataset, tmp_path):
    source = write_dataset(*ALL[: None if split else -1])
    assert convert(source, tmp_path / "out", to).images == 4
    found, expected = by_stem(tmp_path / "out", source), by_stem(source, source)
    assert found.keys() == expected.keys()
    for stem, sample in expected.items():
        assert pixels(found[stem]) == pixels(sample), stem
        assert found[stem].label == sample.label
        assert found[stem].attributes.get("split") == sample.attributes.get("split")


@pytest.mark.parametrize("to", CARRYING)
def test_groups_scale_and_attributes_come_back(to, write_dataset, tmp_path):
    source = write_dataset(*ALL)
    assert [note for note in convert(source, tmp_path / "out", to).notes if note.startswith("Not carried")] == []
    found = by_stem(tmp_path / "out", source)
    for stem, sample in by_stem(source, source).items():
        facts = (found[stem].group, found[stem].pixel_mm, found[stem].attributes)
        assert facts == (sample.group, sample.pixel_mm, sample.attributes)


@pytest.mark.parametrize("to", sorted({*FORMATS} - {*CARRYING}))
def test_facts_that_a_format_cannot_carry_are_named(to, write_dataset, tmp_path):
    done = convert(write_dataset(*ALL), tmp_path / "out", to)
    title = FORMATS[to].TITLE
    # Two images have a scale; all have a patient.
    assert done.notes[0] == f"Not carried by {title}: groups of 4 images, scales of 2 images, attributes of 4 images."


@pytest.mark.parametrize("to", sorted({*FORMATS} - {"busseg", "cvat", "medmnist", "label-studio"}))
def test_dataset_without_classes_comes_back_without(to, write_dataset, tmp_path):
    source = write_dataset()
    convert(source, tmp_path / "out", to)
    found = by_stem(tmp_path / "out", source)
    assert {sample.label for sample in found.values()} == {None}
    assert all(pixels(found[stem]) == pixels(sample) for stem, sample in by_stem(source, source).items())


def test_folds_of_a_file_become_those_of_nnunet_and_come_back(phantom_folder, tmp_path):
    splits = grouped_splits(find_samples(phantom_folder), folds=4)
    write_splits(tmp_path / "splits.csv", splits)
    done = convert_dataset([phantom_folder], tmp_path / "Dataset501_X", "nnunet", splits=tmp_path / "splits.csv")
    assert done.notes == [
        "Copy splits_final.json to nnUNet_preprocessed/Dataset501_X; nnU-Net reads it there.",
    ]
    folds = json.loads((tmp_path / "Dataset501_X/splits_final.json").read_text())
    assert [len(fold["val"]) for fold in folds] == [len(split.test) for split in splits]
    assert all(len(fold["train"]) + len(fold["val"]) == 30 and not {*fold["train"]} & {*fold["val"]} for fold in folds)
    again = given_splits(find_samples(tmp_path / "Dataset501_X"))
    tested = [sorted(stem_of(sample) for sample in split.test) for split in again]
    assert tested == [sorted(sample.name[:-4].replace("/", "_") for sample in split.test) for split in splits]


def test_one_fold_of_a_file_becomes_the_split_of_a_format_and_the_protocol_given(phantom_folder, tmp_path):
    splits = grouped_splits(find_samples(phantom_folder), folds=4)
    write_splits(tmp_path / "splits.csv", splits)
    with pytest.raises(ValueError, match=r"^Expected one fold, or its number, found the folds 0, 1, 2, 3: "):
        convert_dataset([phantom_folder], tmp_path / "out", "coco", splits=tmp_path / "splits.csv")
    convert_dataset([phantom_folder], tmp_path / "out", "coco", splits=tmp_path / "splits.csv", fold=2)
    (split,) = given_splits(find_samples(tmp_path / "out"))
    for part in ("train", "validation", "test"):
        assert len(getattr(split, part)) == len(getattr(splits[2], part))


def test_dataset_without_a_split_has_none_given(write_dataset):
    with pytest.raises(ValueError, match=r"^Expected a dataset that holds a split, found none for 'a b \(1\).png'$"):
        given_splits(find_samples(write_dataset("label")))


# === Images ===
def test_images_of_different_sizes_become_squares_in_an_archive(tmp_path, write_dataset):
    masks = {"c": np.ones((24, 32), np.uint8), "d": np.zeros((20, 20), np.uint8)}
    done = convert_dataset([write_dataset("label", masks=masks)], tmp_path / "out", "medmnist", size=64)
    assert done.notes == ["Images and masks are fitted to squares of 64 px, because they differ in size."]
    with np.load(tmp_path / "out/out.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "classes": (3,),
            **{f"train_{name}": (2, 64, 64) for name in ("images", "label")},
            **{f"{split}_{name}": (0, 64, 64) for split in ("val", "test") for name in ("images", "label")},
            "train_labels": (2, 1),
            "val_labels": (0, 1),
            "test_labels": (0, 1),
        }
        assert arrays["train_labels"].tolist() == [[2], [0]]  # malignant, normal
        assert arrays["train_label"].sum(axis=(1, 2)).tolist() == [64 * 48, 0]  # 32 x 24 scaled by 2


@pytest.mark.parametrize("to", FORMATS)
def test_colours_stay_where_the_format_has_them(to, tmp_path):
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (24, 32, 3), np.uint8)
    write_image(tmp_path / "in/images/a.png", colours)
    write_image(tmp_path / "in/masks/a.png", np.zeros((24, 32), np.uint8))
    (tmp_path / "in/labels.csv").write_text("file,label\na.png,normal\n")
    done = convert(tmp_path / "in", tmp_path / "out", to)
    (sample,) = find_samples(tmp_path / "out")
    np.testing.assert_array_equal(read_image(sample.image), read_image(tmp_path / "in/images/a.png"))
    if to in ("nnunet", "medmnist"):
        assert "Colours of 1 images are written as grey." in done.notes
    else:
        np.testing.assert_array_equal(read_image(sample.image, colour=True), colours)


def test_transparent_image_keeps_the_grey_values_that_busseg_reads(tmp_path):
    (tmp_path / "in/images").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    Image.fromarray(image).save(tmp_path / "in/images/a.png")
    write_image(tmp_path / "in/masks/a.png", np.zeros((24, 32), np.uint8))
    convert_dataset([tmp_path / "in"], tmp_path / "out", "coco")
    (sample,) = find_samples(tmp_path / "out")
    np.testing.assert_array_equal(read_image(sample.image), read_image(tmp_path / "in/images/a.png"))


def test_names_that_would_clash_get_numbers(tmp_path):
    for name in ("benign/a.png", "benign/a.bmp", "benign_A.png"):
        write_image(tmp_path / "in/train/images" / name, np.zeros((8, 8), np.uint8))
    rows = [{"file_name": f"images/{name}"} for name in ("benign/a.png", "benign/a.bmp", "benign_A.png")]
    write_csv(tmp_path / "in/train/metadata.csv", ["file_name", "label"], [row | {"label": "normal"} for row in rows])
    convert_dataset([tmp_path / "in"], tmp_path / "out", "yolo")
    names = ["train_images_benign_A-3.png", "train_images_benign_a-2.png", "train_images_benign_a.png"]
    assert sorted(path.name for path in (tmp_path / "out/images/train").iterdir()) == names


# === What fails ===
def test_folder_with_files_is_refused_and_stays(write_dataset, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"^Expected a new or empty folder for the dataset, found other files: "):
        convert_dataset([write_dataset()], tmp_path / "out", "coco")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(FileExistsError, match=r"^Expected a new or empty folder for the dataset, found a file: "):
        convert_dataset([write_dataset()], tmp_path / "out/mine.txt", "coco")
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("inside", [".", "coco", "images/coco"])
def test_nothing_is_written_into_a_dataset_that_is_read(write_dataset, inside):
    source = write_dataset("label")
    before = sorted(source.rglob("*"))
    with pytest.raises((FileExistsError, ValueError), match=r"^Expected a (new or empty folder|folder outside of) "):
        convert_dataset([source], source / inside, "coco")
    assert sorted(source.rglob("*")) == before


def test_fold_without_a_splits_file_is_refused(write_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"^Expected a splits file to read fold 1 from, found none; name it by --s"):
        convert_dataset([write_dataset("label")], tmp_path / "out", "coco", fold=1)
    assert not (tmp_path / "out").exists()


def test_image_that_cannot_be_read_is_named_and_the_rest_is_done(write_dataset, tmp_path):
    source = write_dataset("label")
    (source / "images/c.png").write_bytes(b"broken")
    done = convert_dataset([source], tmp_path / "out", "coco")
    assert done.images == len(find_samples(tmp_path / "out")) == 3
    expected = f"Expected a PNG, JPEG, BMP or TIFF image, found something else: {source / 'images/c.png'}"
    assert [line.split(": /")[1] for line in done.failed] == [expected.split(": /")[1]]


def test_nothing_is_left_where_no_image_can_be_read(write_dataset, tmp_path):
    source = write_dataset()
    for path in (source / "images").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"a b \(1\)\.png$"):
        convert_dataset([source], tmp_path / "new/out", "yolo")
    assert [path.name for path in (tmp_path / "new").rglob("*")] == []


def test_nothing_is_left_of_a_conversion_that_stops_midway(write_dataset, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    source = write_dataset("label")
    monkeypatch.setattr(nnunet, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_dataset([source], tmp_path / "new/out", "nnunet")
    assert [path.name for path in (tmp_path / "new").rglob("*")] == []


def test_unknown_format_and_missing_masks_are_refused(write_dataset, tmp_path):
    source = write_dataset("label")
    with pytest.raises(ValueError, match=r"^Expected a format of nnunet, .*, busseg, found 'voc'$"):
        convert_dataset([source], tmp_path / "out", "voc")
    (source / "masks/c.png").unlink()
    (source / "masks/d.png").unlink()  # that of a normal image, which has no lesion
    with pytest.raises(FileNotFoundError, match=r"^Expected a mask of every lesion for coco, found none for 1 of 4: "):
        convert_dataset([source], tmp_path / "out", "coco")


def test_classes_of_some_images_alone_are_refused_by_the_own_layout(tmp_path, write_dataset):
    convert_dataset([write_dataset("label")], tmp_path / "coco", "coco")
    path = tmp_path / "coco/annotations/instances_default.json"
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["label"] = None
    content["categories"] = [{"id": 1, "name": "benign"}, {"id": 2, "name": "malignant"}][:1]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 1]
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"^Expected a class for every image or for none, found none for 'images/c.png'$"
    ):
        convert_dataset([tmp_path / "coco"], tmp_path / "out", "busseg")


# === Predictions ===
@pytest.fixture
def predictions(tmp_path, write_dataset):
    """An output of `busseg predict --json-lines`: a lesion with a hole, none, a frame of a clip, and an error."""
    source = write_dataset()
    square = [[2, 1], [12, 1], [12, 9], [2, 9]]
    slit = [[2, 1], [4, 3], [4, 5], [6, 5], [6, 3], [4, 3]]
    common = {"frame": None, "probabilities": {"normal": 0.1, "benign": 0.2, "malignant": 0.7}}
    lines = [
        {"file": str(source / "images/c.png"), "label": "malignant", "contours": [square + slit], **common},
        {"file": str(source / "images/d.png"), "label": "normal", "contours": [], **common},
        {"file": "clip.dcm", "label": "benign", "contours": [], **common, "frame": 3},
        {"file": "gone.png", "error": "Expected an image file, found nothing: gone.png"},
    ]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "out/predictions.csv").write_text("file,label,warning,error\n")
    return tmp_path / "out"


LESION_PX = 10 * 8 - 2 * 2


@pytest.mark.parametrize("to", ["label-studio", "cvat", "coco"])
def test_predictions_become_annotations_that_a_person_corrects(to, predictions, tmp_path):
    done = convert(predictions, tmp_path / "made", to)
    assert (done.images, done.failed) == (
        2,
        ["Expected an image, found frame 3 of a clip or DICOM file: clip.dcm"],
    )
    found = {sample.image.stem: sample for sample in find_samples(tmp_path / "made")}
    assert {stem: sample.label for stem, sample in found.items()} == {"c": "malignant", "d": "normal"}
    masks = {stem: read_mask(sample.masks, (24, 32)) for stem, sample in found.items()}
    assert {stem: mask.sum() for stem, mask in masks.items()} == {"c": LESION_PX, "d": 0}
    assert (masks["c"][1, 2], masks["c"][3, 4], masks["c"][8, 11]) == (1, 0, 1)


def test_results_of_predictions_are_read_by_pycocotools(predictions, tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    convert_dataset([predictions], tmp_path / "made", "coco")
    truth = coco.COCO(str(tmp_path / "made/annotations/instances_default.json"))
    (annotation,) = truth.loadAnns(truth.getAnnIds())
    assert truth.annToMask(annotation).sum() == annotation["area"] == LESION_PX
    results = truth.loadRes(str(tmp_path / "made/results.json"))
    (result,) = results.loadAnns(results.getAnnIds())
    assert (result["score"], result["bbox"], results.annToMask(result).sum()) == (0.7, [2, 1, 10, 8], LESION_PX)


def test_predictions_need_json_lines_and_stand_alone(predictions, tmp_path, write_dataset):
    with pytest.raises(ValueError, match=r"^Expected one folder of predictions, found 2 folders: "):
        convert_dataset([predictions, write_dataset(name="other")], tmp_path / "made", "coco")
    (predictions / "predictions.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"run busseg predict with --json-lines: "):
        convert_dataset([predictions], tmp_path / "made", "coco")


def test_a_person_may_correct_by_polygons_and_cancel_and_the_latest_annotation_counts(write_dataset, tmp_path):
    convert_dataset([write_dataset("label")], tmp_path / "out", "label-studio")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    size = {"original_width": 32, "original_height": 24}
    points = [[0, 0], [50, 0], [50, 100], [0, 100]]  # percent: the left half
    polygon = {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["lesion"]}, **size}
    choice = {"type": "choices", "value": {"choices": ["malignant"]}, **size}
    first, second, third, fourth = tasks
    first["annotations"] = [
        {"result": [], "updated_at": "2024-01-01T00:00:00Z"},
        {"result": [polygon, choice], "updated_at": "2024-01-02T00:00:00Z"},
        {"result": [], "updated_at": "2024-01-03T00:00:00Z", "was_cancelled": True},
    ]
    second["annotations"] = [{"result": [polygon], "was_cancelled": True}]
    second["data"]["image"] = "/data/upload/7/0123abcd-c.png"
    third["annotations"] = [{"result": []}]
    third["data"]["image"] = "/data/upload/7/0123abcd-d.png"  # Label Studio puts eight characters before an upload
    (tmp_path / "out/export.json").write_text(json.dumps([first, second, third, fourth]))
    corrected, empty = find_samples(tmp_path / "out")
    assert (corrected.image.name, corrected.label, empty.image.name) == ("a b (1).png", "malignant", "d.png")
    assert read_mask(corrected.masks, (24, 32)).sum() == 16 * 24
    assert cv2.countNonZero(read_mask(corrected.masks, (24, 32))[:, :16]) == 16 * 24
    assert read_mask(empty.masks, (24, 32)).sum() == 0


def test_label_studio_without_annotations_is_refused(write_dataset, tmp_path):
    convert_dataset([write_dataset("label")], tmp_path / "out", "label-studio")
    with pytest.raises(
        FileNotFoundError, match=r"^Expected annotations that a person submitted, found only predictions: "
    ):
        label_studio.find_samples(tmp_path / "out")
