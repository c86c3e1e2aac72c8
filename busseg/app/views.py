"""The views of an answer: self-contained pieces of HTML."""

import json

import jinja2

from busseg.app.answers import Answer, address, facts, png_address
from busseg.inference.overlay import LESION_RGB
from busseg.inference.quality import OUT_OF_DISTRIBUTION

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("busseg.app"),
    autoescape=True,  # file names come from outside
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def view_image(answer: Answer | None = None, note: str = "The image and its lesion will be here.") -> str:
    """The image with its lesion on top, whose opacity the browser sets; or an empty frame.

    Args:
        answer: An `Answer`, or None.
        note: Text in the empty frame.
    """
    template = _templates.get_template("image.html")
    if answer is None:
        return template.render(answer=None, note=note)
    height, width = answer.image.shape
    image, mask = png_address(answer.image), png_address(answer.mask * 255)
    color = "rgb({}, {}, {})".format(*LESION_RGB)
    return template.render(answer=answer, image=image, mask=mask, width=width, height=height, color=color)


def view_heat(explanation: dict) -> str:
    """The occlusion map.

    Args:
        explanation: Dict, as `busseg.app.answers.explain` returns it.
    """
    return _templates.get_template("heat.html").render(explanation)


def view_facts(answer: Answer | None = None) -> str:
    """Class, probabilities as bars, area, box and uncertainty, and links to save them; empty without an answer."""
    if answer is None:
        return ""
    values = facts(answer)
    saved = json.dumps({name: value for name, value in values.items() if name != "mask"}).encode()
    return _templates.get_template("facts.html").render(
        values,
        answer=answer,
        out_of_distribution=OUT_OF_DISTRIBUTION,
        stem=answer.stem,
        json=address("application/json", saved),
    )


def view_table(batch: dict) -> str:
    """The table of a batch, without empty columns, and a link to its ZIP. Errors and warnings are below the file's
    name, and a file that is `OUT_OF_DISTRIBUTION` has no class.

    Args:
        batch: Dict, as `Endpoints.predict_batch` returns it.
    """
    rows, beside = [_without_class(row) for row in batch["rows"]], ("file", "warning", "error")
    columns = [name for name in rows[0] if name not in beside and any(row[name] != "" for row in rows)]
    failed = len({row["file"] for row in rows if row["error"]})
    return _templates.get_template("table.html").render(batch | {"rows": rows}, columns=columns, failed=failed)


def _without_class(row):
    return row | {"label": ""} if row["warning"].startswith(OUT_OF_DISTRIBUTION) else row
