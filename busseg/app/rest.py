"""Plain REST for programs: a file in, JSON out. `/api/openapi.json` describes it."""

import asyncio
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.concurrency import run_in_threadpool

from busseg.app.answers import answer_file, facts
from busseg.app.gate import Refusal
from busseg.app.keeping import Uploads
from busseg.app.receiving import keep_files
from busseg.data.sample import THRESHOLD
from busseg.inference.predictor import Predictor

DESCRIPTION = (
    "Breast ultrasound: class and lesion. Research software, not a medical device. A server with a password demands "
    "HTTP Basic authentication, with any user name."
)
_FILE = {"type": "string", "format": "binary", "description": "An image, a video or ultrasound DICOM."}
_BODY = {"type": "object", "required": ["files"], "properties": {"files": _FILE}}
_DETAIL = {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}}
_FAULTS = {
    400: "The body is not multipart/form-data with one file.",
    413: "The file is too large.",
    422: "The file cannot be predicted, or a parameter is out of its range.",
    503: "Too many files wait.",
}


def add_rest(server: FastAPI, predictor: Predictor, uploads: Uploads, require_region: bool = False) -> None:
    """Add `POST /api/predict` to a server. It returns the dict of `answers.facts`.

    Args:
        server: The application.
        predictor: A `Predictor` of ultrasound.
        uploads: The `Uploads` that hold each file until it is answered.
        require_region: Whether to refuse DICOM without a usable region; see `find_frames`.
    """
    alone = asyncio.Lock()  # the network uses all cores for one image

    def answer(kept, threshold, frame):
        try:
            with uploads.until_answered(kept):
                return facts(answer_file(predictor, kept[0], threshold, frame, require_region))
        except (OSError, ValueError, ImportError) as error:
            raise Refusal(422, uploads.without_folders(" ".join(str(error).split()))) from error

    @server.post(
        "/api/predict",
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _BODY}}}},
        responses={
            status: {"description": text, "content": {"application/json": _DETAIL}} for status, text in _FAULTS.items()
        },
    )
    async def predict(
        request: Request,
        threshold: Annotated[float, Query(gt=0, le=1, description="Lesion probability of the mask.")] = THRESHOLD,
        frame: Annotated[int, Query(ge=1, description="Number of the frame of a clip.")] = 1,
    ) -> dict:
        """Predict a file: its class, its lesions and their mask, a PNG as a `data:` address."""
        kept = await keep_files(request, uploads)
        if len(kept) != 1:
            uploads.delete(kept)
            raise Refusal(400, f"Expected one file, found {len(kept)}")
        async with alone:
            return await run_in_threadpool(answer, kept, threshold, frame)
