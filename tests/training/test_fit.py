import dataclasses
import importlib.util
import json
import math
import shutil

import keras
import numpy as np
import pytest

from busseg.data.fingerprints import fingerprint_samples, read_fingerprints
from busseg.data.readers.busi import find_samples
from busseg.data.splits import Split, grouped_splits, read_split
from busseg.inference.metadata import read_metadata
from busseg.models.encoders import encode
from busseg.storage.files import read_csv
from busseg.storage.run_folder import RUN
from busseg.training.batches import Batches
from busseg.training.fit import fit
from busseg.training.network import build_model, compile_model
from busseg.training.optimizer import SlowEncoderAdamW
from busseg.training.recipe import Recipe, load_recipe
from busseg.training.run import RunKeeper

# An epoch of one step: half the time of two.
QUICK = Recipe(
    image_size=32, width=4, depth=1, dropout=0.5, augmentation="card", balance="sampling", mask_loss="bce_dice",
    epochs=1, batch_size=32, learning_rate=1e-2, warmup_epochs=0, seed=5,
)  # fmt: skip


HAS_TENSORBOARD = importlib.util.find_spec("tensorflow") is not None


def state_of(path):
    """Every variable of a saved model and of its optimizer, as pairs of path and NumPy array."""
    model = keras.models.load_model(path)
    # Keras saves no random state, and draws another when it loads.
    variables = [v for v in model.variables if v.name != "seed_generator_state"] + model.optimizer.variables
    return [(variable.path, keras.ops.convert_to_numpy(variable)) for variable in variables]


def test_graph_of_a_step_is_built_once(split, tmp_path, monkeypatch):
    """Twice, as Keras builds it for variables that are still missing, takes seconds."""
    updated, update_step = [], SlowEncoderAdamW.update_step

    def count(self, gradient, variable, learning_rate):
        updated.append(variable)
        return update_step(self, gradient, variable, learning_rate)

    monkeypatch.setattr(SlowEncoderAdamW, "update_step", count)
    fit(dataclasses.replace(QUICK, batch_size=16, validation=False), split, tmp_path)  # the last batch is smaller
    assert len(split.train) % 16
    assert len(updated) == len(keras.models.load_model(tmp_path / "model.keras").trainable_variables)


# === What a run leaves ===
def test_folder_holds_what_is_promised_and_no_more(run, run_files, files_of):
    out, _ = run
    assert files_of(out) == run_files | {"checkpoints/0004.keras"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"checkpoints"} | (
        {"logs"} if HAS_TENSORBOARD else set()
    )


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="Keras writes TensorBoard's files through TensorFlow")
def test_logs_are_tensorboards(run):
    out, _ = run
    assert {path.parent.name for path in (out / "logs").rglob("events.out.tfevents*")} == {"train", "validation"}


def test_recipe_and_split_can_be_read_back(run, split, phantom_samples, full_recipe):
    out, _ = run
    assert load_recipe(out / "recipe.toml") == full_recipe
    assert read_split(out / "splits.csv", phantom_samples, fold=3) == split


def test_environment_names_backend_packages_and_images(run, split):
    out, _ = run
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert environment["backend"] == keras.backend.backend()
    assert environment["packages"]["keras"] == keras.__version__
    assert environment["images"] == {part: len(getattr(split, part)) for part in ("train", "validation", "test")}


def test_model_knows_what_it_was_trained_and_chosen_with(run, split):
    out, _ = run
    found = read_fingerprints(read_metadata(out), out)
    np.testing.assert_array_equal(found, fingerprint_samples(split.train + split.validation))


def test_history_is_a_row_an_epoch_and_is_returned(run):
    out, history = run
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    names = {"loss", "mask_loss", "label_loss", "mask_lesion_dice", "mask_lesion_iou", "mask_clean_normal_rate"}
    names |= {"label_accuracy", "label_auc"}
    assert set(history[0]) == {"epoch", "learning_rate"} | names | {f"val_{name}" for name in names}
    assert read_csv(out / "history.csv") == [{name: str(value) for name, value in row.items()} for row in history]


def test_learning_rate_warms_up_and_falls_by_a_cosine(run, full_recipe):
    _, history = run
    warm_up = [0.5, 1]
    cosine = [0.5 * (1 + math.cos(math.pi * epoch / 2)) for epoch in (1, 2)]
    expected = [full_recipe.learning_rate * share for share in warm_up + cosine]
    assert [row["learning_rate"] for row in history] == pytest.approx(expected, abs=1e-9)


def test_run_learns(run):
    _, history = run
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(math.isfinite(value) for row in history for value in row.values())


def test_model_is_that_of_the_epoch_with_the_lowest_validation_loss(run, split, full_recipe):
    out, history = run
    validation = Batches(split.validation, full_recipe.image_size, full_recipe.batch_size)
    scores = keras.models.load_model(out / "model.keras").evaluate(validation, verbose=0, return_dict=True)
    best = min(history, key=lambda row: row["val_loss"])
    assert {f"val_{name}": value for name, value in scores.items()} == {
        name: pytest.approx(value, rel=1e-4) for name, value in best.items() if name.startswith("val_")
    }


