"""Train one model by a recipe, and keep after every epoch all that a killed run needs to go on."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import math
import platform
import shlex
import shutil
import sys
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
from rich.progress import track

from busseg.data.fingerprints import describe_fingerprints, fingerprint_samples
from busseg.data.sample import LABEL, MASK, TASKS
from busseg.data.splits import PARTS, Split, learnt, read_split, write_splits
from busseg.models.classifier import build_classifier
from busseg.models.serving import add_uncertainty, average, make_mask_follow_class
from busseg.models.unet import build_unet
from busseg.storage.archives import add_metadata
from busseg.storage.claims import check_folder, claim_folder
from busseg.storage.files import blaming, read_csv, replacing, write_csv, write_text
from busseg.storage.run_folder import CHECKPOINTS, ENVIRONMENT, HISTORY, LOGS, MODEL, RECIPE, RUN, SPLITS
from busseg.training.batches import Batches
from busseg.training.losses import LABEL_LOSSES, MASK_LOSSES
from busseg.training.metrics import CleanNormalRate, LesionDice, LesionIoU
from busseg.training.optimizer import SlowEncoderAdamW
from busseg.training.parallel import apart, one_device
from busseg.training.recipe import load_recipe


def fit(recipe, split, out, fold=0, resume=False, workers=2, devices=None):
    """Train a network: a U-Net for ultrasound, a classifier for tissue.

    The folder `out` then holds `model.keras`, the epoch with the lowest validation loss, with the fingerprints of the
    images it was trained and chosen with; `recipe.toml`, `splits.csv`,
    `history.csv` (a row an epoch), `environment.json`, TensorBoard's `logs/`, and `checkpoints/`, the last epoch with
    the optimizer's state.

    With `validation = false` in the recipe the validation part is trained with, too, and the model is the last epoch.
    Not so in a split without a test part, which is scored on its validation part. With a `magnification` only images of
    that one are trained and validated with.

    Args:
        recipe: A `Recipe`.
        split: A `Split`. Its test part is written down and not looked at.
        out: Path of the run's folder.
        fold: Number of the fold, for `splits.csv`.
        resume: Whether to go on with the run that `out` holds. The rest of the run is as it would have been.
        workers: Number of threads that prepare batches.
        devices: The `parallel.Devices` to train on; the one that Keras chooses by default. Of several processes, each
            calls this with the same arguments but its own `devices`, and with an `out` that all of them see.

    Returns:
        The history: a list of dicts, one an epoch.

    Raises:
        FileExistsError: If `out` holds a run and `resume` is False, or holds something else.
        BlockingIOError: If another process trains there.
        ValueError: If the run to resume has another recipe or split, a part that is needed is empty, no network fits
            the recipe, or the loss or a weight is no longer a finite number. The epochs before that one are kept.
        OSError: If an image cannot be read, or the folder not written.
    """
    devices = devices or one_device()
    split = _parts_to_learn(recipe, split)
    out = Path(out)
    check_folder(out, RUN)
    with claim_folder(out, RUN) if devices.keeps else nullcontext():
        begun = (out / RECIPE).exists()
        if begun and not resume:
            raise FileExistsError(f"Expected a new folder, found another run; resume goes on with it: {out}")
        history = _read_run(out, recipe, split) if begun else []
        with devices.sharing():
            return _fit(recipe, split, out, fold, history, begun, workers, devices)


def _parts_to_learn(recipe, split):
    if recipe.magnification:
        learnt = ([s for s in part if s.attributes.get("magnification") == str(recipe.magnification)]
                  for part in (split.train, split.validation))  # fmt: skip
        split = Split(*map(tuple, learnt), split.test)
    if not recipe.validation and split.test:
        split = Split(split.train + split.validation, (), split.test)
    if recipe.validation and not split.validation:
        raise ValueError("Expected a validation part to choose the model by, found none in the split")
    return split


def _fit(recipe, split, out, fold, history, begun, workers, devices):
    keras.utils.set_random_seed(recipe.seed)
    # A run that goes on has its weights in its checkpoint, also where those it began with are gone.
    model = build_model(dataclasses.replace(recipe, weights="none") if history else recipe)
    options = {
        "workers": devices.threads(workers), "task": recipe.task,
        "devices": len(devices.names), "process": devices.process, "processes": devices.processes,
    }  # fmt: skip
    train = Batches(
        split.train, recipe.image_size, recipe.batch_size, augmentation=recipe.augmentation, shuffle=True,
        balance=recipe.balance, balance_power=recipe.balance_power, normals_drawn=recipe.normals_drawn,
        lesion_free=recipe.lesion_free, grey_transfer=recipe.grey_transfer, seed=recipe.seed,
        epoch=len(history), **options,
    )  # fmt: skip
    read = [train]
    validation = None
    if split.validation:
        validation = Batches(split.validation, recipe.image_size, recipe.batch_size, **options)
        read.append(validation)
    # Read everything once: a broken file shows before the first epoch, by name, and fills the cache.
    to_read = [(batches, index) for batches in read for index in range(len(batches.samples))]
    for batches, index in track(to_read, "Reading images", disable=not devices.keeps):
        batches.load(index)
    # Nobody writes before all have looked at what is there.
    devices.agree([recipe, *([s.name for s in getattr(split, part)] for part in PARTS), len(history), begun])
    if not begun and devices.keeps:  # only now, so that a recipe of no network or a broken image leaves no run behind
        _write_run(out, recipe, split, fold, devices)

    if history:
        with _precision(recipe.precision):  # or else Keras forgets to scale the loss of "mixed_float16"
            model = keras.models.load_model(_checkpoint(out, len(history)))
    else:
        compile_model(model, recipe, steps_per_epoch=len(train))
    metadata = None
    if devices.keeps:
        prints = fingerprint_samples(learnt(split), lambda samples: track(samples, "Taking fingerprints"))
        metadata = describe_fingerprints(prints)
    keeper = RunKeeper(out if devices.keeps else None, history, recipe, metadata)
    callbacks = [keeper]
    if devices.keeps and importlib.util.find_spec("tensorflow"):  # Keras writes TensorBoard's files through TensorFlow
        callbacks.append(keras.callbacks.TensorBoard(out / LOGS, write_graph=False))
    if not keeper.finished:
        try:
            _train(model, train, validation, recipe, history, callbacks, devices)
        except Exception:  # too little memory, say; a run that has no epoch would refuse another recipe
            if not history and not begun and devices.keeps:
                _forget_run(out)
            raise
    return history


def _train(model, train, validation, recipe, history, callbacks, devices):
    if keras.backend.backend() != "tensorflow":
        # Or else Keras builds the metrics by a first batch that it takes from the threads which prepare them, and
        # hands on to the first epoch what they have prepared since, of the one before.
        model.test_on_batch(*train[0])
    # `Batches` shuffles by seed and epoch; Keras' own shuffling on top would differ after a restart.
    model.fit(
        train, validation_data=validation, epochs=recipe.epochs, initial_epoch=len(history), shuffle=False,
        callbacks=callbacks, verbose=0 if not devices.keeps else 1 if sys.stdout.isatty() else 2,
    )  # fmt: skip


def build_model(recipe):
    """The network of a recipe, with new weights."""
    settings = {
        "classes": len(TASKS[recipe.task]),
        "weights": None if recipe.weights == "none" else recipe.weights,
        **{
            name: getattr(recipe, name)
            for name in ("image_size", "encoder", "width", "depth", "frozen", "frozen_depthwise", "fold_batch_norm",
                         "dropout", "normalization", "cbam")
        },
    }  # fmt: skip
    with _precision(recipe.precision):
        if recipe.task != "ultrasound":
            return build_classifier(**settings)
        return build_unet(**settings, decoder=recipe.decoder, attention_gates=recipe.attention_gates)


@contextmanager
def _precision(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compile_model(model, recipe, steps_per_epoch):
    """Compile a network by a recipe: losses with their weights, metrics, Adam with warm-up and cosine."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    learning_rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(1, recipe.epochs * steps_per_epoch - warmup),
    )
    optimizer = SlowEncoderAdamW(
        recipe.encoder_rate, recipe.head_epochs * steps_per_epoch,
        learning_rate=learning_rate, weight_decay=recipe.weight_decay,
    )  # fmt: skip
    losses, weights = {LABEL: LABEL_LOSSES[recipe.label_loss]()}, {LABEL: recipe.label_weight}
    auc = keras.metrics.AUC(multi_label=True, num_labels=len(TASKS[recipe.task]), name="auc")
    metrics = {LABEL: ["accuracy", auc]}
    if MASK in model.output:
        losses[MASK], weights[MASK] = MASK_LOSSES[recipe.mask_loss](), recipe.mask_weight
        metrics[MASK] = [LesionDice(), LesionIoU(), CleanNormalRate()]
    # Weighted, because the label of a sample without one has weight 0, and so has an image that fills up a batch.
    model.compile(optimizer, losses, weights, weighted_metrics=metrics)


