import dataclasses
import json
import shutil
import struct
import zlib

import numpy as np
import pytest

from busseg.data import find_samples
from busseg.data.sample import CLASSES
from busseg.data.splits import grouped_splits, write_splits
from busseg.imaging.images import write_image
from busseg.storage.run_folder import RUN

pytestmark = pytest.mark.usefixtures("light")


# === Datasets and splits ===
def without_masks(data):
    (data / "benign/3_mask.png").unlink()
    return "benign/3.png"


def without_an_image(data):
    (data / "benign/3.png").unlink()
    return "benign/3_mask.png"


def with_too_few_of_a_class(data):
    for path in (data / "normal").glob("[1-4]*"):
        path.unlink()
    return "1 of normal"


def without_anything(data):
    shutil.rmtree(data)
    return "found nothing: "


def of_another_shape(data):
    for label in CLASSES:
        (data / label).rename(data / label.upper())
    return "found none: "


@pytest.mark.parametrize("verb", ["split", "train", "evaluate"])
@pytest.mark.parametrize("spoil", [without_masks, without_an_image, without_anything, of_another_shape])
def test_bad_dataset_folder_is_named(dataset, echo_file, fails, tmp_path, verb, spoil):
    name = spoil(dataset)
    model = [echo_file] if verb == "evaluate" else []
    line = fails(tmp_path, verb, *model, dataset, "--out", tmp_path / "out")
    assert name in line
    assert str(dataset) in line


@pytest.mark.parametrize("verb", ["split", "train"])
def test_class_too_small_to_split_is_an_error(dataset, fails, tmp_path, verb):
    name = with_too_few_of_a_class(dataset)
    assert name in fails(tmp_path, verb, dataset, "--out", tmp_path / "out")


