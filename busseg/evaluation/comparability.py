"""What must be said beside the scores of several models: where they do not compare, or reward remembering."""

# What must be the same for scores to mean the same, and what to call it where it is not.
SETTINGS = {
    "part": "parts",
    "protocol": "protocols",
    "size": "sizes of the masks that are compared",
    "threshold": "thresholds of the mask",
    "nsd_tolerance_px": "tolerances of NSD",
}


def notes_on_settings(models):
    """Sentences on the settings in which models differ; see `SETTINGS`."""
    notes = []
    for setting, title in SETTINGS.items():
        values = [model[setting] for model in models]
        if any(value != values[0] for value in values):
            told = ", ".join(f"{model['name']} {_setting(setting, model[setting])}" for model in models)
            notes.append(f"The {title} differ: {told}.")
    return notes


def _setting(name, value):
    if value is None:
        return {"protocol": "evaluation", "size": "native"}.get(name, "unknown")
    return str(value)


def notes_on_leaks(models):
    """Sentences on the models that were trained with copies of what they are scored on."""
    return [
        f"{model['name']} was trained or chosen with a copy of {model['leak']['share']:.1%} of its test images, so "
        "that remembering counts as knowing."
        for model in models
        if model["leak"] and model["leak"]["images"]
    ]


def notes_on_images(one, rows_a, rows_b):
    """What a pair of folders does not share, in sentences; none where both scored the same images."""
    name, first = one["name"], one["to"]
    if not one["only_a"] and not one["only_b"]:
        return []
    alone = [f"{one[key]} only in {who}" for key, who in (("only_a", first), ("only_b", name)) if one[key]]
    notes = [f"{name} and {first} are compared on {one['images']} common images; {', '.join(alone)}."]
    files_a, files_b = ([row["file"] for row in rows] for rows in (rows_a, rows_b))
    unlike = len(set(files_a) & set(files_b)) - one["images"]
    if len(set(files_a)) < len(files_a) or len(set(files_b)) < len(files_b):
        notes.append(f"Files stand in several folds of {name} or {first}; only the same fold of both is compared.")
    elif unlike:
        notes.append(f"{unlike} files that both hold differ in size or in the true lesion, and are not compared.")
    return notes


def warnings_of_known(models):
    """Sentences on the models that know images they are scored on.

    Args:
        models: Sequence of dicts with `name` and `known`, see `summarise_known`.
    """
    known = [(model["name"], model["known"]) for model in models if model["known"]]
    return [f"{name}: {one['warning']}" for name, one in known if one["warning"]]


def notes_on_unknown(models):
    """A sentence, if any, on the models that do not say which images they learnt from."""
    names = [model["name"] for model in models if model["known"] is None]
    return [f"Unknown: which images {' and '.join(names)} learnt from."] if names else []
