"""Pool the folds of a cross-validation: one table, and the scores of each fold and of all folds."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from busseg.evaluation.known import count_known
from busseg.evaluation.scores import point_scores, scored
from busseg.evaluation.summary import format_summary, write_scores
from busseg.evaluation.table import read_rows
from busseg.storage.run_folder import PER_IMAGE, evaluation_folder


def pool_folds(out: Path, runs: Sequence[Path], copies: Sequence[Collection[str]], about: dict) -> dict:
    """Pool the predictions of all folds; score each fold, and all of them as one.

    Args:
        out: Path of the folder to write `per_image.csv` and `summary.json` to.
        runs: Paths of folders in it, one a fold, each with its `evaluation/`.
        copies: For each fold the names of the images that have a copy in training.
        about: Dict of further entries of the summary.

    Returns:
        What `summary.json` holds; see `cross_validate`.
    """
    rows, folds = [], []
    for fold, (run, names) in enumerate(zip(runs, copies)):
        evaluation = evaluation_folder(run)
        mine = read_rows(evaluation / PER_IMAGE)
        for row in mine:
            row["leaked"] = row["file"] in names
            if row.get("mask"):
                row["mask"] = (evaluation / row["mask"]).relative_to(out).as_posix()
        rows += mine
        known = count_known(scored(mine))
        folds.append({"fold": fold, "images": len(mine), "known": known, "scores": point_scores(mine)})
        if about["protocol"] == "leave-one-source-out":
            folds[-1]["source"] = mine[0]["source"]
    images = sum(row["leaked"] for row in rows)
    leak = {"images": images, "share": images / len(rows)}
    mean_sd = _mean_sd([fold["scores"] for fold in folds])
    return write_scores(out, rows, **about, leak=leak, folds=folds, mean_sd=mean_sd)


def _mean_sd(scores):
    found = {}
    for name in scores[0]:
        values = [one[name] for one in scores if one[name] is not None]
        if values:
            found[name] = [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]
    return found


def format_crossval(summary: dict) -> str:
    """The scores of a cross-validation as lines of text: all folds as one, and each by itself."""
    lines = [format_summary(summary["parts"]), "", f"{'mean ± sd over the folds':24}{'':18}each fold"]
    sources = [f"{fold['fold']} {fold['source']}" for fold in summary["folds"] if "source" in fold]
    if sources:
        lines.append(f"  the source that each fold leaves out: {', '.join(sources)}")
    for name in ("dice", "iou", "clean_normal_rate", "accuracy", "macro_f1", "macro_auc", "ece"):
        if name in summary["mean_sd"]:
            mean, sd = summary["mean_sd"][name]
            scores = [fold["scores"][name] for fold in summary["folds"]]
            each = "  ".join("  n/a" if score is None else f"{score:.3f}" for score in scores)
            lines.append(f"  {name:22}{mean:.3f} ± {sd:.3f}     {each}")
    leak = summary["leak"]
    if leak["images"]:
        lines += [
            "",
            f"{leak['share']:.1%} of the scored images have a copy in training, so the scores may reward memorisation.",
            "To measure by how much, run busseg compare with a cross-validation by the protocol grouped.",
        ]
    return "\n".join(lines)