def test_network_is_the_recipes(full_recipe):
    model = build_model(
        dataclasses.replace(full_recipe, encoder="efficientnet_lite0", decoder="add", frozen=1, fold_batch_norm=True)
    )
    frozen = {layer.name.split("_")[0] for layer in model.layers if layer.weights and not layer.trainable}
    assert frozen == {"encoder0"}
    assert {layer.name for layer in model.layers} >= {"encoder1_block2_add", "decoder0_add"}
    assert not any(layer.name.startswith("encoder") and layer.name.endswith("_norm") for layer in model.layers)


def test_network_begins_with_the_recipes_weights(full_recipe, tmp_path):
    image = keras.Input((None, None, 1))
    encoder = keras.Model(image, encode(image, width=full_recipe.width, depth=full_recipe.depth))
    encoder.save_weights(tmp_path / "mine.weights.h5")
    model = build_model(dataclasses.replace(full_recipe, weights=str(tmp_path / "mine.weights.h5")))
    for layer in (layer for layer in encoder.layers if layer.weights):
        for given, expected in zip(model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(given, expected)


def test_precision_of_the_recipe_is_that_of_its_network_alone(full_recipe):
    before = keras.config.dtype_policy()
    model = build_model(dataclasses.replace(full_recipe, precision="mixed_bfloat16"))
    assert model.get_layer("encoder0_conv1").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy() == before


def test_patience_stops_a_run_that_gets_no_better(split, run_files, files_of, tmp_path, without_graphs):
    # Steps too small to change a weight: every epoch validates as the first, which stays the best.
    recipe = dataclasses.replace(QUICK, epochs=9, patience=2, learning_rate=1e-30, normalization="none")
    history = fit(recipe, split, tmp_path)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert len({row["val_loss"] for row in history}) == 1
    assert files_of(tmp_path) == run_files | {"checkpoints/0003.keras"}
    assert fit(recipe, split, tmp_path, resume=True) == history


# === Without a validation part ===
def test_without_validation_its_part_is_trained_with_and_the_last_epoch_kept(
    split, phantom_samples, tmp_path, without_graphs
):
    recipe = dataclasses.replace(QUICK, validation=False, epochs=2)
    history = fit(recipe, split, tmp_path, fold=1)
    assert not any(name.startswith("val_") for name in history[0])
    written = read_split(tmp_path / "splits.csv", phantom_samples, fold=1)
    assert written == Split(split.train + split.validation, (), split.test)
    for (path, kept), (_, last) in zip(
        state_of(tmp_path / "model.keras"), state_of(tmp_path / "checkpoints/0002.keras"), strict=True
    ):
        np.testing.assert_array_equal(kept, last, err_msg=path)
    assert fit(recipe, split, tmp_path, resume=True) == history
    assert fit(recipe, written, tmp_path, resume=True) == history


def test_part_that_is_scored_is_never_trained_with(split, tmp_path, without_graphs):
    scored = Split(split.train, split.test, ())
    history = fit(dataclasses.replace(QUICK, validation=False), scored, tmp_path)
    assert "val_loss" in history[0]
    found = read_fingerprints(read_metadata(tmp_path), tmp_path)
    np.testing.assert_array_equal(found, fingerprint_samples(split.train))


def test_all_of_a_dataset_can_be_trained_with(phantom_samples, tmp_path, without_graphs):
    everything = Split(tuple(phantom_samples), (), ())
    fit(dataclasses.replace(QUICK, validation=False), everything, tmp_path)
    assert read_split(tmp_path / "splits.csv", phantom_samples) == everything


# === Mirrored ===
def test_mirrored_model_is_the_networks_mean(split, tmp_path, without_graphs):
    fit(dataclasses.replace(QUICK, flip_tta=True), split, tmp_path)
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 1)).astype(np.float32)
    network = keras.models.load_model(tmp_path / "checkpoints/0001.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    here, there = (network.predict_on_batch(x)["mask"] for x in (image, image[:, :, ::-1]))
    found = model.predict_on_batch(image)
    np.testing.assert_allclose(found["mask"], (here + there[:, :, ::-1]) / 2, atol=1e-6)


def test_mask_that_follows_the_class_has_a_lesion_where_the_class_has_one(split, tmp_path, without_graphs):
    fit(dataclasses.replace(QUICK, mask_follows_class=True), split, tmp_path)
    model = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 1)).astype(np.float32)
    found = model.predict_on_batch(images)
    np.testing.assert_array_equal(found["mask"].max((1, 2, 3)) >= 0.5, found["label"].argmax(1) > 0)
    assert found["uncertainty"].shape == (4, 1)


