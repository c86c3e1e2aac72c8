"""The page: what stands where, and which answer each part of it asks for."""

import html
import os
from functools import partial, wraps
from pathlib import Path

# Before Gradio is imported: nobody is told that it runs.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
import gradio as gr

from busseg.app.answers import answer_file, answer_image, at_threshold, explain, facts
from busseg.app.batch import MAX_FILES, answer_files
from busseg.app.views import view_facts, view_heat, view_picture
from busseg.data.phantom import draw_phantom
from busseg.inference.batch import fields
from busseg.inference.predictor import THRESHOLD

MAX_FILE_MB = 50
KEPT_S = 1800  # an answer is kept in memory, for its threshold to be moved
MAX_SESSIONS = 32  # pages and programs whose answers are kept; the oldest make room
# A phantom of each class that the model that ships tells rightly, for a look at what the page does.
PHANTOMS = {"normal": 0, "benign": 1, "malignant": 1}
_TEMPLATES = Path(__file__).parent / "templates"
_SYSTEM_FONTS = [gr.themes.Font(name) for name in ("system-ui", "Segoe UI", "Roboto", "sans-serif")]
_PASTE = f"<script>{(_TEMPLATES / 'paste.js').read_text(encoding='utf-8')}</script>"
LOOKS = {
    "theme": gr.themes.Default(primary_hue="sky", font=_SYSTEM_FONTS, font_mono=[gr.themes.Font("monospace")]),
    "css": (_TEMPLATES / "page.css").read_text(encoding="utf-8"),
    "head": _PASTE,
    "footer_links": [],
    "max_file_size": MAX_FILE_MB * 1_000_000,
    "ssr_mode": False,
    "enable_monitoring": False,
    "run_history": False,
    "pwa": False,
    "mcp_server": False,
}


