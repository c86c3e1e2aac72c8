"""An answer as pieces of HTML that refer to nothing outside them."""

import json

import jinja2

from busseg.app.answers import address, facts, png_address
from busseg.inference.overlay import LESION_RGB
from busseg.inference.predictor import OUT_OF_DISTRIBUTION

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("busseg.app"),
    autoescape=True,  # file names are other people's text
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def view_picture(answer=None, note="The image and its lesion will be here."):
    """The image with its lesion on top, which the browser makes more or less opaque; or a place for one.

    Args:
        answer: An `Answer`, or None.
        note: What stands in that place.
    """
    template = _templates.get_template("picture.html")
    if answer is None:
        return template.render(answer=None, note=note)
    height, width = answer.image.shape
    image, mask = png_address(answer.image), png_address(answer.prediction.mask * 255)
    color = "rgb({}, {}, {})".format(*LESION_RGB)
    return template.render(answer=answer, image=image, mask=mask, width=width, height=height, color=color)


def view_heat(told):
    """Where the model looks.

    Args:
        told: What `answers.explain` tells.
    """
    return _templates.get_template("heat.html").render(told)


def view_facts(answer=None):
    """Class, probabilities as bars, area, box and uncertainty, and links to save them; nothing without an answer."""
    if answer is None:
        return ""
    told = facts(answer)
    saved = json.dumps({name: value for name, value in told.items() if name != "mask"}).encode()
    return _templates.get_template("facts.html").render(
        told,
        answer=answer,
        out_of_distribution=OUT_OF_DISTRIBUTION,
        stem=answer.stem,
        json=address("application/json", saved),
    )


def view_table(told):
    """The table of a batch, without columns that are empty, and a link to its ZIP; what is wrong with a file stands by
    its name. What is `OUT_OF_DISTRIBUTION` has no class there.

    Args:
        told: What `Endpoints.predict_batch` tells.
    """
    rows, beside = [_without_class(row) for row in told["rows"]], ("file", "warning", "error")
    columns = [name for name in rows[0] if name not in beside and any(row[name] != "" for row in rows)]
    failed = len({row["file"] for row in rows if row["error"]})
    return _templates.get_template("table.html").render(told | {"rows": rows}, columns=columns, failed=failed)


def _without_class(row):
    return row | {"label": ""} if row["warning"].startswith(OUT_OF_DISTRIBUTION) else row
