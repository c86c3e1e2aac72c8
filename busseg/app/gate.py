"""The gate before Gradio: it checks every request, and lets only those through that the page and programs need."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, Collection
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive

from busseg.app.keeping import Uploads

PATIENCE_S = 10  # time limit of a body, plus its size at 10 kB a second
_BYTES_A_SECOND = 10_000
_MAX_QUESTION_MB = 1
_MAX_DEPTH = 20  # levels of the JSON of a question: ours has 4, and Gradio walks it by recursion
_LEAST_SESSION = 32  # letters in the name of a session without a cookie; Gradio's client for Python sends a UUID of 36
_WRONG_PASSWORD_S = 1

# The paths that the page and Gradio's clients request. Gradio itself answers many more: it serves files by path,
# fetches URLs, stores recordings, and calls functions of components.
_QUESTION = re.compile(r"/gradio_api/(queue/join|cancel|run/\w+|call/(v2/)?\w+)")
_STATIC = re.compile(r"/(assets|static|svelte)/.+|/favicon\.ico")
_HEARTBEAT = "/gradio_api/heartbeat/"
_ROUTES = {
    "GET": re.compile(
        r"/|/api/openapi\.json|/config|/manifest\.json"
        r"|(/gradio_api)?/theme\.css|/results/[\w-]+|/gradio_api/(info|startup-events|app_id"
        rf"|upload_progress|queue/data|call/(v2/)?\w+/\w+)|{_HEARTBEAT}[\w-]+|{_STATIC.pattern}"
    ),
    "POST": re.compile(rf"/api/predict|/gradio_api/upload|{_QUESTION.pattern}"),
}
_HEADERS = {
    # Gradio has inline scripts and compiles functions at run time, so both are allowed. Event handlers in HTML, which a
    # file name could inject, are not allowed, and the page can send nothing to another server.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src-attr 'none'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Refusal(HTTPException):
    """A refused request: an HTTP status, and one line with the reason."""


def allows(method: str, path: str) -> bool:
    """Whether the gate lets requests with this method to this path through."""
    routes = _ROUTES.get("GET" if method == "HEAD" else method)
    return bool(routes and routes.fullmatch(path))


class Gate:
    """An ASGI application that checks each request before the application behind it answers.

    - The path is one of those that the page and programs need.
    - `Host` is a name of this server. Another name may point here to read the page (DNS rebinding).
    - `Origin` and `Sec-Fetch-Site`, which browsers send, name this page, not another page.
    - The password is correct, if there is one.
    - Each file that a question names is an upload: a regular file in the upload folder, no link, no URL.
    - A session belongs to the browser that started it: Gradio gets as `session_hash` a keyed hash of the name that the
      client sends and its cookie. Programs have no cookie, so the name they send must be long.

    Every response gets the security headers.

    Args:
        app: The ASGI application behind the gate.
        uploads: The `Uploads` that questions may name.
        hosts: Names and addresses of this server, in lower case.
        any_address: Whether any IP address in `Host` also names this server, for a server that listens on all of them.
        password: Password of HTTP Basic authentication, with any user name; None for no password.
    """

    def __init__(
        self,
        app: ASGIApp,
        uploads: Uploads,
        hosts: Collection[str] = ("127.0.0.1", "localhost"),
        any_address: bool = False,
        password: str | None = None,
    ):
        self.app, self.uploads, self.hosts, self.any_address = app, uploads, hosts, any_address
        self.password = password
        self._key = secrets.token_bytes(32)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        path, headers, cookie = scope["path"], Headers(scope=scope), f"busseg-{scope['server'][1]}"
        client, new_cookie = self._client(headers, cookie), None
        if path == "/" and not client:
            client = self._signed(secrets.token_urlsafe(24))
            new_cookie = f"{cookie}={client}; Path=/; HttpOnly; SameSite=Lax"
        send = _with_headers(send, path, new_cookie)
        is_question = _QUESTION.fullmatch(path)
        try:
            self._check_source(scope["method"], path, headers)
            await self._check_password(headers)
            if path.startswith(_HEARTBEAT):
                path = _HEARTBEAT + self._session(path.removeprefix(_HEARTBEAT), client)
            query = self._query(scope["query_string"], client)
            state = scope.get("state", {}) | {"client": client}
            scope = scope | {"path": path, "query_string": query, "state": state}
            if is_question:
                body = self._question(await read_body(receive, _MAX_QUESTION_MB), client)
                length = (b"content-length", str(len(body)).encode())
                scope["headers"] = [*(pair for pair in scope["headers"] if pair[0] != length[0]), length]
                receive = _replay(body, receive)
        except ClientDisconnect:
            return None
        except Refusal as refusal:
            answer = JSONResponse({"detail": refusal.detail}) if is_question else PlainTextResponse(refusal.detail)
            answer.status_code = refusal.status_code
            answer.headers.update(refusal.headers or {})
            return await answer(scope, receive, send)
        return await self.app(scope, receive, send)

    # === Source and password ===
    def _check_source(self, method, path, headers):
        host = headers.get("host", "").lower()
        name = re.fullmatch(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?", host)
        name = name and name[1].strip("[]")
        if not (name in self.hosts or (self.any_address and _is_address(name))):
            raise Refusal(400, "Expected a name of this server in the Host header, found another")
        origin = headers.get("origin", f"http://{host}")
        site = headers.get("sec-fetch-site", "none")
        follows_link = path == "/" and headers.get("sec-fetch-dest") == "document"
        if origin.lower().partition("://")[2] != host or not (site in ("same-origin", "none") or follows_link):
            raise Refusal(403, "Expected a request from this page, found one from another page")
        if not allows(method, path):
            raise Refusal(404, "Expected an address of the page, found another")

    async def _check_password(self, headers):
        if self.password is None:
            return
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        try:
            _, _, password = base64.b64decode(credentials, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            password = b""
        if scheme.lower() != "basic" or not hmac.compare_digest(password, self.password.encode()):
            if credentials:
                await asyncio.sleep(_WRONG_PASSWORD_S)
            challenge = {"WWW-Authenticate": 'Basic realm="busseg", charset="UTF-8"'}
            raise Refusal(401, "Expected the password of this server, found none or another", challenge)

    # === Session ===
    def _client(self, headers, cookie):
        """The value of a cookie that this server set, or an empty text."""
        value = cookie_parser(headers.get("cookie", "")).get(cookie, "")
        own = hmac.compare_digest(value.encode(), self._signed(value.partition(".")[0]).encode())
        return value if own else ""

    def _signed(self, token):
        return f"{token}.{self._hash(token)}"

    def _session(self, name, client):
        """Gradio's name for the session that a client calls `name`."""
        if not client and len(name) < _LEAST_SESSION:
            expected = f"Expected the page's cookie or a session_hash of at least {_LEAST_SESSION} random letters"
            raise Refusal(403, f"{expected}, found neither; load the page again")
        return self._hash(f"{client} {name}")

    def _hash(self, text):
        return hmac.new(self._key, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()

    def _query(self, query, client):
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        named = [(key, self._session(value, client) if key == "session_hash" else value) for key, value in pairs]
        return urlencode(named).encode()

    # === Question ===
    def _question(self, body, client):
        """The body of a question for Gradio: files must be uploads, and the session gets its client's name."""
        try:
            question = json.loads(body)
            files = list(_files(question))
        except (ValueError, RecursionError):
            raise Refusal(400, "Expected a question as JSON, found something else") from None
        named = [file.get("path") for file in files]
        try:
            found = [self.uploads.find(path) for path in named]
        except ValueError as error:
            self.uploads.delete(named)
            raise Refusal(403, str(error)) from None
        for file, path in zip(files, found):
            file.clear()
            file.update(path=str(path), orig_name=path.name, meta={"_type": "gradio.FileData"})
        if isinstance(question, dict) and question.get("session_hash") is not None:
            question["session_hash"] = self._session(str(question["session_hash"]), client)
        return json.dumps(question).encode()


async def read_body(receive: Receive, max_mb: float) -> bytes:
    """The body of a request; see `arriving`."""
    return b"".join([chunk async for chunk in arriving(receive, max_mb)])


async def arriving(receive: Receive, max_mb: float) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a request's body as they arrive.

    Args:
        receive: ASGI's function of the request.
        max_mb: Maximum size in MB (10^6 bytes).

    Raises:
        Refusal: If the body is larger, or arrives too slowly.
        ClientDisconnect: If the client disconnects.
    """
    begin, size, more = time.monotonic(), 0, True
    while more:
        left_s = PATIENCE_S + size / _BYTES_A_SECOND - (time.monotonic() - begin)
        try:
            message = await asyncio.wait_for(receive(), left_s)
        except TimeoutError:
            late = "Expected the whole request in time, found one that arrives too slowly"
            raise Refusal(408, late, {"Connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > max_mb * 1_000_000:
            raise Refusal(413, f"Expected at most {max_mb} MB at once, found more")
        yield chunk


def _files(question):
    """Yield the dicts in a question that Gradio may read as files.

    Raises:
        ValueError: If the question is nested too deeply.
    """
    waiting = [(question, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"Expected at most {_MAX_DEPTH} levels, found more")
        if isinstance(value, dict) and value.keys() & {"path", "url", "meta"}:
            yield value
        elif isinstance(value, dict | list):
            waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]


def _is_address(name):
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _replay(body, receive):
    """A function that receives `body` first, then the messages of `receive`."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay():
        return messages.pop() if messages else await receive()

    return replay


def _with_headers(send, path, cookie):
    """`send` with the headers that every response gets."""

    async def send_with_headers(message):
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            if not _STATIC.fullmatch(path):
                headers["Cache-Control"] = "no-store"  # the response may show a patient's image
            if cookie:
                headers.append("Set-Cookie", cookie)
        await send(message)

    return send_with_headers
