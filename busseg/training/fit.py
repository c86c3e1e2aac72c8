"""Train one model by a recipe. After every epoch the folder holds all that a killed run needs to resume."""

import dataclasses
import importlib.util
from contextlib import nullcontext
from pathlib import Path

import keras

from busseg.data.fingerprints import describe_fingerprints, fingerprint_samples
from busseg.data.splits import PARTS, Split, learnt
from busseg.data.task import Task
from busseg.storage.claims import check_folder, claim_folder
from busseg.storage.progress import track
from busseg.storage.run_folder import LOGS, RECIPE, RUN
from busseg.training.batches import Batches
from busseg.training.device_augmentation import DEVICE_AUGMENTATIONS
from busseg.training.device_batches import DeviceBatches
from busseg.training.epoch_lines import EpochLines
from busseg.training.network import build_model, compile_model, create_state, precision
from busseg.training.parallel import Devices, one_device
from busseg.training.recipe import Recipe
from busseg.training.run import RunKeeper, checkpoint_path, forget_run, read_run, write_run


def fit(
    recipe: Recipe,
    split: Split,
    out: str | Path,
    fold: int = 0,
    *,
    resume: bool = False,
    workers: int = 2,
    devices: Devices | None = None,
    title: str = "",
) -> list[dict]:
    """Train a network: a U-Net for ultrasound, a classifier for histology.

    The folder `out` then holds `model.keras`, the epoch with the lowest validation loss, with the fingerprints of its
    training and validation images; `recipe.toml`, `splits.csv`, `history.csv` (one row per epoch), `environment.json`,
    TensorBoard's `logs/`, and `checkpoints/`, the last epoch with the optimizer's state.

    With `validation = false` in the recipe the validation part is trained on, too, and the model is the last epoch;
    except in a split without a test part, which is scored on its validation part. With a `magnification`, only images
    of that one are used for training and validation.

    Args:
        recipe: A `Recipe`.
        split: A `Split`. Its test part is stored in `splits.csv` and not used.
        out: Path of the run's folder.
        fold: Number of the fold, for `splits.csv`.
        resume: Whether to continue the run in `out`. It ends as an uninterrupted run would.
        workers: Number of threads that prepare the batches of the training part.
        devices: The `parallel.Devices` to train on; the one that Keras chooses by default. Of several processes, each
            calls this with the same arguments but its own `devices`, and with an `out` that all of them see.
        title: Text before the line that each epoch prints to stderr, such as "fold 3".

    Returns:
        The history: a list of dicts, one per epoch.

    Raises:
        FileExistsError: If `out` holds a run and `resume` is False, or holds something else.
        BlockingIOError: If another process trains there.
        ValueError: If the run to resume has another recipe or split, a required part is empty, no network fits the
            recipe, or the loss or a weight is no longer a finite number. The epochs before that one are kept.
        OSError: If an image cannot be read, or the folder not written.
    """
    devices = devices or one_device()
    split = _parts_to_use(recipe, split)
    out = Path(out)
    check_folder(out, RUN)
    with claim_folder(out, RUN) if devices.keeps else nullcontext():
        begun = (out / RECIPE).exists()
        if begun and not resume:
            raise FileExistsError(f"Expected a new folder, found another run; resume continues it: {out}")
        history = read_run(out, recipe, split) if begun else []
        with devices.sharing():
            lines = EpochLines(recipe.epochs, title, shown=devices.keeps)
            return _fit(recipe, split, out, fold, history, workers, devices, lines, begun=begun)


def _parts_to_use(recipe, split):
    if recipe.magnification:
        used = ([s for s in part if s.attributes.get("magnification") == str(recipe.magnification)]
                for part in (split.train, split.validation))  # fmt: skip
        split = Split(*map(tuple, used), split.test)
    if not recipe.validation and split.test:
        split = Split(split.train + split.validation, (), split.test)
    if recipe.validation and not split.validation:
        raise ValueError("Expected a validation part to choose the model by, found none in the split")
    return split


