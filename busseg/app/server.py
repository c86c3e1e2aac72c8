"""The page's server: on this machine alone, nothing fetched from elsewhere, nothing left on disk."""

import socket
import tempfile
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from busseg.app.endpoints import Endpoints
from busseg.app.keeping import Results, Uploads
from busseg.app.layout import MAX_FILE_MB, SETTINGS, build_page

HOST = "127.0.0.1"
MAX_REQUEST_MB = 500  # of all the files of a batch
_MB = 1_000_000


def serve(predictor, port, started=print):
    """Serve the page until it is stopped, as by Ctrl-C.

    Args:
        predictor: A `Predictor` of ultrasound.
        port: Number of the port on 127.0.0.1; 0 takes any that is free.
        started: Function that is told the address as soon as the page is there.

    Raises:
        OSError: If the port is taken.
        ValueError: If the predictor is none of ultrasound.
    """
    if predictor.task != "ultrasound":
        raise ValueError(f"Expected a model of ultrasound, which the page shows, found one of {predictor.task}")
    with _listen(port) as listening, tempfile.TemporaryDirectory(prefix="busseg-app-") as folder:
        settings = uvicorn.Config(build_server(predictor, folder), log_level="critical", timeout_graceful_shutdown=1)
        started(f"http://{HOST}:{listening.getsockname()[1]}")
        uvicorn.Server(settings).run([listening])


def _listen(port):
    """A socket that waits for connections from now on, so that the address that is told can be opened at once."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise OSError(f"Expected a free port, found {port} ({error.strerror}); tell another by --port") from error
    return listening


def build_server(predictor, folder):
    """The page with all that it takes, as an ASGI application.

    Gradio names an upload by its content, so that of two people with the same file the first to be answered would take
    it from the other; therefore uploads are received here.

    Args:
        predictor: A `Predictor` of ultrasound.
        folder: Path of an empty folder, for files until they are answered.
    """
    folder = Path(folder).resolve()
    uploads, results = Uploads(folder), Results()
    server = FastAPI(openapi_url=None)
    # Or else a web page elsewhere, whose name leads to this machine, could read what is here.
    server.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @server.post("/gradio_api/upload")
    async def upload(request: Request):
        if int(request.headers.get("content-length", MAX_REQUEST_MB * _MB + 1)) > MAX_REQUEST_MB * _MB:
            return PlainTextResponse(f"Expected at most {MAX_REQUEST_MB} MB at once, found more", 413)
        async with request.form(max_files=1000) as form:
            files = form.getlist("files")
            large = [file.filename for file in files if file.size > MAX_FILE_MB * _MB]
            if large:
                return PlainTextResponse(f"Expected files of at most {MAX_FILE_MB} MB, found more: {large[0]}", 413)
            return [str(await run_in_threadpool(uploads.keep, file.filename, file.file)) for file in files]

    @server.get("/gradio_api/upload_progress")
    def upload_progress():
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    @server.get("/results/{token}")
    def download(token: str):
        packed = results.get(token)
        if packed is None:
            return PlainTextResponse("Expected results, found none: later ones took their place", 404)
        saved = {"Content-Disposition": 'attachment; filename="predictions.zip"'}
        return Response(packed, media_type="application/zip", headers=saved)

    page = build_page(Endpoints(predictor, uploads, results))
    return gr.mount_gradio_app(server, page, path="/", **SETTINGS)
