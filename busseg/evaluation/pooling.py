"""Pool the folds of a cross-validation: one table, and the scores of each fold, of each repeat and of all folds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from busseg.data.readers.breakhis import group_by_slide
from busseg.data.sample import Sample
from busseg.data.splits import Split, leaked
from busseg.evaluation.comparability import describe_leak
from busseg.evaluation.known import count_known
from busseg.evaluation.scores import point_scores, scored
from busseg.evaluation.summary import format_summary, write_scores
from busseg.evaluation.table import read_rows
from busseg.storage.run_folder import PER_IMAGE, evaluation_folder, fold_folder


def pool_folds(out: Path, splits: Sequence[Split], samples: Sequence[Sample], about: dict) -> dict:
    """Pool the predictions of all folds; score each fold, each repeat, and all of them as one.

    Args:
        out: Path of the folder to write `per_image.csv` and `summary.json` to. It holds the runs of the folds, each
            with its `evaluation/`.
        splits: Sequence of `Split`, one a fold; of equally many folds for each of `about["repeats"]`.
        samples: The samples of the dataset with their groups, which the splits of some protocols ignore.
        about: Dict of further entries of the summary, among them `protocol`, `seed` and `repeats`.

    Returns:
        What `summary.json` holds; see `cross_validate`.
    """
    rows, folds = [], []
    for fold, split in enumerate(splits):
        evaluation = evaluation_folder(fold_folder(out, fold))
        names = {sample.name for sample in leaked(split, samples)}
        mine = read_rows(evaluation / PER_IMAGE)
        for row in mine:
            row["repeat"] = fold * about["repeats"] // len(splits)
            row["leaked"] = row["file"] in names
            if row.get("mask"):
                row["mask"] = (evaluation / row["mask"]).relative_to(out).as_posix()
        rows += mine
        known = count_known(scored(mine))
        folds.append({"fold": fold, "images": len(mine), "known": known, "scores": point_scores(mine)})
        if about["protocol"] == "leave-one-source-out":
            folds[-1]["source"] = mine[0]["source"]
    mean_sd = _mean_sd([fold["scores"] for fold in folds])
    more = {"leak": count_leak(rows, splits, samples), "folds": folds, "mean_sd": mean_sd}
    if about["repeats"] > 1:
        more["of_repeats"] = [
            {"seed": about["seed"] + number, "scores": point_scores([row for row in rows if row["repeat"] == number])}
            for number in range(about["repeats"])
        ]
    return write_scores(out, rows, **about, **more)


def count_leak(rows: Sequence[dict], splits: Sequence[Split], samples: Sequence[Sample]) -> dict:
    """Count the scored images with another image of their group in training.

    Args:
        rows: Sequence of dicts, one an image, with `leaked`; see `busseg.evaluation.table.fields`.
        splits: Sequence of `Split`, one a fold.
        samples: The samples of the dataset with their groups.

    Returns:
        Dict of the number of those `images`, their `share`, and in histology `same_slide`, the number of images with
        another one of their slide in training.
    """
    images = sum(row["leaked"] for row in rows)
    leak = {"images": images, "share": images / len(rows)}
    if all("slide" in sample.attributes for sample in samples):
        slides = group_by_slide(samples)
        leak["same_slide"] = sum(len(leaked(split, slides)) for split in splits)
    return leak


def _mean_sd(scores):
    found = {}
    for name in scores[0]:
        values = [one[name] for one in scores if one[name] is not None]
        if values:
            found[name] = [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]
    return found


def format_crossval(summary: dict) -> str:
    """The scores of a cross-validation as lines of text: all folds as one, and each by itself; or each repeat."""
    lines = [format_summary(summary["parts"]), ""]
    if repeats := summary.get("of_repeats"):
        seeds = ", ".join(str(one["seed"]) for one in repeats)
        lines += [f"Every image is scored in each of {len(repeats)} repeats, with the seeds {seeds}", ""]
        mean_sd, kind = _mean_sd([one["scores"] for one in repeats]), "repeat"
    else:
        mean_sd, kind = summary["mean_sd"], "fold"
    lines.append(f"{f'mean ± sd over the {kind}s':24}{'':18}each {kind}")
    sources = [f"{fold['fold']} {fold['source']}" for fold in summary["folds"] if "source" in fold]
    if sources:
        lines.append(f"  the source that each fold leaves out: {', '.join(sources)}")
    for name in ("dice", "iou", "clean_normal_rate", "accuracy", "macro_f1", "macro_auc", "ece"):
        if name in mean_sd:
            mean, sd = mean_sd[name]
            scores = [one["scores"][name] for one in repeats or summary["folds"]]
            each = "  ".join("  n/a" if score is None else f"{score:.3f}" for score in scores)
            lines.append(f"  {name:22}{mean:.3f} ± {sd:.3f}     {each}")
    return "\n".join(lines + _format_leak(summary["leak"]))


def _format_leak(leak):
    if not leak["images"]:
        return []
    what, unleaked = describe_leak(leak), "patient" if "same_slide" in leak else "grouped"
    return [
        "",
        f"{leak['share']:.1%} of the scored images have {what} in training, so the scores may reward memorisation.",
        *([f"{leak['same_slide']} of the {leak['images']} have one of their slide."] if "same_slide" in leak else []),
        f"To measure by how much, run busseg compare with a cross-validation by the protocol {unleaked}.",
    ]
