import json

import numpy as np
import pytest

from busseg.crossval import cross_validate
from busseg.data.images import read_image
from busseg.data.splits import train_on_all
from busseg.inference.predictor import Predictor
from busseg.ship import ship
from busseg.training.fit import fit
from busseg.training.recipe import Recipe

RECIPE = Recipe(
    image_size=32, width=4, depth=2, mirrored=True, reconciled=True, augmentation="card", validation=False,
    mask_loss="bce_dice", label_loss="crossentropy", epochs=1, warmup_epochs=0, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, phantom_samples):
    """The folders of a cross-validation and of a run on all images."""
    folder = tmp_path_factory.mktemp("trained")
    cross_validate(phantom_samples, folder / "crossval", RECIPE, folds=2)
    fit(RECIPE, train_on_all(phantom_samples), folder / "run")
    return folder / "crossval", folder / "run"


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # tf2onnx, under NumPy 2
def test_shipped_model_is_the_run_calibrated_that_knows_foreign_images(trained, phantom_samples, tmp_path):
    crossval, run = trained
    found = ship(phantom_samples, crossval, run, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "model.onnx", "shipped.json"}
    assert json.loads((tmp_path / "shipped.json").read_text()) == found
    assert 0 <= found["flagged"] <= 0.2

    images = [read_image(sample.image) for sample in phantom_samples]
    before, shipped = Predictor(run).predict_batch(images), Predictor(tmp_path / "model.onnx").predict_batch(images)
    for old, new in zip(before, shipped, strict=True):
        np.testing.assert_allclose(new.probability_map, old.probability_map, atol=1e-3)
        scaled = old.probabilities ** (1 / found["temperature"])
        np.testing.assert_allclose(new.probabilities, scaled / scaled.sum(), atol=1e-4)
    # The median distance of what it was trained with is 1, before the limit makes that 1.
    assert np.median([new.novelty for new in shipped]) == pytest.approx(1 / found["novelty_limit"], rel=0.02)
    assert np.mean([new.readable for new in shipped]) > 0.9

    ship(phantom_samples, crossval, run, tmp_path)  # again, in its place


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # tf2onnx, under NumPy 2
def test_half_precision_shrinks_the_file_and_both_formats_answer_alike(trained, phantom_samples, tmp_path):
    for name, float16 in (("whole", False), ("half", True)):
        ship(phantom_samples, *trained, tmp_path / name, float16)
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.9 * sizes[0]  # most of so small a network is the graph
    images = [sample.image for sample in phantom_samples[::5]]
    answers = (Predictor(tmp_path / "half" / name).predict_batch(images) for name in ("model.keras", "model.onnx"))
    for keras, onnx in zip(*answers, strict=True):
        # Batch normalization, which tf2onnx folds into the kernels, rounds them once more.
        np.testing.assert_allclose(onnx.probability_map, keras.probability_map, atol=2e-3)
        np.testing.assert_allclose(onnx.probabilities, keras.probabilities, atol=2e-3)


def test_run_by_another_recipe_is_refused(trained, phantom_samples, tmp_path):
    crossval, run = trained
    text = (run / "recipe.toml").read_text()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.toml").write_text(text.replace("epochs = 1", "epochs = 2"))
    with pytest.raises(ValueError, match=r"^Expected the recipe of the cross-validation, found another: "):
        ship(phantom_samples, crossval, tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
