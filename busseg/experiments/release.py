"""Make the released model from cross-validations, and from runs trained with all images by the same recipes.

The released model is the mean of the runs' networks. Its temperature, OOD limit and operating points must be measured
on images that the networks have not seen, so they are measured on the folds of the cross-validations.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from busseg.data.fingerprints import describe_fingerprints, fingerprint_samples
from busseg.data.sample import CLASSES, Sample
from busseg.data.splits import learnt, read_split
from busseg.evaluation.pooling import pool_folds
from busseg.evaluation.report import write_report
from busseg.evaluation.scores import calibration, labels_and_probabilities
from busseg.evaluation.scoring import evaluate
from busseg.evaluation.table import read_rows
from busseg.export.formats import export_onnx
from busseg.inference.operating_point import tabulate_thresholds
from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import load_keras
from busseg.models.serving import (
    add_ood_score,
    add_uncertainty,
    average,
    make_mask_follow_class,
    network_inside,
    set_temperature,
)
from busseg.storage.archives import add_metadata
from busseg.storage.claims import claim_folder
from busseg.storage.files import replacing, write_text
from busseg.storage.progress import track
from busseg.storage.run_folder import (
    MODEL,
    ONNX_MODEL,
    PER_IMAGE,
    RECIPE,
    RELEASE,
    SPLITS,
    SUMMARY,
    evaluation_folder,
    fold_folder,
)
from busseg.training.calibration import apply_temperature, fit_temperature
from busseg.training.ood import fit_ood, measure_ood
from busseg.training.recipe import load_recipe

# The limit of the OOD score is MARGIN times the quantile KNOWN of the out-of-fold images. Scans of other hospitals lie
# below this limit, photographs above.
KNOWN, MARGIN = 0.99, 1.15


def score_together(samples: Sequence[Sample], crossvals: Sequence[str | Path], out: str | Path) -> dict:
    """Score the mean of the networks of cross-validations, fold by fold, on images that the networks have not seen.

    The folder `out` then holds the files of `cross_validate`, without the runs.

    Args:
        samples: Sequence of `Sample`, the dataset of all cross-validations.
        crossvals: Paths of folders of `cross_validate`, by the same folds.
        out: Path of the output folder. An earlier one is replaced.

    Returns:
        Dict of what `summary.json` holds; see `cross_validate`.

    Raises:
        FileExistsError: If `out` holds other files.
        FileNotFoundError: If a folder is not a cross-validation.
        ValueError: If the folds differ, or only some recipes use `flip_tta`.
    """
    folders = [Path(crossval) for crossval in crossvals]
    _check_crossvals(folders)
    recipes = [load_recipe(fold_folder(crossval, 0) / RECIPE) for crossval in folders]
    splits = [_read_splits(samples, crossval) for crossval in folders]
    for crossval, recipe, mine in zip(folders, recipes, splits):
        if recipe.flip_tta != recipes[0].flip_tta:
            raise ValueError(f"Expected flip_tta in all recipes or in no recipe, found another: {crossval}")
        if [split.test for split in mine] != [split.test for split in splits[0]]:
            raise ValueError(f"Expected cross-validations by the same folds, found others: {crossval}")
    with claim_folder(out, RELEASE) as out:
        return _score_together(samples, folders, recipes, splits, out)


def _score_together(samples, crossvals, recipes, splits, out):
    write_text(out / RELEASE.marker, json.dumps(dict.fromkeys(RELEASE.names)) + "\n")  # marks the folder
    before = _read_summary(crossvals[0])
    about = {name: before[name] for name in ("data", "protocol", "seed", "size")}
    about["repeats"] = before.get("repeats", 1)  # an older summary lacks them
    for fold, of_fold in enumerate(track(list(zip(*splits)), "Scoring folds")):
        networks = [network_inside(load_keras(fold_folder(crossval, fold))) for crossval in crossvals]
        parts, place = {"test": of_fold[0].test or of_fold[0].validation}, evaluation_folder(fold_folder(out, fold))
        evaluate(
            Predictor(_serve(networks, recipes[0])), parts, place,
            size=about["size"], fold=fold, fingerprints=_fingerprints(of_fold),
        )  # fmt: skip
        keras.backend.clear_session()
    summary = pool_folds(out, splits[0], samples, about)
    write_report(out, samples)
    return summary


def release_model(
    samples: Sequence[Sample],
    crossvals: Sequence[str | Path],
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    float16: bool = False,
) -> dict:
    """Score the mean of networks, calibrate it, add its OOD score, and export it.

    The folder `out` then holds the files of `score_together`; `model.keras` and `model.onnx`, both with the
    fingerprints of the images that the networks were trained on; and `release.json`, the returned dict.

    Args:
        samples: Sequence of `Sample`, the dataset of all cross-validations.
        crossvals: Paths of folders of `cross_validate`, by the same folds. The networks of the first one give the OOD
            score.
        runs: Paths of folders of `fit`, one for each cross-validation, by the same recipe.
        out: Path of the folder to write. An earlier release there is replaced.
        float16: Whether to round weights to half precision; `model.onnx` then stores most of them in it.

    Returns:
        Dict of what `release.json` holds: `temperature` and `ood_limit`, of all folds; and out of fold, where each fold
        is judged by the other folds, `ece` before and after, `flagged`, the share of images called out of distribution,
        and `operating_points`, see `tabulate_thresholds`, which both models hold.

    Raises:
        FileExistsError: If `out` holds other files.
        FileNotFoundError: If a folder is not a cross-validation or a run.
        ValueError: If the recipes or the folds differ, or the export gives other outputs than the model.
    """
    folders, trained = [Path(crossval) for crossval in crossvals], [Path(run) for run in runs]
    if len(folders) != len(trained):
        raise ValueError(f"Expected a run for each cross-validation, found {len(folders)} and {len(trained)}")
    _check_crossvals(folders)
    for crossval, run in zip(folders, trained):
        if load_recipe(fold_folder(crossval, 0) / RECIPE) != load_recipe(run / RECIPE):
            raise ValueError(f"Expected the recipe of the cross-validation, found another: {run / RECIPE}")
    with claim_folder(out, RELEASE) as out:
        score_together(samples, folders, out)
        return _average(samples, folders, trained, out, float16)


def _check_crossvals(crossvals):
    for crossval in crossvals:
        if not (crossval / SUMMARY).is_file():
            raise FileNotFoundError(f"Expected the folder of a finished `busseg crossval`, found none: {crossval}")


def _average(samples, crossvals, runs, out, float16):
    rows = read_rows(out / PER_IMAGE)
    folds = np.array([int(row["fold"]) for row in rows])
    labels, probabilities = labels_and_probabilities(rows)
    true = np.array([CLASSES.index(label) for label in labels])
    temperature = fit_temperature(probabilities, true)
    calibrated = np.empty_like(probabilities)
    for fold in np.unique(folds):
        others = fit_temperature(probabilities[folds != fold], true[folds != fold])
        calibrated[folds == fold] = apply_temperature(probabilities[folds == fold], others)

    ood_score = {
        fold: _ood_out_of_fold(samples, fold_folder(crossvals[0], fold), fold)
        for fold in track(np.unique(folds), "Measuring OOD scores")
    }
    limit = _limit(ood_score.values())
    flagged = [ood_score[fold] > _limit(d for other, d in ood_score.items() if other != fold) for fold in ood_score]

    malignant = true == CLASSES.index("malignant")
    found = {
        "temperature": temperature,
        "ood_limit": limit,
        "ece": [calibration(labels, p)["ece"] for p in (probabilities, calibrated)],
        "flagged": float(np.mean(np.concatenate(flagged))),
        "operating_points": tabulate_thresholds(calibrated[malignant, CLASSES.index("malignant")]),
    }
    write_text(out / RELEASE.marker, json.dumps(found, indent=2) + "\n")
    networks, recipe = [network_inside(load_keras(run)) for run in runs], load_recipe(runs[0] / RECIPE)
    for network in networks:
        set_temperature(network, temperature)
    mean, whitening = fit_ood(networks[0], read_split(runs[0] / SPLITS, samples).train, recipe.augmentation)
    networks[0] = add_ood_score(networks[0], mean, whitening / limit)
    if float16:
        for network in networks:
            network.set_weights([_rounded(weight) for weight in network.get_weights()])
    with replacing(out / MODEL) as temporary:
        _serve(networks, recipe).save(temporary)
        known = _fingerprints([read_split(run / SPLITS, samples) for run in runs])
        add_metadata(temporary, {"operating_points": found["operating_points"]} | describe_fingerprints(known))
    export_onnx(out / MODEL, out / ONNX_MODEL, force=True)
    return found


def _serve(networks, recipe):
    several = recipe.flip_tta or len(networks) > 1
    model = add_uncertainty(average(*networks, flip_tta=recipe.flip_tta) if several else networks[0])
    return make_mask_follow_class(model) if recipe.mask_follows_class else model


def _fingerprints(splits):
    """The fingerprints of the images that networks were trained or chosen with, one network for each split."""
    return fingerprint_samples(dict.fromkeys(sample for split in splits for sample in learnt(split)))


def _rounded(weight):
    return weight.astype(np.float16).astype(np.float32) if weight.ndim > 1 else weight


def _read_splits(samples, crossval):
    folds = len(_read_summary(crossval)["folds"])
    return [read_split(fold_folder(crossval, fold) / SPLITS, samples, fold) for fold in range(folds)]


def _read_summary(crossval):
    return json.loads((crossval / SUMMARY).read_text(encoding="utf-8"))


def _ood_out_of_fold(samples, run, fold):
    """The OOD distances of a fold's test images, in units of the median distance of its training images."""
    network, split = network_inside(load_keras(run)), read_split(run / SPLITS, samples, fold)
    found = fit_ood(network, split.train, load_recipe(run / RECIPE).augmentation)
    return measure_ood(network, split.test, *found)


def _limit(ood_score):
    return MARGIN * float(np.quantile(np.concatenate(list(ood_score)), KNOWN))