# === In half precision ===
@pytest.mark.parametrize("resumed", [False, True])
def test_network_in_half_precision_is_kept_in_float32_and_answers_nearly_as_it_did(
    full_recipe, precisions, tmp_path, resumed
):
    recipe = dataclasses.replace(full_recipe, precision="mixed_bfloat16")
    trained = build_model(recipe)
    random = np.random.default_rng(0)
    trained.set_weights([weight + random.normal(0, 0.02, weight.shape) for weight in trained.get_weights()])
    if resumed:
        trained.save(tmp_path / "before.keras")
        trained = keras.models.load_model(tmp_path / "before.keras")
    compile_model(trained, recipe, steps_per_epoch=5)
    keeper = RunKeeper(tmp_path, [], recipe)
    keeper.set_model(trained)

    keeper.on_epoch_end(0, {"val_loss": 1.0})

    assert precisions(tmp_path / "checkpoints/0001.keras") == {"bfloat16", "float32"}  # the heads are in float32
    assert precisions(tmp_path / "model.keras") == {"float32"}
    model = keras.models.load_model(tmp_path / "model.keras")
    for kept, expected in zip(model.weights, trained.weights, strict=True):
        assert kept.path == expected.path
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(kept), keras.ops.convert_to_numpy(expected))
    images = random.uniform(0, 255, (2, 32, 32, 1)).astype(np.float32)
    for name, expected in trained.predict_on_batch(images).items():
        difference = np.abs(model.predict_on_batch(images)[name] - expected).max()
        assert 0 < difference < 0.02, name


# === Wrong use ===
def test_training_that_fails_in_its_first_epoch_leaves_no_run_that_refuses_another(
    full_recipe, files_of, tmp_path, split, monkeypatch
):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(keras.Model, "fit", fail)
    for batch_size in (16, 8):
        with pytest.raises(MemoryError):
            fit(dataclasses.replace(full_recipe, batch_size=batch_size), split, tmp_path / "run")
        assert not files_of(tmp_path / "run")


DIVERGING = dataclasses.replace(QUICK, batch_size=16, learning_rate=1e30, label_loss="crossentropy")


def test_training_that_diverges_stops_and_leaves_no_model(files_of, tmp_path, split, without_graphs):
    with pytest.raises(ValueError, match=r"^Expected losses and weights that are finite .* in epoch 1; "):
        fit(DIVERGING, split, tmp_path / "run")
    assert not files_of(tmp_path / "run")


@pytest.mark.parametrize(
    "broken", ["loss", *(pytest.param(name, marks=pytest.mark.slow) for name in ("val_loss", "weights"))]
)
def test_epoch_that_diverges_is_not_kept_and_those_before_are(
    run_files, files_of, tmp_path, split, monkeypatch, broken, without_graphs
):
    recipe = dataclasses.replace(QUICK, epochs=2)
    end = RunKeeper.on_epoch_end

    def diverge(self, epoch, logs=None):
        if epoch == 1 and broken == "weights":
            self.model.set_weights([np.full_like(weight, np.inf) for weight in self.model.get_weights()])
        end(self, epoch, logs | ({broken: math.nan} if epoch == 1 and broken in logs else {}))

    monkeypatch.setattr(RunKeeper, "on_epoch_end", diverge)
    with pytest.raises(ValueError, match=r"finite numbers, found .* in epoch 2; .*\. Epochs kept: 1$"):
        fit(recipe, split, tmp_path / "run")
    assert files_of(tmp_path / "run") == run_files | {"checkpoints/0001.keras"}
    assert len(read_csv(tmp_path / "run/history.csv")) == 1
    monkeypatch.undo()
    assert len(fit(recipe, split, tmp_path / "run", resume=True)) == 2


def test_folder_with_something_else_is_refused(split, full_recipe, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(
        FileExistsError, match=r"^Expected an empty folder or one with environment\.json, found other files"
    ):
        fit(full_recipe, split, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_split_without_validation_is_refused_and_leaves_nothing(split, full_recipe, tmp_path):
    with pytest.raises(ValueError, match=r"^Expected a validation part to choose the model by, found none"):
        fit(full_recipe, dataclasses.replace(split, validation=()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recipe_that_no_network_fits_is_refused_and_leaves_no_run(split, full_recipe, tmp_path):
    with pytest.raises(ValueError, match="The nearest is 96"):
        fit(dataclasses.replace(full_recipe, image_size=100, depth=5), split, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_of_a_run_that_was_killed_before_it_began_is_taken(split, tmp_path, without_graphs):
    # The first file that a run writes, and what a kill in the middle of the last one leaves.
    (tmp_path / "environment.json").write_text(json.dumps(dict.fromkeys(RUN.names)))
    (tmp_path / ".busseg-x1").mkdir()
    fit(QUICK, split, tmp_path)
    assert load_recipe(tmp_path / "recipe.toml").epochs == 1


def test_broken_image_is_named_before_the_first_epoch_and_leaves_no_run(phantom_folder, full_recipe, tmp_path):
    shutil.copytree(phantom_folder, tmp_path / "data")
    split = grouped_splits(find_samples(tmp_path / "data"))[0]
    broken = split.validation[-1].image  # the last to be read
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"phantom \w+ \(\d+\)\.png") as error:
        fit(full_recipe, split, tmp_path / "run")
    assert str(broken) in str(error.value)
    assert not (tmp_path / "run").exists()
