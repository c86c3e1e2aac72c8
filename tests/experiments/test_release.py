import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from busseg.data.fingerprints import fingerprint_samples, read_fingerprints
from busseg.data.sample import CLASSES
from busseg.data.splits import train_on_all
from busseg.evaluation.table import read_rows
from busseg.experiments.crossval import cross_validate
from busseg.experiments.release import release_model, score_together
from busseg.imaging.images import read_image
from busseg.inference.metadata import read_metadata
from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import load_keras
from busseg.models.serving import add_uncertainty, average
from busseg.storage.run_folder import PER_IMAGE
from busseg.training.fit import fit
from busseg.training.network import build_model
from busseg.training.recipe import Recipe

pytestmark = pytest.mark.slow  # three trainings and their exports, 40 seconds

RECIPE = Recipe(
    image_size=32, width=4, depth=2, flip_tta=True, mask_follows_class=True, augmentation="card", validation=False,
    mask_loss="bce_dice", label_loss="crossentropy", epochs=1, warmup_epochs=0, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, phantom_samples):
    """The folders of a cross-validation and of a run on all images."""
    folder = tmp_path_factory.mktemp("trained")
    cross_validate(phantom_samples, folder / "crossval", RECIPE, folds=2)
    fit(RECIPE, train_on_all(phantom_samples), folder / "run")
    return folder / "crossval", folder / "run"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # tf2onnx, under NumPy 2
def test_shipped_model_is_the_run_calibrated_that_knows_foreign_images(trained, phantom_samples, tmp_path):
    crossval, run = trained
    found = release_model(phantom_samples, [crossval], [run], tmp_path)
    assert {"model.keras", "model.onnx", "release.json", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "release.json").read_text()) == found
    assert 0 <= found["flagged"] <= 0.2
    assert found["operating_points"]["images"] == 10  # malignant phantoms
    for name in ("model.keras", "model.onnx"):
        metadata = read_metadata(tmp_path / name)
        assert metadata["operating_points"] == found["operating_points"]
        np.testing.assert_array_equal(read_fingerprints(metadata, name), fingerprint_samples(phantom_samples))

    images = [read_image(sample.image) for sample in phantom_samples]
    before, shipped = Predictor(run).predict_batch(images), Predictor(tmp_path / "model.onnx").predict_batch(images)
    for old, new in zip(before, shipped, strict=True):
        np.testing.assert_allclose(new.probability_map, old.probability_map, atol=1e-3)
        scaled = old.probabilities ** (1 / found["temperature"])
        np.testing.assert_allclose(new.probabilities, scaled / scaled.sum(), atol=1e-4)
    # The median distance of what it was trained with is 1, before the limit makes that 1.
    assert np.median([new.ood_score for new in shipped]) == pytest.approx(1 / found["ood_limit"], rel=0.02)
    assert np.mean([new.in_distribution for new in shipped]) > 0.9

    score_together(phantom_samples, [crossval], tmp_path)  # again, in its place


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # tf2onnx, under NumPy 2
def test_model_rounded_to_half_precision_answers_alike_in_both_formats(trained, phantom_samples, tmp_path):
    release_model(phantom_samples, *([folder] for folder in trained), tmp_path / "half", float16=True)
    kernels = [w for w in load_keras(tmp_path / "half/model.keras").get_weights() if w.ndim > 1]
    assert all(np.array_equal(kernel, kernel.astype(np.float16)) for kernel in kernels)
    images = [sample.image for sample in phantom_samples[::5]]
    answers = (Predictor(tmp_path / "half" / name).predict_batch(images) for name in ("model.keras", "model.onnx"))
    for keras, onnx in zip(*answers, strict=True):
        np.testing.assert_allclose(onnx.probability_map, keras.probability_map, atol=1e-5)
        np.testing.assert_allclose(onnx.probabilities, keras.probabilities, atol=1e-5)


def scores(folder):
    return {row["file"]: row for row in read_rows(folder / PER_IMAGE)}


