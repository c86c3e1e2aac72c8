import base64
import io
import xml.etree.ElementTree as ET

import jinja2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from busseg import __version__
from busseg.evaluation import page
from busseg.evaluation.page import embed_figure, embed_image, write_page


@pytest.fixture
def templates(monkeypatch):
    """Templates of the test's own: a dict from name to text."""
    texts = {}
    monkeypatch.setattr(page._templates, "loader", jinja2.DictLoader(texts))
    return texts


def content(address, kind):
    """The bytes behind a `data:` address."""
    head, _, body = address.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(body, validate=True)


def decode(address):
    image = Image.open(io.BytesIO(content(address, "image/jpeg")))
    assert image.format == "JPEG"
    return np.asarray(image).astype(int)


def drawing():
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot([0, 1], [0, 1], label="Dice")
    figure.axes[0].legend()
    return figure


# === Page ===
def test_page_without_content_is_whole(tmp_path):
    write_page(tmp_path / "new" / "page.html", "base.html")
    text = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert f"Made by busseg {__version__}. Research software, not a medical device." in text


def test_page_refers_to_nothing_outside(tmp_path):
    write_page(tmp_path / "page.html", "base.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not [word for word in ("http:", "https:", "url(", "@import", "<script", 'src="') if word in text]


def test_values_are_escaped(tmp_path, templates):
    templates["name.html"] = "<p title='{{ name }}'>{{ name }}</p>"
    write_page(tmp_path / "page.html", "name.html", name="<script>'\"&")
    expected = "&lt;script&gt;&#39;&#34;&amp;"
    assert (tmp_path / "page.html").read_text() == f"<p title='{expected}'>{expected}</p>"


def test_text_is_written_as_utf_8(tmp_path, templates):
    templates["name.html"] = "{{ name }}"
    write_page(tmp_path / "page.html", "name.html", name="Dice 0.8 ± 0.1 größer 乳")
    assert (tmp_path / "page.html").read_bytes().decode("utf-8") == "Dice 0.8 ± 0.1 größer 乳"


def test_value_that_is_missing_leaves_the_former_page(tmp_path, templates):
    templates["name.html"] = "{{ name }}"
    (tmp_path / "page.html").write_text("former")
    with pytest.raises(jinja2.UndefinedError, match="name"):
        write_page(tmp_path / "page.html", "name.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "former"


# === Figures ===
def test_figure_becomes_a_drawing_of_its_size():
    root = ET.fromstring(content(embed_figure(drawing()), "image/svg+xml"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height")) == ("288pt", "216pt")  # 4 x 3 inches of 72 points


def test_letters_are_paths_that_need_no_font():
    assert b"<text" not in content(embed_figure(drawing()), "image/svg+xml")


def test_figure_is_the_same_every_time():
    assert embed_figure(drawing()) == embed_figure(drawing())


@pytest.mark.parametrize(("dpi", "expected"), [(72, 288), (144, 576)])
def test_dots_an_inch_are_those_of_what_is_drawn_as_pixels(dpi, expected):
    figure = Figure(figsize=(4, 3))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.plot([0, 1], [0, 1], rasterized=True)
    root = ET.fromstring(content(embed_figure(figure, dpi=dpi), "image/svg+xml"))
    (inside,) = root.iter("{http://www.w3.org/2000/svg}image")
    address = inside.get("{http://www.w3.org/1999/xlink}href").replace(" ", "")  # XML's reading of line breaks
    pixels = Image.open(io.BytesIO(content(address, "image/png")))
    assert pixels.width == pytest.approx(expected, rel=0.1)  # the line alone, with its margins


# === Images ===
@pytest.mark.parametrize(
    ("shape", "width", "expected"),
    [
        ((60, 80), 320, (60, 80)),  # never made larger
        ((60, 80), 80, (60, 80)),
        ((60, 80), 40, (30, 40)),
        ((60, 80, 3), 40, (30, 40, 3)),
        ((1, 900), 30, (1, 30)),  # 1 / 30 of a pixel high, but one
    ],
)
def test_image_is_at_most_so_wide_and_keeps_its_shape(shape, width, expected):
    assert decode(embed_image(np.full(shape, 90, np.uint8), width)).shape == expected


def test_colours_stay_what_they_are():
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, :40, 0] = pixels[:, 40:80, 1] = pixels[:, 80:, 2] = 200
    found = decode(embed_image(pixels))
    for place, expected in ((20, (200, 0, 0)), (60, (0, 200, 0)), (100, (0, 0, 200))):
        assert found[20, place] == pytest.approx(expected, abs=8)


def test_image_may_be_a_view():
    pixels = np.zeros((40, 60), np.uint8)
    pixels[:, :30] = 200
    assert decode(embed_image(pixels[:, ::-1]))[20, [10, 50]] == pytest.approx([0, 200], abs=4)
