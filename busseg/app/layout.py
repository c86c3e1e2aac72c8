"""The page: what stands where, and which question each part of it asks."""

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

# Before Gradio is imported: nobody is told that it runs.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
import gradio as gr

from busseg.app.endpoints import PHANTOMS
from busseg.app.packing import MAX_IMAGES
from busseg.app.views import view_facts, view_heat, view_picture, view_table
from busseg.inference.predictor import THRESHOLD

MAX_FILE_MB = 50
KEPT_S = 1800  # an answer stays in memory, for its threshold to be moved
MAX_QUESTIONS = 200  # that wait
MAX_SESSIONS = 32  # pages and programs whose answers stay there; the one that asked longest ago makes room
_TEMPLATES = Path(__file__).parent / "templates"
# Of the system: none is loaded from elsewhere.
_FONTS = [gr.themes.Font(name) for name in ("system-ui", "Segoe UI", "Roboto", "sans-serif")]
# For `gr.mount_gradio_app`.
SETTINGS = {
    "theme": gr.themes.Default(primary_hue="sky", font=_FONTS, font_mono=[gr.themes.Font("monospace")]),
    "css": (_TEMPLATES / "page.css").read_text(encoding="utf-8"),
    "head": f"<script>{(_TEMPLATES / 'paste.js').read_text(encoding='utf-8')}</script>",
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
Images are read on the machine that runs this page, and deleted as soon as they are answered."""
_NO_ANSWER = "No answer: the image is no longer kept, or this frame of it cannot be read. Drop it again."
_SAVE = "told => Object.assign(document.createElement('a'), {href: told.segmentation, download: told.file}).click()"
# Of what comes on the heels of another event. Gradio's browser code loses a queued one now and then: the server closes
# the stream of answers behind the event before, and the browser may learn so after it has asked for the next. That one
# of these has failed, it does not tell.
_AT_ONCE = {"queue": False}
# Of what follows a question: it is the page's own business, and quick. The last of several answers is shown, too.
_QUIET = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple", **_AT_ONCE}


def build_page(endpoints):
    """Build the page.

    What programs may ask, by `gradio_client`: `/predict` (file, threshold); of the answer, which is kept for whoever
    asked, `/threshold` (threshold), `/frame` (number), `/explain` and `/segmentation`; and `/batch` (files).

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
    page.max_threads = 8  # of Gradio's 40, each holds on to some memory, and no answer comes sooner
    return page.queue(default_concurrency_limit=1, max_size=MAX_QUESTIONS)


# === One image ===
def _lay_out_one():
    one = SimpleNamespace(answer=gr.State(time_to_live=KEPT_S))
    one.told, one.heat_told, one.segmentation_told = (gr.JSON(visible=False) for _ in range(3))
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            one.file = gr.File(label="Drop, paste or pick an image, video or DICOM", height=170, elem_id="drop")
            gr.Markdown("... or look at a phantom, a synthetic image:")
            with gr.Row():
                one.phantoms = {label: gr.Button(label.capitalize(), size="sm", min_width=80) for label in PHANTOMS}
            one.facts = gr.HTML()
            one.segmentation = gr.Button("Save DICOM SEG", size="sm", visible=False)
        with gr.Column(scale=3, min_width=320):
            one.picture = gr.HTML(view_picture())
            # Programs are not shown a clip, which brings the end down to its last frame.
            one.frame = gr.Slider(1, 100_000, 1, step=1, label="Frame", visible=False)
            one.threshold = gr.Slider(
                0.01, 0.99, THRESHOLD, step=0.01, label="Lesion from this probability on", interactive=False
            )
            one.opacity = gr.Slider(0, 1, 0.3, step=0.05, label="Opacity of the lesion")
            one.contour = gr.Checkbox(True, label="Contour")
            one.why = gr.Button("Where does the model look?", interactive=False)
            one.heat = gr.HTML()
    return one


def _ask_of_one(one, endpoints):
    seen, offered = [one.picture, one.facts], [one.frame, one.segmentation, one.threshold, one.why, one.heat]
    asks = {"outputs": [one.answer, one.told], "concurrency_id": "network", "show_progress_on": [one.picture]}
    asked = one.file.upload(endpoints.predict, [one.file, one.threshold], api_name="predict", **asks)
    # What was answered before is no answer to a file that is refused.
    asked.failure(lambda: (None, *_show(None), *_offer(None)), outputs=[one.answer, *seen, *offered], **_QUIET)
    _make_ready(one.file, asked)
    answered = [asked]
    for label, button in one.phantoms.items():
        draw = partial(endpoints.predict_phantom, label)
        answered.append(button.click(draw, one.threshold, api_visibility="private", **asks))
    for asked in answered:
        asked.success(lambda answer: (*_show(answer), *_offer(answer)), one.answer, [*seen, *offered], **_QUIET)
    drawn = {"trigger_mode": "always_last", **_AT_ONCE}  # a slider: what counts is where it comes to rest
    turned = one.frame.input(endpoints.predict_frame, [one.answer, one.frame], api_name="frame", **asks | drawn)
    turned.success(lambda answer: (*_show(answer), ""), one.answer, [*seen, one.heat], **_QUIET)
    drawn |= {"outputs": asks["outputs"], "show_progress": "hidden"}
    moves = [one.answer, one.threshold]
    moved = one.threshold.change(endpoints.move_threshold, moves, api_name="threshold", **drawn)
    moved.success(_show, one.answer, seen, **_QUIET)
    for asked in (turned, moved):
        asked.failure(lambda: (view_picture(note=_NO_ANSWER), ""), outputs=seen, **_QUIET)

    slow = {"inputs": one.answer, "concurrency_id": "slow"}
    asked = one.why.click(
        endpoints.explain, outputs=one.heat_told, api_name="explain", show_progress_on=[one.heat], **slow
    )
    asked.success(view_heat, one.heat_told, one.heat, **_QUIET)
    asked = one.segmentation.click(endpoints.segment, outputs=one.segmentation_told, api_name="segmentation", **slow)
    asked.success(None, one.segmentation_told, js=_SAVE)

    _let_browser_style(one.opacity, "value => ['--lesion-opacity', value]")
    _let_browser_style(one.contour, "on => ['--lesion-contour', on ? 'inline' : 'none']")


def _show(answer):
    return view_picture(answer), view_facts(answer)


def _offer(answer):
    """What can be asked of an `Answer`, or of none; what was asked of the one before is cleared."""
    frames, readable = (answer.frames, answer.in_distribution) if answer else (1, False)
    return (
        gr.Slider(maximum=max(2, frames), value=answer.frame if answer else 1, visible=frames > 1),
        gr.Button(visible=bool(readable and answer.scan)),
        gr.Slider(interactive=bool(answer)),
        gr.Button(interactive=readable),
        "",
    )


def _let_browser_style(component, variable):
    """Set a variable of CSS by a component; the server is not asked."""
    component.change(None, component, js=f"value => document.documentElement.style.setProperty(...({variable})(value))")


# === Many images ===
def _lay_out_many():
    many = SimpleNamespace(told=gr.JSON(visible=False))
    many.files = gr.File(label=f"Drop or pick up to {MAX_IMAGES} images or frames", height=170, file_count="multiple")
    many.table = gr.HTML()
    return many


def _ask_of_many(many, endpoints):
    slow = {"concurrency_id": "slow", "show_progress_on": [many.table]}
    asked = many.files.upload(endpoints.predict_batch, many.files, many.told, api_name="batch", **slow)
    asked.success(view_table, many.told, many.table, **_QUIET)
    _make_ready(many.files, asked)


def _make_ready(files, asked):
    """Empty a drop zone for the next files, once those in it are answered or refused."""
    for done in (asked.success, asked.failure):
        done(None, js="() => null", outputs=files)