class RunKeeper(keras.callbacks.Callback):
    """Keeps the run's folder after every epoch: history, best model, checkpoint. Stops when patience is out.

    Keras' own callbacks for these forget at a restart which epoch was best and how long ago. Here that is read off the
    history, which is all the state there is, so a run that was killed ends as one that was not. The checkpoint comes
    last: whatever a kill leaves half done before it is done again, the same way.

    Args:
        out: Path of the run's folder; None where another process keeps it.
        history: List of dicts, the epochs so far; grows.
        recipe: The `Recipe`.
        metadata: Dict, what the model is to tell of itself; see `add_metadata`. None adds nothing.
    """

    def __init__(self, out, history, recipe, metadata=None):
        super().__init__()
        self.out = out
        self.history = history
        self.recipe = recipe
        self.metadata = metadata

    @property
    def best(self):
        """Number of epochs up to and with the best one, or the last one where nothing chooses."""
        losses = [row["val_loss"] for row in self.history if "val_loss" in row]
        return losses.index(min(losses)) + 1 if losses else len(self.history)

    @property
    def finished(self):
        epochs = len(self.history)
        return epochs >= self.recipe.epochs or epochs - self.best >= self.recipe.patience

    def on_epoch_begin(self, epoch, logs=None):
        # Dropout's random state is in no checkpoint; set anew for each epoch, it needs none.
        for number, variable in enumerate(self.model.variables):
            if variable.name == "seed_generator_state":
                variable.assign([self.recipe.seed + epoch, number])

    def on_epoch_end(self, epoch, logs=None):
        self._refuse_not_finite(logs)
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.history.append({"epoch": epoch + 1, "learning_rate": learning_rate, **logs})
        if self.out:
            with apart():  # or else Keras, to save, asks the other processes, which do not
                self._keep(epoch)
        self.model.stop_training = self.finished

    def _refuse_not_finite(self, logs):
        """Such a network answers nothing ever again, so it is not kept."""
        losses = {name: logs[name] for name in ("loss", "val_loss") if name in logs}
        broken = [f"{name} {value}" for name, value in losses.items() if not math.isfinite(value)]
        if not broken and not all(np.isfinite(weights).all() for weights in self.model.get_weights()):
            broken = ["weights that are none"]
        if broken:
            count = len(self.history)
            raise ValueError(
                f"Expected losses and weights that are finite numbers, found {', '.join(broken)} in epoch {count + 1}; "
                f"a smaller learning_rate may help. Epochs kept: {count}"
            )

    def _keep(self, epoch):
        if self.best == len(self.history):
            self._save(self._served(), self.out / MODEL, self.metadata)
        write_csv(self.out / HISTORY, list(self.history[0]), self.history)
        checkpoint = _checkpoint(self.out, epoch + 1)
        self._save(self.model, checkpoint)
        for old in _checkpoints(self.out):
            if old != checkpoint:
                old.unlink()

    def _served(self):
        """The network as it is used once trained: in float32, which every machine and every exported format can."""
        if self.recipe.precision == "float32" and not self.recipe.flip_tta and not self.recipe.mask_follows_class:
            return self.model
        network, served = self._copy
        network.set_weights(self.model.get_weights())
        return served

    @functools.cached_property
    def _copy(self):
        network = served = build_model(dataclasses.replace(self.recipe, precision="float32", weights="none"))
        if self.recipe.flip_tta:
            served = average(served, flip_tta=True)
        if self.recipe.mask_follows_class:
            served = make_mask_follow_class(add_uncertainty(served))  # which reads it off the map before that is scaled
        return network, served

    @staticmethod
    def _save(model, path, metadata=None):
        with replacing(path) as temporary:
            model.save(temporary)
            if metadata:
                add_metadata(temporary, metadata)