@pytest.mark.slow
def test_one_cross_validation_scored_alone_has_its_own_scores(trained, phantom_samples, tmp_path):
    score_together(phantom_samples, trained[:1], tmp_path)
    before, after = scores(trained[0]), scores(tmp_path)
    assert before.keys() == after.keys()
    assert {row["known"] for row in after.values()} == {False}
    for name, row in before.items():
        assert after[name]["dice"] == pytest.approx(row["dice"], abs=1e-6)
        assert after[name]["fold"] == row["fold"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # tf2onnx, under NumPy 2
def test_networks_of_two_sizes_answer_with_their_mean_and_ship_as_one(trained, phantom_samples, tmp_path):
    smaller = replace(RECIPE, image_size=24, seed=1)
    for old, new in zip(trained, ("crossval", "run"), strict=True):
        shutil.copytree(old, tmp_path / new)
    for run in (tmp_path / "run", *(tmp_path / "crossval").glob("fold-*")):  # as if trained
        smaller.save(run / "recipe.toml")
        add_uncertainty(average(build_model(smaller), flip_tta=True)).save(run / "model.keras")
    crossvals, runs = [trained[0], tmp_path / "crossval"], [trained[1], tmp_path / "run"]
    found = release_model(phantom_samples, crossvals, runs, tmp_path / "out")

    score_together(phantom_samples, [tmp_path / "crossval"], tmp_path / "other")
    tables = [scores(folder) for folder in (trained[0], tmp_path / "other", tmp_path / "out")]
    assert_mean(*([[row[f"p_{label}"] for label in CLASSES] for row in table.values()] for table in tables))

    images = [sample.image for sample in phantom_samples[::5]]
    predicted = [Predictor(model).predict_batch(images) for model in (*runs, tmp_path / "out" / "model.onnx")]
    assert_mean(*([one.probabilities for one in each] for each in predicted), found["temperature"])


def assert_mean(one, other, both, temperature=1.0):
    """Assert that probabilities are the mean of two in logits, as nearly as the resized image of the second allows."""
    mean = (np.array(one) * np.array(other)) ** (0.5 / temperature)
    mean /= mean.sum(axis=1, keepdims=True)
    assert np.abs(both - mean).mean() < 0.2 * np.abs(np.subtract(one, other)).mean()


def test_folds_that_differ_are_refused(trained, phantom_samples, tmp_path):
    shutil.copytree(trained[0], tmp_path / "crossval")
    for fold, other in ((0, 1), (1, 0)):
        text = (trained[0] / f"fold-{other}" / "splits.csv").read_text()
        (tmp_path / f"crossval/fold-{fold}/splits.csv").write_text(text.replace(f"\n{other},", f"\n{fold},"))
    with pytest.raises(ValueError, match=r"^Expected cross-validations by the same folds, found others: "):
        score_together(phantom_samples, [trained[0], tmp_path / "crossval"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_networks_with_and_without_a_mirror_are_not_averaged(trained, phantom_samples, tmp_path):
    shutil.copytree(trained[0], tmp_path / "crossval")
    path = tmp_path / "crossval" / "fold-0" / "recipe.toml"
    path.write_text(path.read_text().replace("flip_tta = true", "flip_tta = false"))
    with pytest.raises(ValueError, match=r"^Expected flip_tta in all recipes or in no recipe, found another: "):
        score_together(phantom_samples, [trained[0], tmp_path / "crossval"], tmp_path / "out")


def test_a_run_is_needed_for_each_cross_validation(trained, phantom_samples, tmp_path):
    with pytest.raises(ValueError, match=r"^Expected a run for each cross-validation, found 2 and 1$"):
        release_model(phantom_samples, [trained[0]] * 2, [trained[1]], tmp_path)


def test_run_by_another_recipe_is_refused(trained, phantom_samples, tmp_path):
    crossval, run = trained
    text = (run / "recipe.toml").read_text()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.toml").write_text(text.replace("epochs = 1", "epochs = 2"))
    with pytest.raises(ValueError, match=r"^Expected the recipe of the cross-validation, found another: "):
        release_model(phantom_samples, [crossval], [tmp_path / "run"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else_is_refused_and_untouched(trained, phantom_samples, tmp_path):
    crossval, run = trained
    (tmp_path / "model.keras").write_text("mine")
    for start in (lambda: score_together(phantom_samples, [crossval], tmp_path),
                  lambda: release_model(phantom_samples, [crossval], [run], tmp_path)):  # fmt: skip
        with pytest.raises(FileExistsError, match=r"release\.json, found other files: "):
            start()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_folder_that_is_no_cross_validation_is_named(phantom_samples, tmp_path):
    gone, out = tmp_path / "gone", tmp_path / "out"
    for start in (
        lambda: score_together(phantom_samples, [gone], out),
        lambda: release_model(phantom_samples, [gone], [tmp_path], out),
    ):
        with pytest.raises(FileNotFoundError, match=r"^Expected the folder of a finished `busseg crossval`, .*gone$"):
            start()
    assert not (tmp_path / "out").exists()
