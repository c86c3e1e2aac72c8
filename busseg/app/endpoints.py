"""The endpoints of the page, for browsers and programs. Each returns a result, or an error in one line."""

import html
from functools import partial, wraps

import gradio as gr

from busseg.app.addresses import address
from busseg.app.answers import Answer, answer_file, answer_frame, at_threshold, explain, facts, overlay, segmentation
from busseg.app.clips import DecodedClips
from busseg.app.keeping import Results, Uploads
from busseg.app.packing import answer_files
from busseg.data.phantom import draw_phantom
from busseg.data.sample import THRESHOLD
from busseg.inference.predictor import Predictor

# Class -> seed of a phantom that the shipped model classifies correctly, as an example on the page.
PHANTOMS = {"normal": 0, "benign": 1, "malignant": 1}


def _one_line_errors(endpoint):
    """Report an error of a user's file in one line, on the page and to programs, and not in the terminal."""

    @wraps(endpoint)
    def wrapped(self, *arguments, **options):
        try:
            return endpoint(self, *arguments, **options)
        except (OSError, ValueError, ImportError) as error:
            line = self.uploads.without_folders(" ".join(str(error).split()))
            raise gr.Error(html.escape(line, quote=False), print_exception=False) from error

    return wrapped


class Endpoints:
    """The endpoints, as methods. Gradio keeps an `Answer` between the requests of one page or program.

    Args:
        predictor: A `Predictor` of ultrasound.
        uploads: The `Uploads` that hold the uploaded files; each is deleted once it is answered.
        results: The `Results` that hold the packed results for a download.
        require_region: Whether to refuse DICOM without a usable region; see `find_frames`.
    """

    def __init__(self, predictor: Predictor, uploads: Uploads, results: Results, require_region: bool = False):
        self.predictor, self.uploads, self.results = predictor, uploads, results
        self.require_region, self.decoded = require_region, DecodedClips()

    @_one_line_errors
    def predict(self, file: str, threshold: float = THRESHOLD):
        """Class and lesion of an image or DICOM file; a pixel is lesion if its probability reaches the threshold."""
        if not file:
            raise ValueError("Expected an image, found none")
        with self.uploads.until_answered([file]):
            answer = answer_file(
                self.predictor, file, threshold, require_region=self.require_region, decoded=self.decoded
            )
        return answer, facts(answer)

    @_one_line_errors
    def predict_phantom(self, label, threshold):
        """`predict` of a phantom of `PHANTOMS`."""
        image, _ = draw_phantom(label, PHANTOMS[label])
        drawn = Answer(f"phantom {label}.png", image, self.predictor.predict(image), self.predictor.classes)
        answer = at_threshold(drawn, threshold)
        return answer, facts(answer)

    @_one_line_errors
    def predict_frame(self, answer: Answer, number: int):
        """Class and lesion of another frame of the last file; numbers start at 1."""
        answer = answer_frame(self.predictor, _kept(answer), int(number), self.decoded)
        return answer, facts(answer)

    @_one_line_errors
    def move_threshold(self, answer: Answer, threshold: float):
        """The lesion of the last image at another threshold; the network does not run again."""
        answer = at_threshold(_kept(answer), threshold)
        return answer, facts(answer)

    @_one_line_errors
    def explain(self, answer: Answer):
        """Occlusion map of the last image: how covering each region changes the class probability."""
        return explain(self.predictor, _kept(answer))

    @_one_line_errors
    def overlay(self, answer: Answer):
        """The last image with the outline of its lesion, as PNG."""
        return {"file": f"{_kept(answer).stem}_overlay.png", "overlay": overlay(answer)}

    @_one_line_errors
    def segment(self, answer: Answer):
        """The lesion of the last DICOM file, as DICOM SEG."""
        made = address("application/dicom", segmentation(_kept(answer), self.predictor.name))
        return {"file": f"{answer.stem}_seg.dcm", "segmentation": made}

    @_one_line_errors
    def predict_batch(self, files: list[str], request: gr.Request, progress=gr.Progress()):  # noqa: B008 - for Gradio
        """A table of many image files, and the address on this server of a ZIP with it, masks and overlays."""
        files = files or []
        with self.uploads.until_answered(files):
            bar = partial(progress.tqdm, desc="Predicting", unit="images")
            rows, thumbnails, packed = answer_files(
                self.predictor,
                files,
                lambda rows, total: bar(self.uploads.while_open(rows), total=total),
                self.require_region,
            )
        return {
            "rows": rows,
            "thumbnails": thumbnails,
            "zip": f"/results/{self.results.keep(packed, request.state.client)}",
        }


def _kept(answer):
    if answer is None:
        raise ValueError("Expected an image that is still kept, found none; drop it again")
    return answer