def _checkpoint(out, epochs):
    return out / CHECKPOINTS / f"{epochs:04d}.keras"


def _checkpoints(out):
    return sorted(path for path in _checkpoint(out, 0).parent.glob("*.keras") if path.stem.isdecimal())


def _write_run(out, recipe, split, fold, devices):
    """Write down what a run is made of. The recipe comes last: where it is, the rest is, too."""
    write_text(out / ENVIRONMENT, json.dumps(_environment(split, devices), indent=2) + "\n")
    write_splits(out / SPLITS, [split], first_fold=fold, force=True)
    recipe.save(out / RECIPE)


def _forget_run(out):
    """Undo `_write_run`, and what was begun since."""
    for name in (RECIPE, SPLITS, ENVIRONMENT):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)


def _read_run(out, recipe, split):
    """Check what the run in `out` is made of; return the epochs it has done."""
    if load_recipe(out / RECIPE) != recipe:
        raise ValueError(f"Expected the recipe of the run to resume, found another: {out / RECIPE}")
    samples = [sample for part in PARTS for sample in getattr(split, part)]
    if read_split(out / SPLITS, samples) != split:
        raise ValueError(f"Expected the split of the run to resume, found another: {out / SPLITS}")
    checkpoints = _checkpoints(out)
    if not checkpoints:
        return []
    # A kill between the two leaves one row more than the checkpoint knows of; that epoch is done again.
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