def claimed_png(width, height):
    """A PNG of 8-bit grey that claims a size and holds a few bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BROKEN = {
    "zero bytes": (lambda path: path.write_bytes(b""), "an empty file"),
    "text": (lambda path: path.write_text("hello"), "something else"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "a broken file"),
    "noise": (lambda path: path.write_bytes(bytes(range(256))), "something else"),
    "bomb": (lambda path: path.write_bytes(claimed_png(60_000, 60_000)), "at most 25000000 pixels, found more"),
}


CLAIMED = ("run",)  # the empty folder of a run that did not begin


@pytest.mark.parametrize(("spoil", "found"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["benign/3.png", "benign/3_mask.png"])
def test_broken_image_stops_a_training_before_it_begins(dataset, recipe, fails, tmp_path, spoil, found, name):
    write_splits(tmp_path / "splits.csv", [whole_split(dataset)])
    spoil(dataset / name)
    line = fails(
        tmp_path, "train", dataset, "--out", tmp_path / "run", "--recipe", recipe,
        "--splits", tmp_path / "splits.csv", new=CLAIMED,
    )  # fmt: skip
    assert found in line
    assert line.endswith(str(dataset / name))


def whole_split(dataset):
    """A split that trains on every image but those numbered 0."""
    samples = find_samples(dataset)
    split = grouped_splits(samples)[0]
    validation = tuple(sample for sample in samples if sample.image.stem == "0")
    return dataclasses.replace(
        split, train=tuple(s for s in samples if s not in validation), validation=validation, test=()
    )


def test_mask_of_another_size_stops_a_training_before_it_begins(dataset, recipe, fails, tmp_path):
    write_splits(tmp_path / "splits.csv", [whole_split(dataset)])
    write_image(dataset / "normal/2_mask.png", np.zeros((24, 31), np.uint8))
    line = fails(
        tmp_path, "train", dataset, "--out", tmp_path / "run", "--recipe", recipe,
        "--splits", tmp_path / "splits.csv", new=CLAIMED,
    )  # fmt: skip
    assert "a mask of 32 x 24 px like its image, found 31 x 24 px" in line
    assert line.endswith("normal/2_mask.png")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "fold,file,part,group\n0,benign/0.png,train,patient 7\n0,normal/0.png,test,patient 7\n",
            "group patient 7 in one part, found it in train and test",
        ),
        ("fold,file,part\n0,benign/9.png,train\n", "'benign/9.png', which it lacks"),
        ("fold,file,part\n0,benign/0.png,train\n1,benign/0.png,train\n", "the folds 0, 1"),
        ("fold,file\n", "the column 'part'"),
        (None, "No such file"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_bad_splits_file_is_named(dataset, echo_file, recipe, fails, tmp_path, verb, text, found):
    if text:
        (tmp_path / "splits.csv").write_text(text)
    before = [echo_file] if verb == "evaluate" else ["--recipe", recipe]
    arguments = [verb, *before, dataset, "--out", tmp_path / "out", "--splits", tmp_path / "splits.csv"]
    line = fails(tmp_path, *arguments)
    assert found in line
    assert str(tmp_path / "splits.csv") in line


def test_split_without_a_validation_part_trains_nothing(dataset, recipe, fails, tmp_path):
    (tmp_path / "splits.csv").write_text("fold,file,part\n0,benign/0.png,train\n")
    arguments = ["--out", tmp_path / "out", "--recipe", recipe, "--splits", tmp_path / "splits.csv"]
    assert "Expected a validation part" in fails(tmp_path, "train", dataset, *arguments)


def test_all_images_are_no_fold(dataset, recipe, fails, tmp_path):
    arguments = ["--out", tmp_path / "out", "--recipe", recipe, "--all", "--fold", 0]
    assert "Expected --all or a fold of a split" in fails(tmp_path, "train", dataset, *arguments)


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_fold_that_is_not_there_is_an_error(dataset, echo_file, fails, tmp_path, verb):
    model = [echo_file] if verb == "evaluate" else []
    line = fails(tmp_path, verb, *model, dataset, "--out", tmp_path / "out", "--fold", 5)
    assert {"train": "a fold of 0 to 4, found 5", "evaluate": "a splits file to read fold 5 from"}[verb] in line


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("epoch = 3\n", "Unknown key 'epoch'; did you mean 'epochs'?"),
        ("epochs = 'many'\n", "`epochs` must be of type int"),
        ("mask_loss = 'dise'\n", "`mask_loss` must be one of "),
        ("epochs 3\n", "Expected TOML"),
        ("image_size = 33\nwidth = 4\ndepth = 1\nepochs = 1\n", "`image_size` must be a multiple of 2"),
    ],
)
def test_bad_recipe_is_an_error(dataset, recipe, fails, tmp_path, text, found):
    recipe.write_text(text)
    line = fails(tmp_path, "train", dataset, "--out", tmp_path / "out", "--recipe", recipe, new=("out",))
    assert found in line


def test_unknown_recipe_is_refused_with_the_known_ones(dataset, fails, tmp_path):
    line = fails(tmp_path, "train", dataset, "--out", tmp_path / "out", "--recipe", "crad")
    known = "best, card, card_pretrained, demo, histology, histology_cbam, hospitals, hospitals_small, light"
    assert line.endswith(f"Expected a TOML file or one of {known}, pretrained, small, found no such recipe: crad")


def test_other_recipe_cannot_go_on_with_a_run(tiny_run, phantom_folder, recipe, fails, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    line = fails(tmp_path, "train", phantom_folder, "--out", run, "--recipe", recipe, "--resume")
    assert line.endswith(f"Expected the recipe of the run to resume, found another: {run / 'recipe.toml'}")


@pytest.mark.parametrize(
    ("verb", "files", "found"),
    [
        ("train", ["recipe.toml", "environment.json"], "found another run; resume continues it: "),
        ("train", ["thesis.tex"], "found other files: "),
        ("evaluate", ["recipe.toml"], "found other files: "),
        ("predict", ["recipe.toml"], "found other files: "),
        ("export", ["recipe.toml"], "found something else: "),
    ],
)
def test_output_folder_that_holds_something_else_is_left_alone(
    dataset, echo_file, fails, recipe, tmp_path, verb, files, found
):
    (tmp_path / "out").mkdir()
    for name in files:
        run = name == RUN.marker
        (tmp_path / "out" / name).write_text(json.dumps(dict.fromkeys(RUN.names)) if run else recipe.read_text())
    arguments = {
        "train": [dataset],
        "evaluate": [echo_file, dataset],
        "predict": [dataset, "--model", echo_file],
        "export": [echo_file],
    }
    line = fails(tmp_path, verb, *arguments[verb], "--out", tmp_path / "out")
    assert line.endswith(f"{found}{tmp_path / 'out'}")


def arguments_of(verb, model, dataset, out):
    return {
        "evaluate": ["evaluate", model, dataset, "--out", out],
        "predict": ["predict", dataset, "--model", model, "--out", out],
        "export": ["export", model, "--out", out],
    }[verb]


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
@pytest.mark.parametrize("name", ["gone", "gone.keras", "empty.keras", "text.keras", "other.keras"])
def test_file_that_is_not_a_model_is_named(dataset, fails, tmp_path, keras_file_of_others, verb, name):
    (tmp_path / "empty.keras").touch()
    (tmp_path / "text.keras").write_text("hello")
    shutil.copy(keras_file_of_others, tmp_path / "other.keras")
    line = fails(tmp_path, *arguments_of(verb, tmp_path / name, dataset, tmp_path / "out"))
    assert line.endswith(str(tmp_path / name))


@pytest.fixture(scope="module")
def keras_file_of_others(tmp_path_factory):
    """The path of a Keras model not written by busseg."""
    keras = pytest.importorskip("keras")
    path = tmp_path_factory.mktemp("models") / "other.keras"
    keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Flatten()]).save(path)
    return path


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (["gone.png"], "found nothing: {folder}/gone.png"),
        (["empty"], "found none: {folder}/empty"),
        (["a/0.png", "b/0.png"], "two named 0.png: {folder}/a/0.png, {folder}/b/0.png"),
    ],
)  # fmt: skip
def test_bad_inputs_of_predict_are_named(echo_file, fails, tmp_path, inputs, found):
    (tmp_path / "empty").mkdir()
    for name in ("a/0.png", "b/0.png"):
        write_image(tmp_path / name, np.zeros((32, 32), np.uint8))
    paths = [tmp_path / name for name in inputs]
    line = fails(tmp_path, "predict", *paths, "--model", echo_file, "--out", tmp_path / "out")
    assert line.endswith(found.format(folder=tmp_path))


def test_unknown_format_and_dataset_are_errors(echo_file, fails, tmp_path):
    line = fails(tmp_path, "export", echo_file, "--format", "onyx", "--out", tmp_path / "out")
    assert line.endswith("Expected a format of saved_model, onnx, litert, openvino, web, found 'onyx'")
    line = fails(tmp_path, "download", "buzi", tmp_path / "out")
    assert line.endswith("Expected a dataset of busi, busbra, breast, bus_uclm, found 'buzi'")
    line = fails(tmp_path, "download", "udiat", tmp_path / "out")
    assert line.endswith("found udiat, which its authors send: see data/README.md")


def test_folder_that_is_not_empty_is_no_place_for_a_download(dataset, fails, tmp_path):
    assert fails(tmp_path, "download", "busi", dataset).endswith(f"found files in it: {dataset}")


def test_device_that_is_not_there_is_an_error(dataset, fails, tmp_path):
    line = fails(tmp_path, "predict", dataset / "benign/3.png", "--device", "gpu", "--out", tmp_path / "out")
    assert "Expected an ONNX Runtime that computes on a GPU" in line
    assert not (tmp_path / "out").exists()