def build_page(predictor, uploads, link):
    """Build the page.

    Its endpoints, for `gradio_client`: `/predict` (file, threshold), and, of the answer that is kept for the client,
    `/threshold` (threshold) and `/explain`; `/batch` (files).

    Args:
        predictor: A `Predictor` of ultrasound.
        uploads: `Uploads`, whose folder Gradio is told of.
        link: Function from the bytes of a ZIP to an address that downloads them.

    Returns:
        `gr.Blocks`.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.folder)
    with gr.Blocks(title="busseg", analytics_enabled=False) as page:
        gr.Markdown(
            "# busseg\nBreast ultrasound: which class, and where the lesion lies. "
            "**Research software, not a medical device.** "
            "Images are read on the machine that runs this page, and deleted as soon as they are answered. "
            "Programs may ask, too: [API](?view=api)."
        )
        with gr.Tab("One image"):
            _one_image(predictor, uploads)
        with gr.Tab("Many images"):
            _many_images(predictor, uploads, link)
    page.state_session_capacity = MAX_SESSIONS
    return page.queue(default_concurrency_limit=1)


def _one_image(predictor, uploads):
    politely = _politely(uploads)
    answer = gr.State(time_to_live=KEPT_S)
    told, heat_told = gr.JSON(visible=False), gr.JSON(visible=False)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            file = gr.File(label="Drop, paste or pick an image", height=170, elem_id="drop")
            gr.Markdown("... or look at a phantom, a synthetic image:")
            with gr.Row():
                examples = {label: gr.Button(label.capitalize(), size="sm", min_width=80) for label in PHANTOMS}
            facts_view = gr.HTML()
        with gr.Column(scale=3, min_width=320):
            picture = gr.HTML(view_picture())
            threshold = gr.Slider(
                0.01, 0.99, THRESHOLD, step=0.01, label="Lesion from this probability on", interactive=False
            )
            opacity = gr.Slider(0, 1, 0.3, step=0.05, label="Opacity of the lesion")
            contour = gr.Checkbox(True, label="Contour")
            why = gr.Button("Where does the model look?", interactive=False)
            heat = gr.HTML()

    @politely
    def predict(file: str, threshold: float = THRESHOLD):
        """Predict an image file: its class, and the lesion from a probability on."""
        if not file:
            raise ValueError("Expected an image, found none")
        with uploads.until_answered([file]):
            found = answer_file(predictor, file, threshold)
        return found, facts(found)

    def predict_phantom(label, threshold):
        image, _ = draw_phantom(label, PHANTOMS[label])
        found = answer_image(predictor, image, f"phantom {label}.png", threshold)
        return found, facts(found)

    @politely
    def move(answer, threshold: float):
        """Move the threshold of the answer that is kept; the network is not asked again."""
        moved = at_threshold(_kept(answer), threshold)
        return moved, facts(moved)

    @politely
    def explain_kept(answer):
        """Tell where the model looks in the image of the answer that is kept."""
        return explain(predictor, _kept(answer))

    def show(answer):
        return view_picture(answer), view_facts(answer), gr.Slider(interactive=True), gr.Button(interactive=True)

    shown = {"fn": show, "inputs": answer, "outputs": [picture, facts_view, threshold, why], "show_progress": "hidden"}
    shown["api_visibility"] = "private"
    network = {"outputs": [answer, told], "concurrency_id": "network", "show_progress_on": [picture]}
    asked = file.upload(predict, [file, threshold], api_name="predict", **network)
    asked.success(**shown)
    asked.then(None, js="() => null", outputs=file)  # ready for the next one
    for label, button in examples.items():
        clicked = button.click(partial(predict_phantom, label), threshold, api_visibility="private", **network)
        clicked.success(**shown)
    threshold.change(
        move, [answer, threshold], [answer, told], api_name="threshold", trigger_mode="always_last",
        show_progress="hidden",
    ).success(**shown)  # fmt: skip
    asked = why.click(
        explain_kept, answer, heat_told, api_name="explain", concurrency_id="long", show_progress_on=[heat]
    )
    asked.success(view_heat, heat_told, heat, show_progress="hidden", api_visibility="private")
    _let_browser(opacity, "value => {style}.setProperty('--lesion-opacity', value)")
    _let_browser(contour, "on => {style}.setProperty('--lesion-contour', on ? 'inline' : 'none')")


def _kept(answer):
    if answer is None:
        raise ValueError("Expected an image that is still kept, found none; drop it again")
    return answer


def _let_browser(component, js):
    """Have the browser do what a component changes; the server is not asked."""
    style = "document.documentElement.style"
    component.change(None, component, js=js.replace("{style}", style))


def _many_images(predictor, uploads, link):
    politely = _politely(uploads)
    columns = fields(predictor.task)
    told = gr.JSON(visible=False)
    files = gr.File(label=f"Drop or pick up to {MAX_FILES} images", height=170, file_count="multiple")
    saved = gr.HTML()
    table = gr.Dataframe(headers=list(columns), interactive=False, show_label=False)

    @politely
    def batch(files: list[str], progress=gr.Progress()):  # noqa: B008 - so Gradio finds it
        """Predict image files: a table, and the address of a ZIP with it, masks and overlays."""
        def told_of(rows):
            return progress.tqdm(rows, total=len(files), desc="Predicting")

        with uploads.until_answered(files or []):
            rows, packed = answer_files(predictor, files or [], told_of)
        return {"rows": rows, "zip": link(packed)}

    def show(told):
        failed = sum(bool(row["error"]) for row in told["rows"])
        note = f"; {failed} could not be read" if failed else ""
        count = f"{len(told['rows'])} files{note}"
        text = f'<p class="save"><a href="{told["zip"]}" download>Masks, overlays and table (ZIP)</a> {count}</p>'
        return text, [[row[name] for name in columns] for row in told["rows"]]

    asked = files.upload(batch, files, told, api_name="batch", concurrency_id="long", show_progress_on=[table])
    asked.success(show, told, [saved, table], show_progress="hidden", api_visibility="private")
    asked.then(None, js="() => null", outputs=files)


def _politely(uploads):
    """Tell what is wrong with a user's file in one line, on the page and to clients; nothing in the terminal."""

    def wrap(function):
        @wraps(function)
        def answer(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except (OSError, ValueError) as error:
                text = html.escape(uploads.without_folders(" ".join(str(error).split())), quote=False)
                raise gr.Error(text, title="No answer", print_exception=False) from error

        return answer

    return wrap
