"""The layout of the page, and the endpoint that each of its components calls."""

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

# Before Gradio is imported, so that it sends no usage data.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
import gradio as gr

from busseg.app.endpoints import PHANTOMS, Endpoints
from busseg.app.packing import MAX_IMAGES
from busseg.app.views import view_facts, view_heat, view_image, view_strip, view_table
from busseg.data.sample import THRESHOLD

MAX_FILE_MB = 50
KEPT_S = 1800  # an answer stays in memory, for its threshold to be moved
MAX_QUESTIONS = 200  # that wait
_POLL_S = 0.02  # between two looks for a question; with Gradio's 0.001 an idle page takes 6 % of a core
MAX_SESSIONS = 32  # pages and programs whose answers stay in memory; a new one replaces the least recent
_TEMPLATES = Path(__file__).parent / "templates"
# System fonts, so that no font is downloaded.
_FONTS = [gr.themes.Font(name) for name in ("system-ui", "Segoe UI", "Roboto", "sans-serif")]
# Gradio's subdued grey has a contrast of 1.9 to 1 on white; WCAG demands 4.5.
_THEME = gr.themes.Default(primary_hue="sky", font=_FONTS, font_mono=[gr.themes.Font("monospace")]).set(
    body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300"
)
# Arguments of `gr.mount_gradio_app`.
SETTINGS = {
    "theme": _THEME,
    "css": (_TEMPLATES / "page.css").read_text(encoding="utf-8"),
    "head": f"<script>{(_TEMPLATES / 'page.js').read_text(encoding='utf-8')}</script>",
    "footer_links": ["api"],
    "max_file_size": MAX_FILE_MB * 1_000_000,
    "ssr_mode": False,
    "enable_monitoring": False,
    "run_history": False,
    "pwa": False,
    "mcp_server": False,
}
_HEADING = """# busseg
Breast ultrasound: which class, and where the lesion lies. **Research software, not a medical device.**
Images stay on the machine that runs this page, and are deleted as soon as they are answered."""
_NO_ANSWER = "No answer: the image is no longer kept, or this frame of it cannot be read. Drop it again."
_SAVE = """made => Object.assign(
    document.createElement('a'), {href: made.overlay ?? made.segmentation, download: made.file}).click()"""
_FIT = "() => document.dispatchEvent(new Event('busseg-fit'))"
_MARK = "number => document.dispatchEvent(new CustomEvent('busseg-frame', {detail: number}))"
# Options of an event that follows another event. Gradio's browser code sometimes loses such an event if it is queued:
# the server closes the stream of answers after the first event, and the browser may notice after it has requested the
# next. Gradio reports no failure of an event that is not queued.
_AT_ONCE = {"queue": False}
# Options of an event that only updates the page after an answer. If several arrive, the last one is shown, too.
_QUIET = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple", **_AT_ONCE}


