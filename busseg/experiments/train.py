"""Train one model on datasets: find the images, choose the split, fit the network."""

from collections.abc import Callable, Sequence
from pathlib import Path

from busseg.data import find_samples
from busseg.data.protocols import make_splits
from busseg.data.splits import read_split, train_on_all
from busseg.data.task import Task
from busseg.storage.claims import check_folder
from busseg.storage.run_folder import RECIPE, RUN, SPLITS
from busseg.training.fit import fit
from busseg.training.parallel import Devices
from busseg.training.recipe import load_recipe


def train_model(
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    splits: str | Path | None = None,
    fold: int | None = None,
    everything: bool = False,
    resume: bool = False,
    find_devices: Callable[[int], Devices] | None = None,
) -> list[dict]:
    """Train a network on datasets: a U-Net for ultrasound, or a classifier of histology.

    Args:
        data: Path of a dataset folder, or a sequence of them; see `find_samples`.
        out: Path of the run's folder; see `fit`.
        recipe: Name of a recipe, or path of a TOML file; "card" by default.
        epochs: Number of epochs, instead of the recipe's.
        splits: Path of a CSV file of folds; by default the task's protocol makes the folds.
        fold: Number of the fold; 0 by default. A splits file of several folds requires it.
        everything: Whether to train with all images instead of a fold.
        resume: Whether to resume the run that `out` holds, if there is one.
        find_devices: Function from a batch size to the `parallel.Devices` to train on; by default the one that Keras
            chooses.

    Returns:
        The history: a list of dicts, one an epoch.

    Raises:
        FileExistsError: If `out` holds a run and `resume` is False, or holds other files.
        ValueError: If the choices exclude each other, the fold is out of range, or `fit` raises it.
    """
    out = Path(out)
    if everything and (splits or fold is not None):
        raise ValueError("Expected --all or a fold of a split, found both")
    check_folder(out, RUN)
    if resume and (out / RECIPE).exists():
        recipe = recipe or out / RECIPE
        splits = splits or out / SPLITS
    chosen = load_recipe(recipe or "card", epochs)
    split = _choose_split(find_samples(data, chosen.task), chosen.task, splits, fold, everything)
    devices = find_devices(chosen.batch_size) if find_devices else None
    return fit(chosen, split, out, fold=fold or 0, resume=resume, devices=devices)


def _choose_split(samples, task, splits, fold, everything):
    if everything:
        return train_on_all(samples)
    if splits:
        return read_split(splits, samples, fold)
    folds = make_splits(Task(task).protocol, samples)
    if fold is not None and fold >= len(folds):
        raise ValueError(f"Expected a fold of 0 to {len(folds) - 1}, found {fold}")
    return folds[fold or 0]
