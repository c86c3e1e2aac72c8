import base64
import uuid
import zipfile

import cv2
import numpy as np
import pytest

from busseg.data.sample import CLASSES
from busseg.imaging.images import read_image
from busseg.inference.overlay import draw_overlay
from busseg.inference.predictor import Predictor

pytest.importorskip("gradio")


@pytest.fixture
def page(server, browser):
    """The page, at 1280 pixels; `requests` and `errors` list its requests and its errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)  # for a busy machine
    page.requests, page.errors = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(server.address)
    yield page
    page.close()


def drop(page, path):
    page.set_input_files("#drop input[type=file]", path)


def lesion_px(page):
    """The area that the page shows."""
    return int(page.inner_text("dt:text-is('Lesion') + dd").split(" px")[0].split()[-1].replace(",", ""))


def test_image_is_answered_drawn_moved_and_saved(server, page, scans, tmp_path):
    from playwright.sync_api import expect

    predicted = Predictor("best").predict(scans["malignant"])
    drop(page, scans["malignant"])
    page.wait_for_selector(".facts")
    assert page.inner_text(".facts h2") == "Malignant"
    bars = [page.locator(".bars i").nth(number).bounding_box()["width"] for number in range(3)]
    assert bars.index(max(bars)) == 2
    assert lesion_px(page) == predicted.lesion_px

    # The browser sets the opacity and the contour of the overlay.
    lesion, contour = page.locator(".image-view .lesion"), page.locator(".image-view .contour").first
    assert lesion.evaluate("one => getComputedStyle(one).opacity") == "0.3"
    page.get_by_label("number input for Opacity of the lesion").fill("0.8")
    page.wait_for_function("getComputedStyle(document.querySelector('.lesion')).opacity == '0.8'")
    assert contour.is_visible()
    page.get_by_label("Contour").uncheck()
    contour.wait_for(state="hidden")

    slider = page.get_by_label("range slider for Lesion threshold (probability)")
    expect(slider).to_be_enabled(timeout=30_000)  # a moment after the answer is shown
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    expect(slider).to_have_value("0.55", timeout=30_000)
    expected = predicted.probability_map >= 0.55
    page.wait_for_selector(f"dt:text-is('Lesion') + dd:has-text('{expected.sum():,} px')")

    with page.expect_download() as download:
        page.click("a:text-is('Save mask')")
    assert download.value.suggested_filename == "malignant_mask.png"
    download.value.save_as(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_image(tmp_path / "mask.png"), expected * np.uint8(255))
    assert page.errors == []
    # Events after an answer are not queued: queued ones are sometimes lost.
    assert len([url for url in page.requests if url.partition("?")[0].endswith("/queue/join")]) == 1
    assert [url for url in page.requests if not url.startswith((server.address, "data:", "blob:"))] == []
    assert server.left() == []


@pytest.mark.slow
def test_what_is_refused_takes_the_answer_before_from_the_page(page, scans, foul, refused):
    drop(page, scans["benign"])
    page.wait_for_selector(".facts")
    for wrong, line in refused.items():
        drop(page, foul[wrong])
        page.wait_for_selector(f".toast-body:has-text('{line}')")
        page.wait_for_selector(".facts", state="detached")
        page.click(".toast-close")
    drop(page, scans["normal"])
    page.wait_for_selector(".facts")
    assert page.inner_text(".facts h2") == "Normal"


def test_answer_that_is_no_longer_kept_is_reported(server, page, scans):
    from playwright.sync_api import expect

    drop(page, scans["benign"])
    page.wait_for_selector(".facts")
    for _ in range(32):  # others, for whom the page makes room
        asked = {"data": [None, 0.5], "session_hash": str(uuid.uuid4())}
        assert server.ask("/gradio_api/run/threshold", asked)[0] == 500
    slider = page.get_by_label("range slider for Lesion threshold (probability)")
    expect(slider).to_be_enabled(timeout=30_000)
    slider.press("ArrowRight")
    page.wait_for_selector(".image-empty:has-text('No answer: the image is no longer kept')")
    page.wait_for_selector(".facts", state="detached")


@pytest.mark.slow
def test_image_is_pasted(page, scans):
    page.wait_for_selector("#drop input[type=file]", state="attached")
    content = base64.b64encode(scans["benign"].read_bytes()).decode()
    page.evaluate(
        """async content => {
            const clipboardData = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            clipboardData.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
            document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));
        }""",
        content,
    )
    page.wait_for_selector(".facts")
    assert page.inner_text(".image-view figcaption") == "pasted.png"


@pytest.mark.slow
def test_phantoms_are_what_they_are_called(page):
    for label in CLASSES:
        page.click(f"button:text-is('{label.capitalize()}')")
        page.wait_for_selector(f"figcaption:text-is('phantom {label}.png')")
        assert page.inner_text(".facts h2") == label.capitalize()


@pytest.mark.slow
def test_frames_of_a_clip_are_turned_to(page, phantom_clip):
    drop(page, phantom_clip)
    frame = page.get_by_label("number input for Frame")
    frame.fill("3")
    frame.press("Enter")
    page.wait_for_selector("a[download='clip_frame_3_mask.png']")
    page.wait_for_selector(".strip [data-frame='3'][aria-current=true]")
    with page.expect_download() as download:
        page.click("button:has-text('DICOM SEG')")
    assert download.value.suggested_filename == "clip_frame_3_seg.dcm"


@pytest.mark.slow
def test_frame_is_chosen_in_the_strip_and_the_answer_for_the_clip_stays(page, phantom_clip):
    drop(page, phantom_clip)
    page.wait_for_selector(".strip")
    assert page.inner_text(".facts h2") == "Clip: Malignant"
    page.click(".strip [data-frame='2']")
    page.wait_for_selector("h3:has-text('Frame 2')")
    assert page.locator(".strip [aria-current=true]").get_attribute("data-frame") == "2"
    assert page.get_by_label("number input for Frame").input_value() == "2"
    assert page.inner_text(".facts h2") == "Clip: Malignant"


@pytest.mark.slow
def test_photograph_has_no_class_no_lesion_and_no_overlay(page, scans, tmp_path):
    drop(page, scans["malignant"])
    overlay = page.locator("button:text-is('Save overlay')")
    overlay.wait_for()
    drop(page, draw_house(tmp_path / "house.png"))
    page.wait_for_selector("h2:text-is('This image does not look like breast ultrasound')")
    overlay.wait_for(state="hidden")
    assert page.locator(".facts .bars").is_hidden()  # folded away
    assert page.locator(".image-view svg").count() == 1
    assert page.locator(".image-view .lesion, .image-view .contour").count() == 0
    assert page.get_by_role("button", name="Where does the model look?").is_disabled()


def draw_house(path):
    """A synthetic photograph: sky, ground and a house."""
    image = np.full((480, 640, 3), (220, 170, 130), np.uint8)
    image[300:] = (60, 130, 70)
    cv2.rectangle(image, (120, 180), (300, 340), (50, 60, 170), -1)
    cv2.circle(image, (500, 90), 45, (150, 240, 255), -1)
    cv2.imwrite(str(path), image)
    return path


@pytest.mark.slow
def test_overlay_is_saved(page, scans, tmp_path):
    drop(page, scans["benign"])
    with page.expect_download() as download:
        page.click("button:text-is('Save overlay')")
    assert download.value.suggested_filename == "benign_overlay.png"
    download.value.save_as(tmp_path / "overlay.png")
    image = read_image(scans["benign"])
    expected = draw_overlay(image, Predictor("best").predict(image))
    np.testing.assert_array_equal(read_image(tmp_path / "overlay.png", colour=True), expected)


@pytest.mark.slow
def test_image_is_zoomed_and_moved_by_keys_and_buttons_until_another_comes(page, scans):
    def box():
        return page.locator(".image-view svg").bounding_box()

    drop(page, scans["benign"])
    page.wait_for_selector(".facts")
    whole = box()
    page.get_by_role("button", name="Zoom in").click()
    assert box()["width"] == pytest.approx(1.5 * whole["width"], rel=0.01)
    page.locator(".zoomed").focus()
    before = box()["x"]
    page.keyboard.press("ArrowRight")
    assert box()["x"] < before  # the view moves to the right, so the image moves to the left
    page.keyboard.press("-")
    assert box() == pytest.approx(whole, abs=1)
    page.get_by_role("button", name="Zoom in").click()
    drop(page, scans["malignant"])
    page.wait_for_selector("figcaption:text-is('malignant.png')")
    page.wait_for_function("getComputedStyle(document.documentElement).getPropertyValue('--zoom') == '1'")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(server, page, scans, foul, phantom_clip, tmp_path, width, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

    def check(state):
        found = [rule for rule in axe.run(page).response["violations"] if rule["impact"] in ("serious", "critical")]
        places = {rule["id"]: [node["html"][:200] for node in rule["nodes"]] for rule in found}
        assert places == {}, state

    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"{server.address}?__theme={theme}")
    page.wait_for_selector("#drop input[type=file]", state="attached")
    check("empty")
    drop(page, phantom_clip)
    page.wait_for_selector(".strip")
    page.get_by_role("button", name="Where does the model look?").click()
    page.wait_for_selector(".legend", timeout=300_000)
    check("clip and explanation")
    drop(page, draw_house(tmp_path / "house.png"))
    page.wait_for_selector(".facts .warning")
    page.click("summary")
    check("photograph")
    page.click("[role=tab]:has-text('Many images')")
    page.locator("input[type=file]").last.set_input_files([scans["benign"], tmp_path / "house.png", foul["text"]])
    page.wait_for_selector(".results")
    check("table")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_its_width(server, page, scans, foul, width, theme):
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"{server.address}?__theme={theme}")
    drop(page, scans["malignant"])
    page.wait_for_selector(".facts")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("[role=tab]:has-text('Many images')")
    page.locator("input[type=file]").last.set_input_files([*scans.values(), foul["text"]])
    page.wait_for_selector(".results th:has-text('malignant.png')")
    table = page.locator(".results table")
    assert table.evaluate("one => one.scrollWidth <= one.parentElement.clientWidth")
    assert table.locator("tbody img").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    with page.expect_download() as download:
        page.click("a:has-text('ZIP')")
    assert zipfile.ZipFile(download.value.path()).testzip() is None


@pytest.mark.slow
def test_real_image_is_answered_rightly(page, busi_folder):
    drop(page, busi_folder / "malignant" / "malignant (12).png")
    page.wait_for_selector(".facts")
    assert page.inner_text(".facts h2") == "Malignant"
    assert lesion_px(page) > 1000
