"""Known images: scored images that the model was trained on, and may remember. The others are scored apart."""

import textwrap
from collections.abc import Callable, Sequence

from busseg.evaluation.intervals import match_images, paired_differences

UNKNOWN = "Unknown: this model does not record which images it was trained on."


def count_known(rows: Sequence[dict]) -> int | None:
    """Count the rows whose image, or a copy of it, the model was trained on.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`.

    Returns:
        Their number; None if there are no rows, or a model does not record its training images.
    """
    known = [row.get("known") for row in rows]
    return sum(map(bool, known)) if known and None not in known else None


def summarise_known(rows: Sequence[dict], summarise: Callable[[Sequence[dict]], dict]) -> dict:
    """Count the images that a model knows, and score the others apart.

    Args:
        rows: As for `count_known`.
        summarise: Function that sums up rows.

    Returns:
        Dict of `known`, a dict of the number of known `images`, their `share`, and a `warning` (None if no image is
        known); `known` itself is None where `count_known` is. If some images are known and others are not, the dict
        also holds `unseen`, the `summarise` of the others.
    """
    count = count_known(rows)
    if count is None:
        return {"known": None}
    warning = (
        f"{count} of {len(rows)} scored images, or copies of them, were used to train or calibrate this model, so its "
        "scores may reward memorisation."
    )
    known = {"images": count, "share": count / len(rows), "warning": warning if count else None}
    unseen = [row for row in rows if not row["known"]]
    return {"known": known, **({"unseen": summarise(unseen)} if count and unseen else {})}


def format_known(one: dict) -> list[str]:
    """The warning about known images as lines of text; empty if no image is known.

    Args:
        one: The `summarise` of a part.
    """
    known = one.get("known")
    if not known or not known["images"]:
        return []
    apart = f" The other images, {one['unseen']['images']}, are scored apart, below." if "unseen" in one else ""
    return textwrap.wrap(known["warning"] + apart, 100, initial_indent="WARNING: ", subsequent_indent="         ")


# === Two models ===
def paired_known(rows_a: Sequence[dict], rows_b: Sequence[dict]) -> dict:
    """Compare two models on the images that neither knows.

    Args:
        rows_a: Sequence of dicts, one a readable image; see `busseg.evaluation.table.fields`.
        rows_b: The same of the other model.

    Returns:
        Dict of `known`, the numbers `a` and `b` of the common images that each model knows, see `count_known`; and
        `unseen`, the `paired_differences` on the images that neither is recorded to know, or None where these are all
        of the common images or no image.
    """
    rows_a, rows_b, _, _ = match_images(rows_a, rows_b)
    pairs = [pair for pair in zip(rows_a, rows_b) if not any(row.get("known") for row in pair)]
    unseen = paired_differences(*zip(*pairs)) if 0 < len(pairs) < len(rows_a) else None
    return {"known": {"a": count_known(rows_a), "b": count_known(rows_b)}, "unseen": unseen}
