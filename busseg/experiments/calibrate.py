"""Calibrate a trained model on a clinic's own labelled scans.

Only a temperature is fitted, and the threshold of malignant for each sensitivity: twenty scans are too few to fit more;
see `benchmarks/calibrate.py`. Class and mask of an image do not change, since a temperature keeps the order of the
probabilities.

The temperature is stored in the network: in the head of a Keras model, in the graph of an ONNX file. So every runtime
and every export gives the same probabilities.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.data import find_reader, name_sources
from busseg.data.fingerprints import describe_fingerprints, fingerprint_samples, read_fingerprints
from busseg.data.readers import breakhis
from busseg.data.sample import Sample
from busseg.inference.metadata import read_metadata
from busseg.inference.operating_point import adapt_thresholds, find_operating_point, tabulate_thresholds
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.storage.archives import add_metadata
from busseg.storage.files import replacing
from busseg.storage.run_folder import MODEL
from busseg.training.calibration import apply_temperature, fit_temperature

FEWEST = 8
SHOWN = (0.9, 0.95)  # sensitivities that `format_calibration` shows
TEMPERATURE_SPREAD = 0.5  # of the logarithm of temperatures among hospitals: most lie within a factor of e
_FOLDS = 50  # at most, so that many scans do not take long
_TOLERANCE = 1e-3  # of a probability, as for exports with other arithmetic
_BATCH = 16


def find_labelled(roots: Sequence[str | Path]) -> list[Sample]:
    """Find the scans with a class in dataset folders. Unlike `busseg.data.find_samples`, this requires no masks, and no
    image of every class.

    Args:
        roots: Sequence of paths of folders. Each folder has groups of its own.

    Returns:
        List of `Sample`.

    Raises:
        FileNotFoundError: If a folder is missing or not a dataset.
        ValueError: If a folder is given twice or holds histology, or its classes or names are faulty.
    """
    name_sources(roots)  # a scan that counts twice would be judged by itself
    samples = []
    for number, root in enumerate(roots):
        reader, folder = find_reader(root)
        found, faults = reader.list_samples(folder)
        if reader is breakhis:
            raise ValueError(f"Expected ultrasound, found a dataset of histology: {folder}")
        for kind, _, error in faults:
            if kind not in ("missing_class", "missing_folder", "missing_mask", "orphan_mask"):
                raise error
        samples += [replace(sample, group=f"{number}/{sample.group}") for sample in found if sample.label]
    return samples


def calibrate(
    predictor: Predictor,
    samples: Sequence[Sample],
    out: str | Path,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[dict, list[dict]]:
    """Fit a model's temperature, and its thresholds of malignant, to labelled scans, and write the calibrated model.

    The probabilities of each scan come from a temperature fitted to scans of other groups, so that no scan is judged by
    itself. The thresholds come from the probabilities of the malignant scans. If the model has thresholds, as those
    that come with busseg have, they are adapted, see `adapt_thresholds`. Take consecutive scans of the clinic: a
    selection, such as hard cases, calibrates for that selection. If the model holds fingerprints, those of the scans
    are added.

    Args:
        predictor: A `Predictor` of ultrasound, of a run's folder, a `.keras` or an `.onnx` file, which is not changed.
        samples: Sequence of `Sample` with a class; no mask is read.
        out: Path of the new file to write: `.onnx` for a model in ONNX, else `.keras`.
        progress: Function that wraps the iteration over batches of images, for a progress bar.

    Returns:
        `(found, failures)`. `found` is a dict of `images`, a dict from class to number; `groups`; `temperature`;
        `cross_entropy`, the mean of the scans before and after; `operating_points`, see `tabulate_thresholds`; and
        `at`, for each sensitivity of `SHOWN` its `threshold`, `low` and `high`, see `OperatingPoint`, and
        `specificity`, the share of the scans that are not malignant below the threshold. `failures` is a list of dicts
        with `file` and `error`, of scans that cannot be read or are out of distribution.

    Raises:
        FileExistsError: If something is at `out`.
        ImportError: If the package of the extra `onnx` is not installed, for an ONNX file.
        ValueError: If the model is in memory, of another format or of histology, or there are too few scans.
    """
    source, out = predictor.path, Path(out)
    if source is None:
        raise ValueError(f"Expected a model of a file, found one in memory: {predictor.name}")
    _check_paths(source, out)
    if predictor.task.is_histology:
        raise ValueError(f"Expected a model of ultrasound, found one of {predictor.task}: {source}")
    scans, probabilities, failures = _predict(predictor, samples, progress)
    labels = np.array([predictor.classes.index(scan.label) for scan in scans], dtype=int)
    groups = np.array([scan.group for scan in scans], dtype=str)
    malignant = labels == predictor.classes.index("malignant")
    _check_scans(malignant, groups, failures)

    temperature = fit_temperature(probabilities, labels, TEMPERATURE_SPREAD)
    honest = judge_by_others(probabilities, labels, groups)
    p_malignant = honest[:, predictor.classes.index("malignant")]
    about = read_metadata(source)
    points = fit_thresholds(about.get("operating_points"), temperature, p_malignant[malignant])
    found = {
        "images": Counter(predictor.classes[label] for label in labels),
        "groups": len(set(groups)),
        "temperature": temperature,
        "cross_entropy": [_cross_entropy(p, labels) for p in (probabilities, honest)],
        "operating_points": points,
        "at": {sensitivity: _at(points, sensitivity, p_malignant[~malignant]) for sensitivity in SHOWN},
    }
    known = read_fingerprints(about, source)
    if known is not None:
        about |= describe_fingerprints(np.concatenate([known, fingerprint_samples(scans)]))
    with replacing(out) as temporary:
        _write(source, temporary, temperature, about | predictor.description | {"operating_points": points})
        expected = apply_temperature(probabilities[:_BATCH], temperature)
        _check(temporary, out, [predictor.read(scan.image) for scan in scans[:_BATCH]], expected)
    return found, failures


def judge_by_others(probabilities: NDArray, labels: NDArray, groups: NDArray) -> NDArray:
    """The probabilities `(n, classes)` of scans, each by a temperature fitted to scans of other groups alone.

    Args:
        probabilities: Array `(n, classes)`, as the model gives them.
        labels: Integer array `(n,)`, the true classes.
        groups: Array `(n,)`, of at least two different values.
    """
    folds = np.unique(groups, return_inverse=True)[1] % _FOLDS
    judged = np.empty_like(probabilities)
    for fold in np.unique(folds):
        mine = folds == fold
        judged[mine] = apply_temperature(
            probabilities[mine], fit_temperature(probabilities[~mine], labels[~mine], TEMPERATURE_SPREAD)
        )
    return judged


def fit_thresholds(table: dict | None, temperature: float, probabilities: NDArray) -> dict:
    """The table of thresholds for a clinic; see `tabulate_thresholds`.

    Args:
        table: The table of the model, or None if it has no table.
        temperature: The temperature fitted to the scans.
        probabilities: Array `(n,)`, the probabilities of malignant of the malignant scans, see `judge_by_others`.
    """
    if table is None:
        return tabulate_thresholds(probabilities)
    return adapt_thresholds(table, temperature, probabilities)


def format_calibration(found: dict) -> str:
    """The result of `calibrate` as lines of text.

    Args:
        found: Dict, as `calibrate` returns it.
    """
    counts = ", ".join(f"{number} {label}" for label, number in sorted(found["images"].items()))
    before, after = found["cross_entropy"]
    others = sum(found["images"].values()) - found["images"]["malignant"]
    lines = [
        f"{sum(found['images'].values())} scans of {found['groups']} groups: {counts}",
        f"temperature {found['temperature']:.2f}; cross-entropy {before:.3f}, with it {after:.3f}, each scan by a fit "
        "to the others",
        "sensitivity   95 % interval   malignant from   specificity",
    ]
    for sensitivity, one in found["at"].items():
        lines.append(
            f"{sensitivity:11.2f}   {one['low']:.2f} to {one['high']:.2f}    {one['threshold']:14.3f}   "
            f"{one['specificity']:.2f} of {others} scans"
        )
    return "\n".join(lines)


# === Checks and predictions ===
def _check_paths(source, out):
    if os.path.lexists(out):
        raise FileExistsError(f"Expected a new file to write the calibrated model to, found one: {out}")
    if source.suffix not in (".onnx", ".keras") and not (source / MODEL).is_file():
        raise ValueError(
            "Expected a model in Keras or ONNX (calibrate that, and export it to other formats), found another or "
            f"none: {source}"
        )
    suffix = ".onnx" if source.suffix == ".onnx" else ".keras"
    if out.suffix != suffix:
        raise ValueError(f"Expected the name of a file that ends in {suffix}, as the model's, found another: {out}")
    if suffix == ".onnx":
        try:
            import onnx  # noqa: F401
        except ImportError as error:
            raise ImportError(
                'Expected onnx, which writes ONNX files, found it not installed: pip install "busseg[onnx]"'
            ) from error


def _predict(predictor, samples, progress):
    """`(scans, probabilities, failures)`: the readable samples, `(n, classes)`, and the errors of the others."""
    scans, probabilities, failures = [], [], []
    for start in progress(range(0, len(samples), _BATCH)):
        batch, images = [], []
        for sample in samples[start : start + _BATCH]:
            try:
                images.append(predictor.read(sample.image))
                batch.append(sample)
            except (OSError, ValueError) as error:
                failures.append({"file": sample.name, "error": str(error)})
        for sample, prediction in zip(batch, predictor.predict_batch(images) if images else []):
            if prediction.in_distribution:
                scans.append(sample)
                probabilities.append(prediction.probabilities)
            else:
                other = f"Expected a scan in distribution, found one {OUT_OF_DISTRIBUTION}: {sample.image}"
                failures.append({"file": sample.name, "error": other})
    return scans, np.reshape(probabilities, (-1, len(predictor.classes))).astype(float), failures


def _check_scans(malignant, groups, failures):
    left_out = f" ({len(failures)} could not be read)" if failures else ""
    if len(malignant) < FEWEST:
        raise ValueError(f"Expected at least {FEWEST} labelled scans, found {len(malignant)}{left_out}; 20 are enough")
    for name, chosen in (("malignant", malignant), ("not malignant", ~malignant)):
        if len(set(groups[chosen])) < 2:  # the other groups, which judge each group, must hold both
            raise ValueError(
                f"Expected scans of at least two groups that are {name}, found {len(set(groups[chosen]))}{left_out}"
            )


# === Results ===
def _cross_entropy(probabilities, labels):
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def _at(points, sensitivity, others):
    point = find_operating_point(points, sensitivity)
    specificity = float(np.mean(others < point.threshold))
    return {"threshold": point.threshold, "low": point.low, "high": point.high, "specificity": specificity}


def _write(source, out, temperature, about):
    if source.suffix == ".onnx":
        from busseg.export.onnx_file import calibrate_onnx

        calibrate_onnx(source, out, temperature, json.dumps(about))
        return
    from busseg.inference.runtimes import load_keras
    from busseg.models.serving import set_temperature

    network = load_keras(source)
    set_temperature(network, temperature)
    network.save(out)
    add_metadata(out, about)


def _check(written, out, images, expected):
    found = np.stack([prediction.probabilities for prediction in Predictor(written).predict_batch(images)])
    difference = np.abs(found - expected).max()
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"Expected a model whose probabilities follow a temperature, found a difference of {difference:.1e}: {out}"
        )
