"""Scores by source, and their mean with every source counted once."""

from collections.abc import Sequence

import numpy as np

from busseg.evaluation.intervals import match_images, paired_differences
from busseg.evaluation.scores import scored

MEAN = "mean of sources"
SOURCE_SCORES = {  # in the tables of sources
    "dice": "Dice",
    "missed_rate": "missed",
    "clean_normal_rate": "clean",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "malignant_auc": "mal. AUC",
}


def rows_by_source(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """The rows of each source: a dict by the name of the source, sorted; "" holds the rows without a source."""
    sources = sorted({row.get("source") or "" for row in rows})
    return {source: [row for row in rows if (row.get("source") or "") == source] for source in sources}


def name_alike(tables: Sequence[list[dict]]) -> Sequence[list[dict]]:
    """Remove the source from the names of images, so that tables of one and of several sources use the same names.

    Args:
        tables: Sequence of lists of rows; see `busseg.evaluation.table.read_rows`.

    Returns:
        The same tables. If only some of them begin their names with the source, it is removed from all names, unless
        images of one table would then share a name.
    """
    prefixed = [bool(rows) and all(row["file"].startswith(f"{row['source']}/") for row in rows) for rows in tables]
    if all(prefixed) or not any(prefixed):
        return tables
    named = [[row | {"file": row["file"].removeprefix(f"{row['source']}/")} for row in rows] for rows in tables]
    before, after = ([len({row["file"] for row in rows}) for rows in each] for each in (tables, named))
    return named if after == before else tables


def mean_of_sources(scores: Sequence[dict]) -> dict[str, float | None]:
    """The mean of each score over the sources that define it, every source counted once.

    Args:
        scores: Sequence of dicts, one a source, from the name of a score to float or None.

    Returns:
        Dict of the same names to float, or None where no source defines the score.
    """
    means = {}
    for name in scores[0]:
        values = [one[name] for one in scores if one[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def paired_sources(rows_a: Sequence[dict], rows_b: Sequence[dict]) -> dict:
    """Compare two models source by source, on the images that both have scored.

    Args:
        rows_a: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error are left out.
            The sources are read from these rows.
        rows_b: The same of the other model.

    Returns:
        Dict of `sources`, from the name of each source to its `paired_differences`; and `mean_of_sources`, from the
        name of a score to the means of `a`, `b` and `difference` over the sources that define it, every source counted
        once. Both are empty if there is only one source.
    """
    rows_a, rows_b, _, _ = match_images(scored(rows_a), scored(rows_b))
    sources = {}
    for source in rows_by_source(rows_a):
        mine = [pair for pair in zip(rows_a, rows_b) if (pair[0].get("source") or "") == source]
        sources[source] = paired_differences(*zip(*mine))
    if len(sources) < 2:
        return {"sources": {}, "mean_of_sources": {}}
    means = {}
    for name in dict.fromkeys(name for one in sources.values() for name in one["differences"]):
        of_sources = [one["differences"][name] for one in sources.values() if name in one["differences"]]
        means[name] = {key: float(np.mean([one[key] for one in of_sources])) for key in ("a", "b", "difference")}
    return {"sources": sources, "mean_of_sources": means}


def format_sources(one: dict) -> list[str]:
    """The sources of a part as lines of text: a table with a row for each source, and their mean.

    Args:
        one: The `summarise` of a part of several sources.
    """
    lines = [f"{'by source':20}{'images':>8}" + "".join(f"{title:>10}" for title in SOURCE_SCORES.values())]
    for source, mine in one["sources"].items():
        lines.append(f"{_short(source):20}{mine['images']:8}" + _cells(mine["scores"]))
    lines.append(f"{MEAN:28}" + _cells(one["mean_of_sources"]))
    return lines


def _short(name):
    return name if len(name) < 20 else f"...{name[-16:]}"


def _cells(scores):
    return "".join(f"{'n/a' if scores[name] is None else format(scores[name], '.3f'):>10}" for name in SOURCE_SCORES)
