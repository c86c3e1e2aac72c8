"""Score a model: predict, measure, and report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from busseg.data import find_samples
from busseg.data.sample import Sample
from busseg.data.splits import PARTS, read_split
from busseg.evaluation.report import HEADLINE, write_report
from busseg.evaluation.robustness import measure_robustness, write_robustness
from busseg.evaluation.scoring import evaluate
from busseg.inference.predictor import Predictor
from busseg.storage.claims import claim_folder
from busseg.storage.progress import track
from busseg.storage.run_folder import EVALUATION, ROBUSTNESS, SPLITS


def score_model(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    splits: str | Path | None = None,
    fold: int | None = None,
    robustness: bool = False,
    sensitivity: float | None = None,
    title: str | None = None,
) -> tuple[dict, list[dict]]:
    """Score a trained model on datasets, and write the report.

    The parts are those of the splits file; by default those that a run's folder was trained with; else all images are
    one part.

    Args:
        model: Name or path of the model, as `Predictor` takes it.
        data: Path of a dataset folder, or a sequence of them; see `find_samples`.
        out: Path of the output folder; see `score_parts`.
        splits: Path of a CSV file of folds.
        fold: Number of the fold in it.
        robustness: Whether to score under perturbations, too; see `measure_robustness`.
        sensitivity: See `Predictor`.
        title: Name of the datasets in the report; their path by default.

    Returns:
        `(summary, rows)`, see `busseg.evaluation.scoring.evaluate`.

    Raises:
        FileExistsError: If `out` holds other files than an earlier evaluation.
        FileNotFoundError: If there is no model, or no dataset.
        ValueError: If there is a fold but no splits file, or the datasets do not match the splits.
    """
    predictor, model = Predictor(model, sensitivity=sensitivity), Path(model)
    samples = find_samples(data, predictor.task)
    if splits is None and (model / SPLITS).is_file():
        splits = model / SPLITS
    if fold is not None and splits is None:
        raise ValueError(f"Expected a splits file to read fold {fold} from, found none; name it by --splits")
    parts = {"all": samples}
    if splits:
        chosen = read_split(splits, samples, fold)
        parts = {part: getattr(chosen, part) for part in PARTS if getattr(chosen, part)}
    with claim_folder(out, EVALUATION):
        about = {"model": str(model), "data": title or str(data)}
        summary, rows = score_parts(predictor, parts, out, robustness=robustness, **about)
        write_report(out, samples, runs=[model] if model.is_dir() else [])
    return summary, rows


def score_parts(
    predictor: Predictor,
    parts: Mapping[str, Sequence[Sample]],
    out: str | Path,
    *,
    robustness: bool = False,
    **about,
) -> tuple[dict, list[dict]]:
    """Score a model on the parts of a dataset, optionally also under perturbations, with progress bars.

    Args:
        predictor: A `Predictor`.
        parts: Dict from the name of a part to its sequence of `Sample`.
        out: Path of the output folder; see `busseg.evaluation.scoring.evaluate`.
        robustness: Whether to score the part that the report shows under perturbations, too.
        about: Further arguments of `evaluate`.

    Returns:
        `(summary, rows)`, see `evaluate`.
    """
    found = evaluate(predictor, parts, out, _bar("Evaluating"), **about)
    if robustness:
        part = next((name for name in HEADLINE if name in parts), next(iter(parts)))
        write_robustness(Path(out) / ROBUSTNESS, measure_robustness(predictor, parts[part], _bar("Perturbing")))
    return found


def _bar(title):
    return lambda things: track(things, title)
