"""What the page and programs may ask: each gives an answer, or one line that tells what was wrong with the question."""

import html
from functools import partial, wraps

import gradio as gr

from busseg.app.answers import Answer, address, answer_file, answer_frame, at_threshold, explain, facts, segmentation
from busseg.app.packing import answer_files
from busseg.data.phantom import draw_phantom
from busseg.inference.predictor import THRESHOLD

# A phantom of each class that the model that ships tells rightly, for a look at what the page does.
PHANTOMS = {"normal": 0, "benign": 1, "malignant": 1}


def _politely(endpoint):
    """Tell what is wrong with a user's file in one line, on the page and to programs; nothing in the terminal."""

    @wraps(endpoint)
    def polite(self, *arguments, **options):
        try:
            return endpoint(self, *arguments, **options)
        except (OSError, ValueError, ImportError) as error:
            line = self.uploads.without_folders(" ".join(str(error).split()))
            raise gr.Error(html.escape(line, quote=False), print_exception=False) from error

    return polite


class Endpoints:
    """The questions, as methods. An `Answer` is what Gradio keeps between the questions of one page or program.

    Args:
        predictor: A `Predictor` of ultrasound.
        uploads: The `Uploads` that hold the files asked about; each is deleted once it is answered.
        results: The `Results` that hold what is packed for a download.
    """

    def __init__(self, predictor, uploads, results):
        self.predictor, self.uploads, self.results = predictor, uploads, results

    @_politely
    def predict(self, file: str, threshold: float = THRESHOLD):
        """Class and lesion of an image or DICOM file; a pixel is lesion from the threshold on, a probability."""
        if not file:
            raise ValueError("Expected an image, found none")
        with self.uploads.until_answered([file]):
            answer = answer_file(self.predictor, file, threshold)
        return answer, facts(answer)

    @_politely
    def predict_phantom(self, label, threshold):
        """Like `predict`, of a phantom of `PHANTOMS`."""
        image, _ = draw_phantom(label, PHANTOMS[label])
        drawn = Answer(f"phantom {label}.png", image, self.predictor.predict(image), self.predictor.classes)
        answer = at_threshold(drawn, threshold)
        return answer, facts(answer)

    @_politely
    def predict_frame(self, answer: Answer, number: int):
        """Class and lesion of another frame of the DICOM file asked about before; numbers are from 1."""
        answer = answer_frame(self.predictor, _kept(answer), int(number))
        return answer, facts(answer)

    @_politely
    def move_threshold(self, answer: Answer, threshold: float):
        """The lesion of the image asked about before, from another threshold on; the network is not run again."""
        answer = at_threshold(_kept(answer), threshold)
        return answer, facts(answer)

    @_politely
    def explain(self, answer: Answer):
        """Where the model looks in the image asked about before: what covering a place of it changes."""
        return explain(self.predictor, _kept(answer))

    @_politely
    def segment(self, answer: Answer):
        """The lesion of the DICOM file asked about before, as DICOM SEG."""
        made = address("application/dicom", segmentation(_kept(answer), self.predictor.name))
        return {"file": f"{answer.stem}_seg.dcm", "segmentation": made}

    @_politely
    def predict_batch(self, files: list[str], request: gr.Request, progress=gr.Progress()):  # noqa: B008 - for Gradio
        """A table of many image files, and the address on this server of a ZIP with it, masks and overlays."""
        files = files or []
        with self.uploads.until_answered(files):
            told = partial(progress.tqdm, desc="Predicting", unit="images")
            rows, packed = answer_files(
                self.predictor, files, lambda rows, total: told(self.uploads.while_open(rows), total=total)
            )
        return {"rows": rows, "zip": f"/results/{self.results.keep(packed, request.state.client)}"}


def _kept(answer):
    if answer is None:
        raise ValueError("Expected an image that is still kept, found none; drop it again")
    return answer
