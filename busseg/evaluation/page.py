"""Self-contained HTML pages: one file, every picture inside, nothing loaded from elsewhere."""

import base64
import io

import cv2
import jinja2
import numpy as np
from matplotlib import rc_context
from PIL import Image

from busseg import __version__
from busseg.storage.files import write_text

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("busseg.evaluation"),
    autoescape=True,  # file names and error messages are other people's text
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals["version"] = __version__


def write_page(path, template, **values):
    """Write an HTML page, whole or not at all.

    Args:
        path: Path of the HTML file.
        template: Name of a file in `templates/`, which extends `base.html`.
        values: What the template shows. Text is escaped.
    """
    write_text(path, _templates.get_template(template).render(**values))


def embed_figure(figure, dpi=150):
    """A matplotlib figure as a `data:` address, for the `src` of an image: SVG, whose lines and letters stay sharp.

    The same figure gives the same address.

    Args:
        figure: A `matplotlib.figure.Figure`.
        dpi: Dots an inch, for what is drawn as pixels in it (`rasterized=True`).
    """
    stream = io.BytesIO()
    # Letters as paths, for a font need not be there; a fixed salt and no date, so that nothing differs without cause.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "busseg"}):
        figure.savefig(stream, format="svg", dpi=dpi, metadata={"Date": None})
    return _embed("svg+xml", stream.getvalue())


def embed_image(pixels, width=320):
    """An image as a `data:` address, for the `src` of an image: JPEG, made smaller if it is wider than `width`.

    Args:
        pixels: Array `(height, width)` grey or `(height, width, 3)` RGB, uint8.
        width: The most pixels across.
    """
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    if pixels.shape[1] > width:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=80)
    return _embed("jpeg", stream.getvalue())


def _embed(kind, content):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
