"""How many of the scored images a model learnt from: those it may remember rather than read."""

import textwrap

from busseg.evaluation.intervals import match_images, paired_differences

UNKNOWN = "Unknown: this model does not say which images it learnt from."


def count_known(rows):
    """How many of the rows are of images that their model learnt from, or of copies of them.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`.

    Returns:
        Their number; None if there are no rows, or a model does not say what it learnt from.
    """
    told = [row.get("known") for row in rows]
    return sum(told) if told and None not in told else None


def summarise_known(rows, summarise):
    """Count the images that a model knows, and score the others apart.

    Args:
        rows: As for `count_known`.
        summarise: Function that sums up rows.

    Returns:
        Dict of `known`, a dict of the number of `images` that the model knows, their `share`, and the `warning` that
        says so, None where it knows none; or None where `count_known` is. Where it knows some and not others also
        `unseen`, what `summarise` says of the others.
    """
    count = count_known(rows)
    if count is None:
        return {"known": None}
    warning = (
        f"{count} of {len(rows)} scored images, or copies of them, were used to train or calibrate this model, so that "
        "remembering counts as knowing."
    )
    known = {"images": count, "share": count / len(rows), "warning": warning if count else None}
    unseen = [row for row in rows if not row["known"]]
    return {"known": known, **({"unseen": summarise(unseen)} if count and unseen else {})}


def format_known(one):
    """The warning as lines of text, none where there is nothing to warn of.

    Args:
        one: What `summarise` says of a part.
    """
    known = one.get("known")
    if not known or not known["images"]:
        return []
    apart = f" The others, {one['unseen']['images']}, are scored apart, below." if "unseen" in one else ""
    return textwrap.wrap(known["warning"] + apart, 100, initial_indent="WARNING: ", subsequent_indent="         ")


# === Of two models ===
def paired_known(rows_a, rows_b):
    """Compare two models on the images that neither knows.

    Args:
        rows_a: Sequence of dicts, one a readable image; see `busseg.evaluation.table.fields`.
        rows_b: The same of the other model.

    Returns:
        Dict of `known`, the numbers `a` and `b` of the common images that each model knows, see `count_known`; and
        `unseen`, what `paired_differences` says of those that neither is said to know, or None where these are all of
        them or none.
    """
    rows_a, rows_b, _, _ = match_images(rows_a, rows_b)
    pairs = [pair for pair in zip(rows_a, rows_b) if not any(row.get("known") for row in pair)]
    unseen = paired_differences(*zip(*pairs)) if 0 < len(pairs) < len(rows_a) else None
    return {"known": {"a": count_known(rows_a), "b": count_known(rows_b)}, "unseen": unseen}
