"""The views of an answer: self-contained pieces of HTML."""

import json

import cv2
import jinja2
import numpy as np

from busseg.app.addresses import address, png_address
from busseg.app.answers import Answer, facts
from busseg.inference.overlay import LESION_RGB
from busseg.inference.quality import OUT_OF_DISTRIBUTION

_WEAK = 0.05  # a largest drop of the probability below this is called small
_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("busseg.app"),
    autoescape=True,  # file names come from outside
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _percent(p):
    return f"{100 * float(p):.0f}"


# Title of a column -> column of `predictions.csv`, and a function from its text to the text on the page, or None.
_COLUMNS = {
    "Frame": ("frame", None),
    "Class": ("label", str.capitalize),
    "Normal, %": ("p_normal", _percent),
    "Benign, %": ("p_benign", _percent),
    "Malignant, %": ("p_malignant", _percent),
    "Lesion, % of image": ("lesion_fraction", lambda share: f"{100 * float(share):.1f}"),
    "Lesion, mm²": ("lesion_mm2", lambda area: f"{float(area):.0f}"),
    "Diameter, mm": ("lesion_mm", lambda length: f"{float(length):.1f}"),
    "Chance of error, %": ("uncertainty", _percent),
}


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


def view_strip(answer: Answer | None = None) -> str:
    """The pooled frames of a clip as buttons, for the browser to choose one; empty for a single image."""
    if answer is None or answer.clip is None:
        return ""
    return _templates.get_template("strip.html").render(answer=answer, clip=answer.clip)


def view_heat(explanation: dict) -> str:
    """The occlusion map with its legend.

    Args:
        explanation: Dict, as `busseg.app.answers.explain` returns it.
    """
    return _templates.get_template("heat.html").render(
        explanation,
        rise=_points(explanation["least"]),
        fall=_points(explanation["drop"]),
        weak=explanation["drop"] < _WEAK,
        colors=_heat_colors(),
    )


def _points(drop):
    """The change of a probability that drops by `drop`, in percentage points."""
    return f"{-100 * drop:+.1f}".replace("-", "\N{MINUS SIGN}")


def _heat_colors():
    """The colours of `draw_heat` from the smallest to the largest value, as a CSS list."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)[:, None]
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS)[:, 0, ::-1]
    return ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colors)


def view_facts(answer: Answer | None = None) -> str:
    """Class, probabilities as bars, size of the lesion, chance of error, and links to save them; empty without an
    answer. An answer that is `OUT_OF_DISTRIBUTION` has no class; its numbers are folded away.
    """
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
    """The table of a batch and a link to its ZIP, with a thumbnail of each image.

    The columns are those of `_COLUMNS` that hold a value. Errors and warnings are below the file's name, and a file
    that is `OUT_OF_DISTRIBUTION` has no numbers.

    Args:
        batch: Dict, as `Endpoints.predict_batch` returns it.
    """
    rows = [_readable(row) for row in batch["rows"]]
    columns = [name for name in _COLUMNS if any(row[name] for row in rows)]
    failed = len({row["file"] for row in batch["rows"] if row["error"]})
    lines = list(zip(batch["rows"], batch["thumbnails"], rows))
    return _templates.get_template("table.html").render(zip=batch["zip"], lines=lines, columns=columns, failed=failed)


def _readable(row):
    """The texts of a row by the titles of `_COLUMNS`, "" where there is no value."""
    known = not row["warning"].startswith(OUT_OF_DISTRIBUTION)
    texts = {}
    for title, (name, to_text) in _COLUMNS.items():
        value = str(row.get(name, ""))
        shown = value and (known or name == "frame")
        texts[title] = (to_text(value) if to_text else value) if shown else ""
    return texts
