"""Receive uploads: check their sizes while they stream, then keep them until they are answered."""

import asyncio

from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from busseg.app.gate import Refusal, arriving
from busseg.app.keeping import FORGOTTEN_S, Uploads
from busseg.app.layout import MAX_FILE_MB

MAX_REQUEST_MB = 500  # of all the files of a batch
MAX_WAITING_MB = 2000  # of all files that are not answered yet
_MB = 1_000_000


class _SizedParser(MultiPartParser):
    """Stops at the first byte of a file above the limit."""

    size = 0

    def on_part_begin(self):
        super().on_part_begin()
        self.size = 0

    def on_part_data(self, data, start, end):
        self.size += end - start
        if self.size > MAX_FILE_MB * _MB and self._current_part.file is not None:
            name = self._current_part.file.filename
            raise Refusal(413, f"Expected files of at most {MAX_FILE_MB} MB, found more: {name}")
        super().on_part_data(data, start, end)


async def receive_files(request: Request, uploads: Uploads) -> Response:
    """The response to an upload: the paths of the stored files as JSON, or the error in one line.

    Gradio's own upload names a file by its content, so two users with the same file share it, and the first answer
    deletes it for both. Therefore uploads are received here.
    """
    try:
        return JSONResponse(await keep_files(request, uploads))
    except Refusal as refusal:
        return PlainTextResponse(refusal.detail, refusal.status_code, refusal.headers)


async def keep_files(request: Request, uploads: Uploads) -> list[str]:
    """Keep the files of a multipart request, its fields `files`.

    Returns:
        The paths of the stored files.

    Raises:
        Refusal: If they are too large or too many, or the body is of another kind.
    """
    length = request.headers.get("content-length", "0")
    if int(length) > MAX_REQUEST_MB * _MB:
        raise Refusal(413, f"Expected at most {MAX_REQUEST_MB} MB at once, found more")
    if await run_in_threadpool(uploads.size) > MAX_WAITING_MB * _MB:
        raise Refusal(503, f"Expected at most {MAX_WAITING_MB} MB that wait for an answer, found more; try again later")
    try:
        form = await _SizedParser(request.headers, arriving(request.receive, MAX_REQUEST_MB)).parse()
    except (KeyError, MultiPartException):  # no Content-Type; another one, or a broken body
        raise Refusal(400, "Expected files as multipart/form-data, found something else") from None
    try:
        files = [file for file in form.getlist("files") if not isinstance(file, str)]
        kept = [str(await run_in_threadpool(uploads.keep, str(file.filename), file.file)) for file in files]
    finally:
        await form.close()
    asyncio.get_running_loop().call_later(FORGOTTEN_S + 1, uploads.forget)
    return kept
