"""Self-contained HTML pages: one file that holds its images and loads nothing from elsewhere."""

import base64
import io
from pathlib import Path

import cv2
import jinja2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from busseg import __version__
from busseg.storage.files import write_text

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("busseg.evaluation"),
    autoescape=True,  # file names and error messages come from outside
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals["version"] = __version__


def write_page(path: str | Path, template: str, **values) -> None:
    """Write an HTML page, whole or not at all.

    Args:
        path: Path of the HTML file.
        template: Name of a file in `templates/`, which extends `base.html`.
        values: Variables of the template. Text is escaped.
    """
    write_text(path, _templates.get_template(template).render(**values))


def embed_figure(figure: Figure, dpi: int = 150) -> str:
    """A matplotlib figure as a `data:` address of an SVG, for the `src` of an `<img>`.

    The same figure gives the same address.

    Args:
        figure: A `matplotlib.figure.Figure`.
        dpi: Dots an inch, for the parts drawn as pixels (`rasterized=True`).
    """
    stream = io.BytesIO()
    # Letters as paths need no font; a fixed salt and no date give equal files for equal figures.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "busseg"}):
        figure.savefig(stream, format="svg", dpi=dpi, metadata={"Date": None})
    return _embed("svg+xml", stream.getvalue())


def embed_image(pixels: NDArray, width: int = 320) -> str:
    """An image as a `data:` address of a JPEG, for the `src` of an `<img>`.

    Args:
        pixels: Array `(height, width)` grey or `(height, width, 3)` RGB, uint8.
        width: Maximum width in pixels; a wider image is made smaller.
    """
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    if pixels.shape[1] > width:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=80)
    return _embed("jpeg", stream.getvalue())


def _embed(kind, content):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
