"""A run's folder: what is written of a training, after every epoch and at its start."""

import dataclasses
import functools
import importlib.metadata
import json
import math
import platform
import shlex
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np

from busseg.data.splits import PARTS, Split, read_split, write_splits
from busseg.models.serving import add_uncertainty, average, make_mask_follow_class
from busseg.storage.archives import add_metadata
from busseg.storage.files import blaming, read_csv, replacing, write_csv, write_text
from busseg.storage.run_folder import CHECKPOINTS, ENVIRONMENT, HISTORY, LOGS, MODEL, RECIPE, SPLITS
from busseg.training.network import build_model
from busseg.training.parallel import Devices, apart
from busseg.training.recipe import Recipe, load_recipe


class RunKeeper(keras.callbacks.Callback):
    """Writes the run's folder: history, best model, checkpoint. Stops when patience is out.

    It writes after every epoch, or, where epochs are shorter than a pause, after those that end one, and the last.

    Keras' own callbacks for these forget at a restart which epoch was best and how long ago. This one reads it from the
    history, its only state, so a killed and resumed run ends like an uninterrupted one. The checkpoint is written last,
    so an interrupted epoch is repeated.

    Args:
        out: Path of the run's folder; None where another process writes it.
        history: List of dicts, the epochs so far; grows.
        recipe: The `Recipe`.
        metadata: Dict to store in the model; see `add_metadata`. None stores nothing.
        pause: Seconds of training between two writings, at least.
    """

    def __init__(
        self, out: Path | None, history: list[dict], recipe: Recipe, metadata: dict | None = None, pause: float = 0
    ):
        super().__init__()
        self.pause = pause
        self._written = time.monotonic()
        self._best_weights = None  # of an epoch that is not written yet
        self.out = out
        self.history = history
        self.recipe = recipe
        self.metadata = metadata

    @property
    def best(self) -> int:
        """Number of the best epoch, from 1; of the last one without a validation part."""
        losses = [row["val_loss"] for row in self.history if "val_loss" in row]
        return losses.index(min(losses)) + 1 if losses else len(self.history)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or patience is out."""
        epochs = len(self.history)
        return epochs >= self.recipe.epochs or epochs - self.best >= self.recipe.patience

    def on_epoch_begin(self, epoch, logs=None):
        # No checkpoint holds dropout's random state, so each epoch sets its own.
        for number, variable in enumerate(self.model.variables):
            if variable.name == "seed_generator_state":
                variable.assign([self.recipe.seed + epoch, number])

    def on_epoch_end(self, epoch, logs=None):
        weights = self._finite_weights(logs)
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.history.append({"epoch": epoch + 1, "learning_rate": learning_rate, **logs})
        if self.best == len(self.history):
            self._best_weights = weights
        if self.out and (self.finished or time.monotonic() - self._written >= self.pause):
            with apart():  # otherwise Keras waits for the other processes, which do not save
                self._keep(epoch)
            self._written = time.monotonic()
        self.model.stop_training = self.finished

    def _finite_weights(self, logs):
        """The weights. Raises before a network is kept that cannot recover: its loss or a weight is not finite."""
        weights = self.model.get_weights()
        losses = {name: logs[name] for name in ("loss", "val_loss") if name in logs}
        broken = [f"{name} {value}" for name, value in losses.items() if not math.isfinite(value)]
        if not broken and not all(np.isfinite(array).all() for array in weights):
            broken = ["weights that are not finite"]
        if broken:
            count = len(self.history)
            raise ValueError(
                f"Expected losses and weights that are finite numbers, found {', '.join(broken)} in epoch {count + 1}; "
                f"a smaller learning_rate may help. Epochs kept: {count}"
            )
        return weights

    def _keep(self, epoch):
        if self._best_weights:
            self._save(self._served(), self.out / MODEL, self.metadata)
            self._best_weights = None
        write_csv(self.out / HISTORY, list(self.history[0]), self.history)
        checkpoint = checkpoint_path(self.out, epoch + 1)
        self._save(self.model, checkpoint)
        for old in _checkpoints(self.out):
            if old != checkpoint:
                old.unlink()

    def _served(self):
        """The model for inference: in float32, which every machine and export format supports, with its wrappers."""
        plain = self.recipe.precision == "float32" and not self.recipe.flip_tta and not self.recipe.mask_follows_class
        if plain and self.best == len(self.history):
            return self.model
        network, served = self._copy
        network.set_weights(self._best_weights)
        return served

    @functools.cached_property
    def _copy(self):
        network = served = build_model(dataclasses.replace(self.recipe, precision="float32", weights="none"))
        if self.recipe.flip_tta:
            served = average(served, flip_tta=True)
        if self.recipe.mask_follows_class:
            served = make_mask_follow_class(
                add_uncertainty(served)
            )  # the uncertainty is of the mask before it is scaled
        return network, served

    @staticmethod
    def _save(model, path, metadata=None):
        with replacing(path) as temporary:
            model.save(temporary)
            if metadata:
                add_metadata(temporary, metadata)


def checkpoint_path(out: Path, epochs: int) -> Path:
    """Path of the checkpoint after so many epochs."""
    return out / CHECKPOINTS / f"{epochs:04d}.keras"


def _checkpoints(out):
    return sorted(path for path in checkpoint_path(out, 0).parent.glob("*.keras") if path.stem.isdecimal())


def write_run(out: Path, recipe: Recipe, split: Split, fold: int, devices: Devices) -> None:
    """Write environment, split and recipe of a new run. The recipe is last: where it exists, the others do."""
    write_text(out / ENVIRONMENT, json.dumps(_environment(split, devices), indent=2) + "\n")
    write_splits(out / SPLITS, [split], first_fold=fold, force=True)
    recipe.save(out / RECIPE)


def forget_run(out: Path) -> None:
    """Undo `write_run`, and remove the logs."""
    for name in (RECIPE, SPLITS, ENVIRONMENT):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)


def read_run(out: Path, recipe: Recipe, split: Split) -> list[dict]:
    """The history of the run in `out`, up to its checkpoint.

    Raises:
        ValueError: If the run has another recipe or split.
    """
    if load_recipe(out / RECIPE) != recipe:
        raise ValueError(f"Expected the recipe of the run to resume, found another: {out / RECIPE}")
    samples = [sample for part in PARTS for sample in getattr(split, part)]
    if read_split(out / SPLITS, samples) != split:
        raise ValueError(f"Expected the split of the run to resume, found another: {out / SPLITS}")
    checkpoints = _checkpoints(out)
    if not checkpoints:
        return []
    # A kill between the two leaves a row without its checkpoint; that epoch is repeated.
    rows = read_csv(out / HISTORY)[: int(checkpoints[-1].stem)]
    with blaming(out / HISTORY, "the history of a run"):
        return [{key: float(value) for key, value in row.items()} | {"epoch": int(row["epoch"])} for row in rows]


def _environment(split, devices):
    packages = ("busseg", "keras", "tensorflow", "jax", "torch", "numpy", "opencv-python-headless", "albumentations")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": keras.backend.backend(),
        "devices": devices.names,
        "processes": devices.processes,
        "packages": versions,
        "images": {part: len(getattr(split, part)) for part in PARTS},
    }
