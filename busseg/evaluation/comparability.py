"""Notes and warnings beside the scores of several models: different settings, different images, known images."""

from collections.abc import Sequence

# Scores compare only where these settings are equal: key in `summary.json` -> name in the note.
SETTINGS = {
    "part": "parts",
    "protocol": "protocols",
    "size": "sizes of the masks that are compared",
    "threshold": "thresholds of the mask",
    "nsd_tolerance_px": "tolerances of NSD",
}


def notes_on_settings(models: Sequence[dict]) -> list[str]:
    """Sentences on the settings in which models differ; see `SETTINGS`."""
    notes = []
    for setting, title in SETTINGS.items():
        values = [model[setting] for model in models]
        if any(value != values[0] for value in values):
            each = ", ".join(f"{model['name']} {_setting(setting, model[setting])}" for model in models)
            notes.append(f"The {title} differ: {each}.")
    return notes


def _setting(name, value):
    if value is None:
        return {"protocol": "evaluation", "size": "native"}.get(name, "unknown")
    return str(value)


def describe_leak(leak: dict) -> str:
    """What a leaky split has in common with training: "a copy", or in histology "another field of the patient".

    Args:
        leak: Dict of a cross-validation's summary; see `busseg.evaluation.pooling.pool_folds`.
    """
    return "another field of the patient" if "same_slide" in leak else "a copy"


def notes_on_leaks(models: Sequence[dict]) -> list[str]:
    """Sentences on the models that were trained with copies of their test images, or with their patients."""
    return [
        f"{model['name']} was trained or chosen with {describe_leak(model['leak'])} of {model['leak']['share']:.1%} of "
        "its test images, so its scores may reward memorisation."
        for model in models
        if model["leak"] and model["leak"]["images"]
    ]


def notes_on_images(one: dict, rows_a: Sequence[dict], rows_b: Sequence[dict]) -> list[str]:
    """Sentences on the images that only one folder of a pair has scored; empty if both scored the same images.

    Args:
        one: Dict of the pair, an entry of `differences`; see `busseg.evaluation.compare.compare`.
        rows_a: Sequence of dicts, one an image of the first folder.
        rows_b: The same of the other folder.
    """
    name, first = one["name"], one["to"]
    if not one["only_a"] and not one["only_b"]:
        return []
    alone = [f"{one[key]} only in {who}" for key, who in (("only_a", first), ("only_b", name)) if one[key]]
    notes = [f"{name} and {first} are compared on {one['images']} common images; {', '.join(alone)}."]
    files_a, files_b = ([row["file"] for row in rows] for rows in (rows_a, rows_b))
    unlike = len(set(files_a) & set(files_b)) - one["images"]
    if len(set(files_a)) < len(files_a) or len(set(files_b)) < len(files_b):
        notes.append(f"Files are in several folds of {name} or {first}; only the same repeat or fold is compared.")
    elif unlike:
        notes.append(f"{unlike} files that both hold differ in size or in the true lesion, and are not compared.")
    return notes


def warnings_of_known(models: Sequence[dict]) -> list[str]:
    """Sentences on the models that were trained on images they are scored on.

    Args:
        models: Sequence of dicts with `name` and `known`, see `summarise_known`.
    """
    known = [(model["name"], model["known"]) for model in models if model["known"]]
    return [f"{name}: {one['warning']}" for name, one in known if one["warning"]]


def notes_on_unknown(models: Sequence[dict]) -> list[str]:
    """A sentence, if any, on the models that do not record their training images."""
    names = [model["name"] for model in models if model["known"] is None]
    return [f"Unknown: the training images of {' and '.join(names)}."] if names else []
