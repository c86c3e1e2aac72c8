"""From a cross-validation, and a model trained with all images by the same recipe, to the model that ships.

What can only be told by images that a model has not seen, how sure it may be and what is foreign to it, is read off the
folds of the cross-validation and given to the model that has seen all of them.

Example: python -m busseg.ship data/busi --crossval runs/best --run runs/best-all --out runs/best-shipped
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from busseg.data import find_samples
from busseg.data.files import claim_folder, replacing, write_text
from busseg.data.sample import CLASSES
from busseg.data.splits import read_split
from busseg.evaluation.protocol import TABLE, read_rows
from busseg.evaluation.scores import calibration, labels_and_probabilities
from busseg.inference.export import export_onnx
from busseg.inference.predictor import load_keras
from busseg.models.serving import (
    average_mirrored,
    network_inside,
    reconcile,
    set_temperature,
    tell_novelty,
    tell_uncertainty,
)
from busseg.training.calibration import apply_temperature, fit_novelty, fit_temperature, measure_novelty
from busseg.training.recipe import load_recipe

SHIPPED = "shipped.json"
# How far an image may be: so much farther than all but a hundredth of the known ones, out of fold. Scans of other
# hospitals are that far, photographs are farther.
KNOWN, MARGIN = 0.99, 1.15


def ship(samples, crossval, run, out, float16=False):
    """Give a model its temperature and its sense for foreign images, and export it.

    The folder `out` then holds `model.keras`, `model.onnx` and `shipped.json`, with what was found.

    Args:
        samples: Sequence of `Sample`, the dataset of both.
        crossval: Path of a folder of `cross_validate`.
        run: Path of a run's folder of `fit`, by the same recipe.
        out: Path of the folder to write. One that was shipped before is replaced.
        float16: Whether weights are rounded to half precision, in which `model.onnx` then stores them.

    Returns:
        What `shipped.json` holds: `temperature` and `novelty_limit`, by all folds; and by each fold as the others would
        have it, so that no image is judged by itself, `ece` before and after, and `flagged`, the share of images that
        are called foreign.

    Raises:
        FileExistsError: If `out` holds something else.
        FileNotFoundError: If one of the folders is none.
        ValueError: If the recipes differ, or the export answers otherwise than the model.
    """
    crossval, run = Path(crossval), Path(run)
    recipe = load_recipe(run / "recipe.toml")
    rows = read_rows(crossval / TABLE)
    folds = np.array([int(row["fold"]) for row in rows])
    if load_recipe(crossval / f"fold-{folds[0]}" / "recipe.toml") != recipe:
        raise ValueError(f"Expected the recipe of the cross-validation, found another: {run / 'recipe.toml'}")
    out = claim_folder(out, SHIPPED)

    labels, probabilities = labels_and_probabilities(rows)
    true = np.array([CLASSES.index(label) for label in labels])
    temperature = fit_temperature(probabilities, true)
    calibrated = np.empty_like(probabilities)
    for fold in np.unique(folds):
        others = fit_temperature(probabilities[folds != fold], true[folds != fold])
        calibrated[folds == fold] = apply_temperature(probabilities[folds == fold], others)

    novelty = {fold: _novelty_out_of_fold(samples, crossval / f"fold-{fold}", fold) for fold in track(np.unique(folds))}
    limit = _limit(novelty.values())
    flagged = [novelty[fold] > _limit(d for other, d in novelty.items() if other != fold) for fold in novelty]

    found = {
        "temperature": temperature,
        "novelty_limit": limit,
        "ece": [calibration(labels, p)["ece"] for p in (probabilities, calibrated)],
        "flagged": float(np.mean(np.concatenate(flagged))),
    }
    write_text(out / SHIPPED, json.dumps(found, indent=2) + "\n")
    network = network_inside(load_keras(run))
    set_temperature(network, temperature)
    mean, whitening = fit_novelty(network, read_split(run / "splits.csv", samples).train, recipe.augmentation)
    model = tell_novelty(network, mean, whitening / limit)
    if float16:  # also what Keras keeps, so that both answer alike but for what the export folds into kernels
        model.set_weights([w.astype(np.float16).astype(np.float32) if w.ndim > 1 else w for w in model.get_weights()])
    if recipe.mirrored:
        model = average_mirrored(model)
    model = tell_uncertainty(model)
    if recipe.reconciled:
        model = reconcile(model)
    with replacing(out / "model.keras") as temporary:
        model.save(temporary)
    export_onnx(out / "model.keras", out / "model.onnx", float16)
    return found


def _novelty_out_of_fold(samples, run, fold):
    """The distances of a fold's test images, in medians of those of its training images."""
    network, split = network_inside(load_keras(run)), read_split(run / "splits.csv", samples, fold)
    found = fit_novelty(network, split.train, load_recipe(run / "recipe.toml").augmentation)
    return measure_novelty(network, split.test, *found)


def _limit(novelty):
    return MARGIN * float(np.quantile(np.concatenate(list(novelty)), KNOWN))


def main(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")],
    crossval: Annotated[Path, typer.Option(help="Folder of `busseg crossval`.")],
    run: Annotated[Path, typer.Option(help="Folder of `busseg train --all`.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    float16: Annotated[bool, typer.Option(help="Store the ONNX file's weights in half precision.")] = False,
):
    """Give a model its temperature and its sense for foreign images, and export it."""
    print(json.dumps(ship(find_samples(data), crossval, run, out, float16), indent=2))


if __name__ == "__main__":
    typer.run(main)
