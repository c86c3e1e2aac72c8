import pickle

import keras
import numpy as np
import pytest

from busseg.data.splits import grouped_splits
from busseg.training.fit import fit
from busseg.training.recipe import Recipe


@pytest.fixture(scope="session")
def same():
    """Function that says whether two batches hold the same numbers in every part."""

    def same(one, other):
        one, other = keras.tree.flatten(one), keras.tree.flatten(other)
        return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    return same


# === A whole run ===
@pytest.fixture(scope="session")
def full_recipe():
    """All that a resumed run could get wrong: normalisation, dropout, sampling, augmentation, warm-up, decay."""
    return Recipe(
        image_size=32, width=4, depth=1, dropout=0.5, augmentation="card", balance="sampling", mask_loss="bce_dice",
        epochs=4, batch_size=4, learning_rate=1e-2, warmup_epochs=2, seed=5,
    )  # fmt: skip


@pytest.fixture(scope="session")
def split(phantom_samples):
    return grouped_splits(phantom_samples)[0]


@pytest.fixture(scope="session")
def run(once, full_recipe, split):
    """A whole run: its folder, to be read only, and the history that `fit` returned."""

    def train(folder):
        (folder / "history.pickle").write_bytes(pickle.dumps(fit(full_recipe, split, folder / "whole", fold=3)))

    folder = once("whole-run", train)
    return folder / "whole", pickle.loads((folder / "history.pickle").read_bytes())


@pytest.fixture(scope="session")
def run_files():
    """The files of every run, but its checkpoint and its logs."""
    return {"model.keras", "recipe.toml", "splits.csv", "history.csv", "environment.json"}


@pytest.fixture(scope="session")
def files_of():
    """Function that returns the files of a run but TensorBoard's."""

    def files_of(out):
        paths = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        return {path for path in paths if not path.startswith("logs/")}

    return files_of


@pytest.fixture(scope="session")
def state_of():
    """Function that returns every variable of a saved model and of its optimizer: pairs of path and NumPy array."""

    def state_of(path):
        model = keras.models.load_model(path)
        # Keras saves no random state, and draws another when it loads.
        variables = [v for v in model.variables if v.name != "seed_generator_state"] + model.optimizer.variables
        return [(variable.path, keras.ops.convert_to_numpy(variable)) for variable in variables]

    return state_of


@pytest.fixture(scope="session")
def precisions():
    """Function that returns the precisions in which the layers of a saved model compute."""

    def precisions(path):
        return {layer.compute_dtype for layer in keras.models.load_model(path, compile=False).layers if layer.weights}

    return precisions