def _fit(recipe, split, out, fold, history, workers, devices, lines, *, begun):
    keras.utils.set_random_seed(recipe.seed)
    # A resumed run has its weights in its checkpoint, even if the file of the initial ones is gone.
    model = build_model(dataclasses.replace(recipe, weights="none") if history else recipe)
    train, validation = _batches(recipe, split, len(history), workers, devices)
    _read_all([train, validation] if validation else [train], devices)
    # No process writes before all have read the folder.
    devices.agree([recipe, *([s.name for s in getattr(split, part)] for part in PARTS), len(history), begun])
    if not begun and devices.keeps:  # only now, so that an impossible recipe or a broken image leaves no run behind
        write_run(out, recipe, split, fold, devices)

    if history:
        with precision(recipe.precision):  # otherwise Keras forgets to scale the loss of "mixed_float16"
            model = keras.models.load_model(checkpoint_path(out, len(history)))
    else:
        compile_model(model, recipe, steps_per_epoch=len(train))
    create_state(model)
    metadata = None
    if devices.keeps:
        prints = fingerprint_samples(learnt(split), lambda samples: track(samples, "Taking fingerprints"))
        metadata = describe_fingerprints(prints)
    keeper = RunKeeper(out if devices.keeps else None, history, recipe, metadata, pause=_pause(devices))
    callbacks = [keeper]
    if devices.keeps and importlib.util.find_spec("tensorflow"):  # Keras writes TensorBoard's files through TensorFlow
        callbacks.append(keras.callbacks.TensorBoard(out / LOGS, write_graph=False))
    if not keeper.finished:
        try:
            _train(model, train, validation, recipe, history, callbacks, lines)
        except Exception:  # such as too little memory; a run without an epoch would refuse another recipe
            if not history and not begun and devices.keeps:
                forget_run(out)
            raise
    return history


def _batches(recipe, split, epoch, workers, devices):
    """`(train, validation)`: the `Batches` of a split; None without a validation part."""
    on_device = _augments_on_device(recipe, devices)
    options = {
        "task": recipe.task,
        "devices": len(devices.names), "process": devices.process, "processes": devices.processes,
    }  # fmt: skip
    train = (DeviceBatches if on_device else Batches)(
        split.train, recipe.image_size, recipe.batch_size, recipe.augmentation, shuffle=True,
        balance=recipe.balance, balance_power=recipe.balance_power, normals_drawn=recipe.normals_drawn,
        lesion_free=recipe.lesion_free, grey_transfer=recipe.grey_transfer, seed=recipe.seed, epoch=epoch,
        workers=1 if on_device else devices.threads(workers), **options,
    )  # fmt: skip
    if not split.validation:
        return train, None
    # Its images are in the cache and not augmented: one thread suffices, and Keras waits 0.1 s for several to end.
    return train, Batches(split.validation, recipe.image_size, recipe.batch_size, even=on_device, **options)


def _pause(devices):
    """Seconds between two writings of the run's folder: on a GPU, saving an epoch can take longer than training it."""
    return 0 if devices.names[0].startswith("cpu") else 20


def _augments_on_device(recipe, devices):
    """Whether the device augments the images that it trains on; the cores of its machine do otherwise."""
    if recipe.augment_on != "auto":
        return recipe.augment_on == "device"
    able = (
        recipe.augmentation in DEVICE_AUGMENTATIONS
        and Task(recipe.task).has_mask
        and not recipe.lesion_free
        and not recipe.grey_transfer
        and recipe.image_size % 8 == 0
        and not devices.shared
    )
    # TensorFlow would bring each batch back to the host between augmentation and training.
    return able and keras.backend.backend() == "jax" and not devices.names[0].startswith("cpu")


def _read_all(read, devices):
    """Read all images once: it fills the cache, and a broken file is an error by name before the first epoch."""
    to_read = [(batches, index) for batches in read for index in range(len(batches.samples))]
    for batches, index in track(to_read, "Reading images", shown=devices.keeps):
        batches.load(index)


def _train(model, train, validation, recipe, history, callbacks, lines):
    # `Batches` shuffles by seed and epoch; Keras' own shuffling would differ after a restart.
    with lines:
        model.fit(
            train, validation_data=validation, epochs=recipe.epochs, initial_epoch=len(history), shuffle=False,
            callbacks=[*callbacks, lines], verbose=0,
        )  # fmt: skip
