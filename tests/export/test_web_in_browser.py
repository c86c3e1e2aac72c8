"""The static page in Chromium, which reaches no machine but the page's server.

The page needs npm's package onnxruntime-web; without it these tests are skipped. Get it anywhere, and say where:

    npm pack onnxruntime-web@1.30.0 && tar -xzf onnxruntime-web-1.30.0.tgz
    BUSSEG_ORT_WEB=$PWD/package pytest -m slow -n 0 tests/export/test_web_in_browser.py
"""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from PIL import Image

from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.export.web import export_web
from busseg.imaging.images import fit_to_native, fit_to_square, read_image, write_image
from busseg.inference.predictor import Predictor

pytestmark = pytest.mark.slow

UNLIKE = "This image does not look like breast ultrasound"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of the page of `best`, served by Python's own server."""
    if "BUSSEG_ORT_WEB" not in os.environ:
        pytest.skip("needs BUSSEG_ORT_WEB, the folder of the unpacked npm package onnxruntime-web")
    out = tmp_path_factory.mktemp("web") / "page"
    export_web("best", out, os.environ["BUSSEG_ORT_WEB"])

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=out)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(address, browser):
    """The page, ready. `requests` lists what it asks of any server, `errors` its errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)  # for a busy machine
    page.requests, page.errors = [], []

    def fetch(route):
        page.requests.append(route.request.url)
        if route.request.url.startswith(address):
            route.continue_()
        else:
            route.abort()

    page.route("**/*", fetch)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#status:text-is('Ready')")
    yield page
    page.close()


def give(page, path):
    """Give a file to the page, and wait for its answer or its refusal."""
    page.set_input_files("#file", path)
    page.wait_for_selector("#answer:not([hidden]), #error:not([hidden])")


def assert_same(page, path, predicted, tmp_path):
    """The page has the same class and probabilities for an image, and a mask that is equal in 99.9 % of its pixels."""
    give(page, path)
    assert page.inner_text("#label") == (predicted.label.capitalize() if predicted.in_distribution else UNLIKE), path
    page.evaluate("document.querySelector('#facts').open = true")
    shown = [float(text.removesuffix(" %")) for text in page.locator("#probabilities dd").all_inner_texts()]
    np.testing.assert_allclose(shown, 100 * predicted.probabilities, atol=0.3)
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == f"{path.stem}_mask.png"
    download.value.save_as(tmp_path / "saved.png")
    mask = read_image(tmp_path / "saved.png")
    assert set(np.unique(mask)) <= {0, 255}
    assert (mask // 255 == predicted.mask).mean() >= 0.999, path


def test_phantoms_get_the_answers_of_predict(page, tmp_path):
    predictor = Predictor("best")
    for number in range(20):
        label, path = CLASSES[number % 3], tmp_path / f"{number}.png"
        write_image(path, draw_phantom(label, seed=number)[0])
        assert_same(page, path, predictor.predict(path), tmp_path)
    assert page.errors == []


def test_real_images_get_the_answers_of_predict(page, busi_folder, tmp_path):
    predictor = Predictor("best")
    for label, count in zip(CLASSES, (6, 7, 7)):
        for number in range(1, count + 1):
            path = busi_folder / label / f"{label} ({number}).png"
            assert_same(page, path, predictor.predict(path), tmp_path)


def test_other_encodings_of_an_image_get_the_answers_of_predict(page, tmp_path):
    predictor, (phantom, _) = Predictor("best"), draw_phantom("malignant", seed=1)
    height, width = phantom.shape
    colours = np.dstack([phantom, phantom // 2, 255 - phantom])
    opacity = np.where(np.arange(width) < width // 4, 0, 255).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    images = {
        "large.png": (cv2.resize(phantom, None, fx=2.3, fy=2.3), {}),
        "small.png": (cv2.resize(phantom, (96, 96 * height // width)), {}),
        "grey.jpg": (phantom, {"quality": 90}),
        "turned.jpg": (phantom, {"exif": turned}),
        "colours.png": (colours, {}),
        "colours.jpg": (colours, {"quality": 95}),
        "clear.png": (np.dstack([phantom] * 3 + [np.broadcast_to(opacity, phantom.shape)]), {}),
    }
    for name, (pixels, options) in images.items():
        Image.fromarray(pixels).save(tmp_path / name, **options)
        assert_same(page, tmp_path / name, predictor.predict(tmp_path / name), tmp_path)


# Shrunk by any factor, by 2, by 4; enlarged; as it is.
@pytest.mark.parametrize("shape", [(471, 562), (384, 288), (768, 500), (100, 150), (192, 150), (900, 7)])
def test_image_is_fitted_as_by_opencv(page, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    call = "async image => Array.from((await import('./page.js')).fitToSquare(image, 192))"
    given = {"pixels": image.ravel().tolist(), "width": shape[1], "height": shape[0]}
    found = np.reshape(page.evaluate(call, given), (192, 192))
    difference = np.abs(found - fit_to_square(image, 192))
    assert difference.max() <= 1  # a grey level
    assert (difference > 0).mean() <= 0.005


def test_map_is_brought_back_as_by_opencv(page):
    values = np.random.default_rng(0).random((192, 192), np.float32)
    call = "async map => Array.from((await import('./page.js')).fitToNative(Float32Array.from(map), 192, 562, 471))"
    found = np.reshape(page.evaluate(call, values.ravel().tolist()), (471, 562))
    np.testing.assert_allclose(found, fit_to_native(values, (471, 562)), atol=1e-4)


def test_example_is_answered(page):
    page.click("#example")
    page.wait_for_selector("#label:text-is('Malignant')")
    widths = [bar.bounding_box()["width"] for bar in page.locator("#probabilities i").all()]
    assert widths.index(max(widths)) == 2
    assert min(widths) < 0.2 * max(widths)
    page.uncheck("#shown")
    assert page.locator("#lesion").is_hidden()
    page.check("#shown")


def test_photograph_has_no_class_and_no_lesion(page, tmp_path):
    house = np.full((480, 640, 3), (130, 170, 220), np.uint8)
    house[300:] = (70, 130, 60)
    house[180:340, 120:300] = (170, 60, 50)
    write_image(tmp_path / "house.png", house)
    assert not Predictor("best").predict(tmp_path / "house.png").in_distribution
    give(page, tmp_path / "house.png")
    assert page.inner_text("#label") == UNLIKE
    assert page.locator("#probabilities").is_hidden()
    drawn = (
        "Array.from(document.querySelector('#lesion').getContext('2d').getImageData(0, 0, 640, 480).data).some(x => x)"
    )
    assert not page.evaluate(drawn)


def test_dark_image_is_warned_of(page, tmp_path):
    path = tmp_path / "dark.png"
    write_image(path, draw_phantom("benign", seed=1)[0] // 5)
    assert "very dark" in Predictor("best").predict(path).warnings
    give(page, path)
    assert "Very dark." in page.locator(".warning").all_inner_texts()


def test_what_the_page_cannot_read_gets_one_line(page, tmp_path):
    phantom, _ = draw_phantom("benign", seed=1)
    write_image(tmp_path / "whole.png", phantom)
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:100])
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(phantom.astype(np.uint16) * 16).save(tmp_path / "deep.png")
    frames = [Image.fromarray(phantom), Image.fromarray(phantom[::-1].copy())]
    frames[0].save(tmp_path / "clip.png", save_all=True, append_images=frames[1:])
    for name, line in {
        "broken.png": "Expected a complete image, found a broken file",
        "text.png": "Expected a PNG or JPEG image, found something else",
        "deep.png": "Expected 8 bits a channel, found 16; busseg predict reads them",
        "clip.png": "Expected a single image, found an animation; busseg predict reads clips",
    }.items():
        give(page, tmp_path / name)
        assert page.inner_text("#error") == f"{line}: {name}"
        assert page.locator("#answer").is_hidden()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_its_width_and_axe_finds_nothing_serious(page, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.click("#example")
    page.wait_for_selector("#label:text-is('Malignant')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = [rule for rule in axe.run(page).response["violations"] if rule["impact"] in ("serious", "critical")]
    assert {rule["id"]: [node["html"][:200] for node in rule["nodes"]] for rule in found} == {}


def test_page_asks_no_other_server_and_sends_nothing(page, address):
    assert page.requests  # of the tests before, or of its own start
    assert {url for url in page.requests if not url.startswith((address, "blob:", "data:"))} == set()
    blocked = "fetch('https://example.org').then(() => 'sent', error => error.name)"
    assert page.evaluate(blocked) == "TypeError"  # by the page's own Content-Security-Policy