def build_page(endpoints: Endpoints) -> gr.Blocks:
    """Build the page.

    Programs call, by `gradio_client`: `/predict` (file, threshold); then, about the answer kept in their session,
    `/threshold` (threshold), `/frame` (number), `/explain`, `/overlay` and `/segmentation`; and `/batch` (files).

    Args:
        endpoints: `Endpoints`.

    Returns:
        `gr.Blocks`.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(endpoints.uploads.folder)
    with gr.Blocks(title="busseg", analytics_enabled=False) as page:
        gr.Markdown(_HEADING)
        with gr.Tab("One image"):
            _ask_of_one(_lay_out_one(), endpoints)
        with gr.Tab("Many images"):
            _ask_of_many(_lay_out_many(), endpoints)
    page.state_session_capacity = MAX_SESSIONS
    page.max_threads = 8  # Gradio's default of 40 takes more memory and is no faster
    page.queue(default_concurrency_limit=1, max_size=MAX_QUESTIONS)
    page._queue.sleep_when_free = _POLL_S
    return page


# === One image ===
def _lay_out_one():
    one = SimpleNamespace(answer=gr.State(time_to_live=KEPT_S))
    one.result, one.explanation, one.saved = (gr.JSON(visible=False) for _ in range(3))
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            one.file = gr.File(label="Drop, paste or pick an image, video or DICOM", height=170, elem_id="drop")
            gr.Markdown("... or try a phantom, a synthetic image:")
            with gr.Row():
                one.phantoms = {label: gr.Button(label.capitalize(), size="sm", min_width=80) for label in PHANTOMS}
            one.facts = gr.HTML()
            with gr.Row():
                one.overlay = gr.Button("Save overlay", size="sm", min_width=80, visible=False)
                one.segmentation = gr.Button("Save DICOM SEG", size="sm", min_width=80, visible=False)
        with gr.Column(scale=3, min_width=320):
            one.image = gr.HTML(view_image())
            one.strip = gr.HTML()
            # Wide enough for programs; on the page, a clip sets the maximum to its last frame.
            one.frame = gr.Slider(1, 100_000, 1, step=1, label="Frame", visible=False, elem_id="frame")
            one.threshold = gr.Slider(
                0.01, 0.99, THRESHOLD, step=0.01, label="Lesion threshold (probability)", interactive=False
            )
            one.opacity = gr.Slider(0, 1, 0.3, step=0.05, label="Opacity of the lesion")
            one.contour = gr.Checkbox(True, label="Contour")
            one.why = gr.Button("Where does the model look?", interactive=False)
            one.heat = gr.HTML()
    return one


def _ask_of_one(one, endpoints):
    seen, allowed = [one.image, one.facts], [one.overlay, one.segmentation, one.threshold, one.why, one.heat]
    clip = [one.strip, one.frame]
    asks = {"outputs": [one.answer, one.result], "concurrency_id": "network", "show_progress_on": [one.image]}
    asked = one.file.upload(endpoints.predict, [one.file, one.threshold], api_name="predict", **asks)
    # A refused file clears the answer to the file before.
    asked.failure(
        lambda: (None, *_show(None), *_allow(None), *_show_clip(None)),
        outputs=[one.answer, *seen, *allowed, *clip],
        **_QUIET,
    )
    _make_ready(one.file, asked)
    answered = [asked]
    for label, button in one.phantoms.items():
        draw = partial(endpoints.predict_phantom, label)
        answered.append(button.click(draw, one.threshold, api_visibility="private", **asks))
    for asked in answered:
        asked.success(
            lambda answer: (*_show(answer), *_allow(answer), *_show_clip(answer)),
            one.answer,
            [*seen, *allowed, *clip],
            **_QUIET,
        )
        asked.success(None, js=_FIT)
    drawn = {"trigger_mode": "always_last", **_AT_ONCE}  # for a slider: only its last position counts
    turned = one.frame.input(endpoints.predict_frame, [one.answer, one.frame], api_name="frame", **asks | drawn)
    turned.success(lambda answer: (*_show(answer), *_allow(answer)), one.answer, [*seen, *allowed], **_QUIET)
    one.frame.change(None, one.frame, js=_MARK)
    drawn |= {"outputs": asks["outputs"], "show_progress": "hidden"}
    moves = [one.answer, one.threshold]
    moved = one.threshold.change(endpoints.move_threshold, moves, api_name="threshold", **drawn)
    moved.success(_show, one.answer, seen, **_QUIET)
    for asked in (turned, moved):
        asked.failure(lambda: (view_image(note=_NO_ANSWER), ""), outputs=seen, **_QUIET)

    slow = {"inputs": one.answer, "concurrency_id": "slow"}
    asked = one.why.click(
        endpoints.explain, outputs=one.explanation, api_name="explain", show_progress_on=[one.heat], **slow
    )
    asked.success(view_heat, one.explanation, one.heat, **_QUIET)
    for button, make, name in (
        (one.overlay, endpoints.overlay, "overlay"),
        (one.segmentation, endpoints.segment, "segmentation"),
    ):
        asked = button.click(make, outputs=one.saved, api_name=name, **slow)
        asked.success(None, one.saved, js=_SAVE)

    _let_browser_style(one.opacity, "value => ['--lesion-opacity', value]")
    _let_browser_style(one.contour, "on => ['--lesion-contour', on ? 'inline' : 'none']")


def _show(answer):
    return view_image(answer), view_facts(answer)


def _show_clip(answer):
    """The strip and the slider of a clip's frames, hidden for a single image."""
    frames = answer.frames if answer else 1
    frame = gr.Slider(maximum=max(2, frames), value=answer.frame if answer else 1, visible=frames > 1)
    return view_strip(answer), frame


def _allow(answer):
    """The controls that an `Answer`, or None, allows; the explanation of the answer before is cleared."""
    known = bool(answer and answer.in_distribution)
    return (
        gr.Button(visible=known),
        gr.Button(visible=bool(known and answer.scan)),
        gr.Slider(interactive=known),
        gr.Button(interactive=known),
        "",
    )


def _let_browser_style(component, variable):
    """Set a CSS variable from a component, in the browser alone."""
    component.change(None, component, js=f"value => document.documentElement.style.setProperty(...({variable})(value))")


# === Many images ===
def _lay_out_many():
    many = SimpleNamespace(result=gr.JSON(visible=False))
    many.files = gr.File(label=f"Drop or pick up to {MAX_IMAGES} images or frames", height=170, file_count="multiple")
    many.table = gr.HTML()
    return many


def _ask_of_many(many, endpoints):
    slow = {"concurrency_id": "slow", "show_progress_on": [many.table]}
    asked = many.files.upload(endpoints.predict_batch, many.files, many.result, api_name="batch", **slow)
    asked.success(view_table, many.result, many.table, **_QUIET)
    _make_ready(many.files, asked)


def _make_ready(files, asked):
    """Empty a drop zone for the next files, once those in it are answered or refused."""
    for done in (asked.success, asked.failure):
        done(None, js="() => null", outputs=files)
