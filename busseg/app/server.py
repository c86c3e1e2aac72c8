"""The page's server: on this machine unless asked otherwise, nothing fetched from elsewhere, nothing left on disk."""

import os
import socket
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from busseg.app.connections import TimedProtocol, is_loopback, listen
from busseg.app.endpoints import Endpoints
from busseg.app.folder import server_folder
from busseg.app.gate import Gate
from busseg.app.keeping import Results, Uploads
from busseg.app.layout import SETTINGS, build_page
from busseg.app.receiving import receive_files

HOST = "127.0.0.1"
MAX_CONNECTIONS = 250  # a page or program has up to 6; this many stay below the 1024 files that a process may open
_LEAST_PASSWORD = 8
WARNING = (
    "Other machines reach this page. They need the password, with any user name. Images and password travel "
    "unencrypted: use it in a network that you trust, or leave out --host and go through a tunnel, such as ssh -L."
)


def serve(predictor, port, host=HOST, password=None, started=print):
    """Serve the page until it is stopped, as by Ctrl-C.

    Args:
        predictor: A `Predictor` of ultrasound.
        port: Number of the port; 0 takes any that is free.
        host: Name or address of this machine on which to listen.
        password: What whoever asks must know, at least 8 letters; needed where other machines reach `host`.
        started: Function that is told the address as soon as the page is there.

    Raises:
        OSError: If the port is taken, or the host is no name of this machine.
        ValueError: If the predictor is none of ultrasound, or the password is missing or too short.
    """
    if predictor.task != "ultrasound":
        raise ValueError(f"Expected a model of ultrasound, which the page shows, found one of {predictor.task}")
    if password is None and not is_loopback(host):
        raise ValueError(f"Expected a password, for other machines reach {host}, found none; set BUSSEG_PASSWORD")
    if password is not None and len(password) < _LEAST_PASSWORD:
        raise ValueError(f"Expected a password of at least {_LEAST_PASSWORD} letters, found {len(password)}")
    with listen(host, port) as listening, server_folder() as folder:
        address, port = listening.getsockname()[:2]
        server = build_server(predictor, folder, names(host, address), not is_loopback(host), password)
        settings = uvicorn.Config(
            server, http=TimedProtocol, ws="none", log_level="critical", server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=1, limit_concurrency=MAX_CONNECTIONS,
        )  # fmt: skip
        started(f"http://{f'[{address}]' if ':' in address else address}:{port}")
        try:
            with _quiet():
                uvicorn.Server(settings).run([listening])
        finally:
            server.uploads.close()


@contextmanager
def _quiet():
    """Let Gradio print no traceback of a wrong question, of which anybody may send many; it is answered."""
    if os.environ.get("BUSSEG_TRACEBACK"):
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield


def names(host, address):
    """What a request may call a server by that listens on `host`, whose address is `address`."""
    own = {host, address, "localhost"}
    return {name.lower() for name in (own if is_loopback(host) else own | {socket.gethostname()})}


def build_server(predictor, folder, hosts=(HOST, "localhost"), any_address=False, password=None):
    """The page with all that it takes, as an ASGI application.

    Args:
        predictor: A `Predictor` of ultrasound.
        folder: `Path` of an empty folder, for files until they are answered.
        hosts, any_address, password: See `Gate`.
    """
    gr.routes.DEFAULT_TEMP_DIR = str(folder)  # or else Gradio makes one that the users of a machine share
    place = folder.resolve() / "uploads"
    place.mkdir()
    uploads, results = Uploads(place), Results()
    server = FastAPI(openapi_url=None)

    @server.post("/gradio_api/upload")
    async def upload(request: Request):
        return await receive_files(request, uploads)

    @server.get("/gradio_api/upload_progress")
    def upload_progress():
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    @server.get("/results/{token}")
    def download(token: str, request: Request):
        packed = results.get(token, request.state.client)
        if packed is None:
            return PlainTextResponse("Expected results, found none: later ones took their place", 404)
        saved = {"Content-Disposition": 'attachment; filename="predictions.zip"'}
        return Response(packed, media_type="application/zip", headers=saved)

    page = build_page(Endpoints(predictor, uploads, results))
    gr.mount_gradio_app(server, page, path="/", **SETTINGS)
    page.has_launched = True  # Gradio checks paths only from then on, and mounting does not set it
    return Gate(server, uploads, hosts, any_address, password)
