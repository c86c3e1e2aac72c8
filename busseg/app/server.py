"""The page's server: by default for this machine alone. It fetches nothing from elsewhere and leaves no files."""

import os
import socket
from collections.abc import Callable, Collection
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from busseg import __version__
from busseg.app.connections import TimedProtocol, is_loopback, listen
from busseg.app.endpoints import Endpoints
from busseg.app.folder import server_folder
from busseg.app.gate import Gate
from busseg.app.keeping import Results, Uploads
from busseg.app.layout import SETTINGS, build_page
from busseg.app.receiving import receive_files
from busseg.app.rest import DESCRIPTION, add_rest
from busseg.inference.predictor import Predictor

HOST = "127.0.0.1"
MAX_CONNECTIONS = 250  # a page or program opens up to 6; stays below the limit of 1024 open files of a process
_LEAST_PASSWORD = 8
WARNING = (
    "Other machines can reach this page, with the password and any user name. Images and password are sent "
    "unencrypted: use it in a network that you trust, or omit --host and use a tunnel, such as ssh -L."
)


def serve(
    predictor: Predictor,
    port: int,
    host: str = HOST,
    password: str | None = None,
    started: Callable[[str], None] = print,
    require_region: bool = False,
) -> None:
    """Serve the page until it is stopped, as by Ctrl-C.

    Args:
        predictor: A `Predictor` of ultrasound.
        port: Number of the port; 0 takes any that is free.
        host: Name or address of this machine on which to listen.
        password: Password of the page, at least 8 letters; required if other machines reach `host`.
        started: Function that is called with the address as soon as the page can be opened.
        require_region: See `build_server`.

    Raises:
        OSError: If the port is taken, or the host is not a name of this machine.
        ValueError: If the predictor is not one of ultrasound, or the password is missing or too short.
    """
    if not predictor.task.has_mask:
        raise ValueError(f"Expected a model of ultrasound, which the page shows, found one of {predictor.task}")
    if password is None and not is_loopback(host):
        raise ValueError(f"Expected a password, since other machines reach {host}, found none; set BUSSEG_PASSWORD")
    if password is not None and len(password) < _LEAST_PASSWORD:
        raise ValueError(f"Expected a password of at least {_LEAST_PASSWORD} letters, found {len(password)}")
    with listen(host, port) as listening, server_folder() as folder:
        address, port = listening.getsockname()[:2]
        server = build_server(predictor, folder, names(host, address), not is_loopback(host), password, require_region)
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
    """Hide the tracebacks that Gradio prints for bad requests, of which a client may send many."""
    if os.environ.get("BUSSEG_TRACEBACK"):
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield


def names(host: str, address: str) -> set[str]:
    """The names that a `Host` header may give to a server that listens on `host`, whose address is `address`."""
    own = {host, address, "localhost"}
    return {name.lower() for name in (own if is_loopback(host) else own | {socket.gethostname()})}


def build_server(
    predictor: Predictor,
    folder: Path,
    hosts: Collection[str] = (HOST, "localhost"),
    any_address: bool = False,
    password: str | None = None,
    require_region: bool = False,
) -> Gate:
    """The page with its gate, uploads and downloads, as an ASGI application.

    Args:
        predictor: A `Predictor` of ultrasound.
        folder: `Path` of an empty folder, for uploaded files.
        hosts, any_address, password: See `Gate`.
        require_region: Whether to refuse DICOM without a usable region, of which the whole frame would be shown.
    """
    gr.routes.DEFAULT_TEMP_DIR = str(folder)  # Gradio's default folder is shared by all users of a machine
    place = folder.resolve() / "uploads"
    place.mkdir()
    uploads, results = Uploads(place), Results()
    server = FastAPI(
        title="busseg", version=__version__, description=DESCRIPTION, openapi_url="/api/openapi.json",
        docs_url=None, redoc_url=None,  # their pages load scripts of other servers
    )  # fmt: skip
    add_rest(server, predictor, uploads, require_region)

    @server.post("/gradio_api/upload", include_in_schema=False)
    async def upload(request: Request):
        return await receive_files(request, uploads)

    @server.get("/gradio_api/upload_progress", include_in_schema=False)
    def upload_progress():
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    @server.get("/results/{token}", include_in_schema=False)
    def download(token: str, request: Request):
        packed = results.get(token, request.state.client)
        if packed is None:
            return PlainTextResponse("Expected results, found none: later results replaced them", 404)
        saved = {"Content-Disposition": 'attachment; filename="predictions.zip"'}
        return Response(packed, media_type="application/zip", headers=saved)

    page = build_page(Endpoints(predictor, uploads, results, require_region))
    gr.mount_gradio_app(server, page, path="/", **SETTINGS)
    page.has_launched = True  # Gradio checks paths only if this is set, and mounting does not set it
    return Gate(server, uploads, hosts, any_address, password)
