import asyncio
import base64
import json
import os
import re
import shutil
import socket
import uuid
from urllib.parse import quote

import pytest

pytest.importorskip("gradio")

from busseg.app.gate import Refusal, allows, arriving
from busseg.app.server import build_server

NO_UPLOAD = "Expected an uploaded file, found something else"
FOREIGN = "Expected a request from this page, found one from another page"


def as_file(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def new_session():
    return str(uuid.uuid4())


# === Routes ===
OPEN = """
GET / | GET /api/openapi.json | HEAD /api/openapi.json | POST /api/predict
GET /assets/{} | GET /config | GET /favicon.ico | GET /gradio_api/app_id
GET /gradio_api/call/v2/{}/{} | GET /gradio_api/call/{}/{} | GET /gradio_api/heartbeat/{} | GET /gradio_api/info
GET /gradio_api/queue/data | GET /gradio_api/startup-events | GET /gradio_api/theme.css
GET /gradio_api/upload_progress | GET /manifest.json | GET /results/{} | GET /static/{} | GET /svelte/{}
GET /theme.css | HEAD / | POST /gradio_api/call/v2/{} | POST /gradio_api/call/{}
POST /gradio_api/cancel | POST /gradio_api/queue/join
POST /gradio_api/run/{} | POST /gradio_api/upload
"""
SHUT = """
GET /gradio_api/custom_component/{}/{}/{}/{} | GET /gradio_api/deep_link | GET /gradio_api/dev/reload
GET /gradio_api/file/{} | GET /gradio_api/file={} | GET /gradio_api/login_check | GET /gradio_api/openapi.json
GET /gradio_api/proxy={} | GET /gradio_api/queue/status | GET /gradio_api/runs
GET /gradio_api/stream/{}/{}/{}/playlist-file | GET /gradio_api/stream/{}/{}/{}/playlist.m3u8
GET /gradio_api/stream/{}/{}/{}/{}.{} | GET /gradio_api/token | GET /gradio_api/user | GET /gradio_api/vibe-code
GET /logout | GET /monitoring | GET /monitoring/summary | GET /monitoring/{} | GET /openapi.json | GET /pwa_icon
GET /pwa_icon/{} | GET /robots.txt | HEAD /gradio_api/file={} | HEAD /gradio_api/proxy={} | HEAD /openapi.json
POST /gradio_api/api/{} | POST /gradio_api/component_server | POST /gradio_api/process_recording
POST /gradio_api/reset | POST /gradio_api/stream/{} | POST /gradio_api/stream/{}/close
POST /gradio_api/undo-vibe-edit | POST /gradio_api/vibe-code | POST /gradio_api/vibe-edit
POST /gradio_api/vibe-starter-queries | POST /login
"""


def listed(text):
    return {tuple(route.split()) for route in re.split(r"[|\n]", text) if route.strip()}


def routes_of(routes):
    """Yield the method and the path of routes, which includes those of applications and routers inside."""
    for route in routes:
        inner = getattr(route, "original_router", route)  # FastAPI's name for a router that was included
        if getattr(route, "methods", None):
            yield from ((method, re.sub(r"\{.*?\}", "{}", route.path)) for method in route.methods)
        else:
            yield from routes_of(inner.routes)


def test_every_route_of_gradio_is_known_to_be_open_or_shut(echo, tmp_path, monkeypatch):
    """A new version's new route fails here: is it for the page, and does it take a path, a URL or a session?"""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # what the page sets is taken back
    gate = build_server(echo, tmp_path)
    found = {(method, path.rstrip("/") or "/") for method, path in routes_of(gate.app.routes)}
    opened = {(method, path) for method, path in found if allows(method, path.replace("{}", "x"))}
    assert opened == listed(OPEN)
    assert found - opened == listed(SHUT)


def test_shut_routes_are_not_answered(server, secret):
    host = server.host
    names = [quote(str(secret)), str(secret), f"http://{host}/config", quote(f"http://{host}/config", safe="")]
    paths = [path.replace("{}", name) for method, path in listed(SHUT) for name in names if method == "GET"]
    answered = {(path, answer.status) for path in paths if (answer := server.request("GET", path)).status != 404}
    assert answered == set()


@pytest.mark.parametrize("route", ["component_server", "process_recording", "stream/x", "vibe-edit", "api/predict"])
def test_shut_routes_take_nothing(server, secret, route):
    question = {"data": [as_file(secret)], "component_id": 1, "session_hash": new_session(), "fn_name": "ls"}
    assert server.ask(f"/gradio_api/{route}", question)[0] == 404
    assert server.left() == []


@pytest.mark.parametrize("folder", ["static", "assets", "svelte"])
@pytest.mark.parametrize("up", ["../", "..%2f", "%2e%2e/", "..\\", "%252e%252e/", "....//"])
def test_no_way_leads_up_from_the_folders_of_the_page(server, secret, folder, up):
    for path in (f"/{folder}/{12 * up}{str(secret)[1:]}", f"/{folder}/{secret}", f"/{folder}//{secret}"):
        answer = server.request("GET", path)
        assert (answer.status in (400, 403, 404), "PNG" in answer.text) == (True, False), path


# === Files ===
@pytest.fixture
def uploads(server, secret):
    """The folder of uploads with a link to a file, a link to a folder, and a pipe, where uploads would be."""
    (folder,) = server.folder.glob("busseg-app-*/uploads")
    place = folder / ("a" * 32)
    place.mkdir()
    (place / "link.png").symlink_to(secret)
    os.mkfifo(place / "pipe.png")
    (folder / ("b" * 32)).symlink_to(secret.parent)
    yield folder
    shutil.rmtree(place)
    (folder / ("b" * 32)).unlink()


ATTACKS = {
    "file of the machine": lambda uploads, secret: secret,
    "way up": lambda uploads, secret: uploads / ("d" * 32) / ".." / ".." / ".." / secret.relative_to("/"),
    "encoded way up": lambda uploads, secret: f"{uploads}/{quote('../' * 12, safe='')}{secret}",
    "endless file": lambda uploads, secret: "/dev/zero",
    "pipe": lambda uploads, secret: uploads / ("a" * 32) / "pipe.png",
    "link": lambda uploads, secret: uploads / ("a" * 32) / "link.png",
    "link to a folder": lambda uploads, secret: uploads / ("b" * 32) / secret.name,
    "folder": lambda uploads, secret: uploads,
    "address of a file": lambda uploads, secret: f"file://{secret}",
    "address of this server": lambda uploads, secret: "/gradio_api/file=" + str(secret),
    "nothing": lambda uploads, secret: "",
    "zero in the name": lambda uploads, secret: f"{secret}\0.png",
}
ROUTES = ["run/predict", "run/batch", "call/predict", "call/batch", "call/v2/predict", "call/v2/batch", "queue/join"]


def questions(route, file, dependencies=(0,)):
    """Bodies that ask about a file by a route: for one file, and for several."""
    if route.startswith("call/v2"):
        return [{"file": file, "threshold": 0.5}, {"files": [file]}]
    question = {"session_hash": new_session(), "event_data": None, "trigger_id": None}
    bodies = [
        question | {"data": data} for data in ([file, 0.5], [[file]], [{"value": file}, 0.5], [None, {"x": [file]}])
    ]
    if route == "queue/join":
        return [body | {"fn_index": number} for body in bodies for number in dependencies]
    return bodies


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_only_uploads_are_opened(server, uploads, secret, route, attack):
    file = as_file(ATTACKS[attack](uploads, secret))
    dependencies = range(len(json.loads(server.request("GET", "/config").text)["dependencies"]))
    for body in questions(route, file, dependencies if attack == "file of the machine" else [0, dependencies[-1]]):
        assert server.ask(f"/gradio_api/{route}", body) == (
            403,
            json.dumps({"detail": NO_UPLOAD}, separators=(",", ":")),
        )
    assert server.request("GET", "/config").status == 200  # within seconds: nothing hangs
    assert secret.exists()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "disguise",
    [
        lambda path: {"path": path},
        lambda path: {"url": path},
        lambda path: {"path": None, "url": path, "meta": {"_type": "gradio.FileData"}},
        lambda path: {"path": [path], "meta": {"_type": "gradio.FileData"}},
        lambda path: {"path": {"path": path}},
        lambda path: as_file(path, is_stream=True, orig_name="a.png", url=f"http://127.0.0.1{path}"),
        lambda path: {"meta": {"_type": "gradio.FileData", "path": path}},
    ],
)
def test_no_form_of_a_file_gets_past(server, secret, route, disguise):
    for body in questions(route, disguise(str(secret))):
        assert server.ask(f"/gradio_api/{route}", body)[0] == 403


@pytest.mark.parametrize("route", ROUTES)
def test_address_elsewhere_is_not_fetched(server, route):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.2)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/scan.png"
        for file in (as_file(address), as_file("scan.png", url=address), {"url": address}):
            assert all(server.ask(f"/gradio_api/{route}", body)[0] == 403 for body in questions(route, file))
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_file_data_that_an_upload_comes_with_counts_for_nothing(server, secret):
    """Gradio itself would fetch the address or stream the file."""
    file = server.uploaded(secret) | {"url": "http://192.0.2.1/", "is_stream": True, "orig_name": "../../x"}
    status, text = server.ask("/gradio_api/run/predict", {"data": [file, 0.5], "session_hash": new_session()})
    assert (status, json.loads(text)["data"][1]["label"]) == (200, "benign")


def test_batch_that_is_refused_leaves_no_copy(server, secret):
    good = server.uploaded(secret)
    assert server.ask("/gradio_api/run/batch", {"data": [[good, as_file(secret)]]})[0] == 403
    assert server.left() == []
    assert server.request("GET", f"/gradio_api/file={good['path']}").status == 404


def test_batch_that_fails_leaves_no_copy(server, secret):
    files = [server.uploaded(secret) for _ in range(2)]  # of one name, which a batch refuses
    status, text = server.ask("/gradio_api/run/batch", {"data": [files]})
    assert (status, "Expected inputs with different names" in text) == (500, True)
    assert server.left() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"data": ' + b"[" * 50 + b"]" * 50 + b"}", b"\xff"])
def test_what_is_no_question_is_refused(server, body):
    status, text = server.ask("/gradio_api/run/predict", body)
    assert (status, text) == (400, '{"detail":"Expected a question as JSON, found something else"}')


# === Other pages ===
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "192.0.2.1", "localhost@evil.example", "", "[::1"],
)
def test_foreign_host_is_refused(server, secret, host):
    assert server.request("GET", "/config", Host=host).status == 400
    assert server.upload(secret.read_bytes(), Host=host).status == 400
    assert server.left() == []


def test_own_names_are_answered(server):
    port = server.host.partition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert server.request("GET", "/config", Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    "source",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"},
    ],
)
def test_requests_of_other_pages_are_refused(server, secret, source):
    for _ in range(3):
        answer = server.upload(secret.read_bytes(), **source)
        assert (answer.status, answer.text) == (403, FOREIGN)
    assert server.left() == []
    assert server.request("GET", "/config", **source).status == 403
    assert server.ask("/gradio_api/run/predict", {"data": [None, 0.5]}, **source)[0] == 403
    assert server.request("OPTIONS", "/gradio_api/upload", **source).headers["Access-Control-Allow-Origin"] is None


def test_link_elsewhere_leads_to_the_page_but_shows_it_in_no_frame(server):
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert server.request("GET", "/", Sec_Fetch_Dest="document", **followed).status == 200
    assert server.request("GET", "/", Sec_Fetch_Dest="iframe", **followed).status == 403


@pytest.mark.parametrize("path", ["/", "/config", "/nothing", "/theme.css", "/gradio_api/upload", "/results/guessed"])
def test_every_answer_has_the_security_headers(server, path):
    headers = server.request("GET", path).headers
    policy = headers["Content-Security-Policy"]
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] is None


# === Other clients ===
def cookie_of(server):
    """What a browser gets with the page."""
    return server.request("GET", "/").headers["Set-Cookie"].partition(";")[0]


def ask_about_image(server, secret, session, **headers):
    """Ask about an image, by the route of programs that wait."""
    body = {"data": [server.uploaded(secret), 0.5], "session_hash": session}
    assert server.ask("/gradio_api/run/predict", body, **headers)[0] == 200


def moved(server, session, **headers):
    """Whether the answer of a session was found."""
    body = {"data": [None, 0.6], "session_hash": session}
    status, text = server.ask("/gradio_api/run/threshold", body, **headers)
    assert status == 200 or "Expected an image that is still kept" in text or status == 403
    return status == 200


def test_answer_belongs_to_the_browser_that_asked(server, secret):
    own, other, session = cookie_of(server), cookie_of(server), "guessable"
    ask_about_image(server, secret, session, Cookie=own)
    assert moved(server, session, Cookie=own)
    assert not moved(server, session, Cookie=other)
    assert not moved(server, session)
    assert not moved(server, session, Cookie=own[:-1] + "x")  # not signed by this server
    assert not moved(server, session, Cookie=other.partition("=")[0] + "=")


def test_answer_to_a_program_belongs_to_a_session_that_nobody_guesses(server, secret):
    session = new_session()
    ask_about_image(server, secret, session)
    assert moved(server, session)
    assert not moved(server, session, Cookie=cookie_of(server))
    assert not moved(server, new_session())
    status, text = server.ask("/gradio_api/run/threshold", {"data": [None, 0.6], "session_hash": "guessable"})
    assert (status, "at least 32 random letters" in text) == (403, True)


def test_stream_of_answers_belongs_to_the_browser_that_asked(server, secret):
    own, other, session = cookie_of(server), cookie_of(server), "guessable"
    body = {"data": [server.uploaded(secret), 0.5], "session_hash": session, "fn_index": 0}
    status, _ = server.ask("/gradio_api/queue/join", body, Cookie=own)
    assert status == 200
    path = f"/gradio_api/queue/data?session_hash={session}"
    for headers in ({"Cookie": other}, {}):
        assert "process_completed" not in server.request("GET", path, **headers).text
    assert '"success":true' in server.request("GET", path, Cookie=own).text.replace(" ", "")


def test_packed_results_belong_to_the_browser_that_asked(server, secret):
    own, other = cookie_of(server), cookie_of(server)
    body = {"data": [[server.uploaded(secret)]], "session_hash": "guessable"}
    status, text = server.ask("/gradio_api/run/batch", body, Cookie=own)
    assert status == 200
    path = json.loads(text)["data"][0]["zip"]
    statuses = [server.request("GET", path, **headers).status for headers in ({"Cookie": other}, {}, {"Cookie": own})]
    assert statuses == [404, 404, 200]


def test_cookie_is_for_this_server_alone(server):
    _, _, rest = server.request("GET", "/").headers["Set-Cookie"].partition(";")
    assert rest.strip() == "Path=/; HttpOnly; SameSite=Lax"
    own = cookie_of(server)
    assert server.request("GET", "/", Cookie=own).headers["Set-Cookie"] is None
    for unknown in (own.partition("=")[0] + "=\xe9", own + "\xe9", "other=1"):
        answer = server.request("GET", "/", Cookie=unknown)
        assert (answer.status, answer.headers["Set-Cookie"] is None) == (200, False)


# === Bodies ===
def test_question_above_a_megabyte_is_refused(server):
    status, text = server.ask("/gradio_api/run/predict", {"data": ["x" * 1_000_001]})
    assert (status, text) == (413, '{"detail":"Expected at most 1 MB at once, found more"}')


def test_body_is_held_to_its_size_as_it_arrives():
    taken = []

    async def receive():
        taken.append(1)
        return {"type": "http.request", "body": bytes(400_000), "more_body": True}

    async def read():
        return [chunk async for chunk in arriving(receive, 1)]

    with pytest.raises(Refusal, match="Expected at most 1 MB at once, found more"):
        asyncio.run(read())
    assert len(taken) == 3  # 2 * 0.4 MB fit


# === Password ===
def test_password_is_asked_of_everyone(running, secret, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    with running(tmp_path, "--host", "0.0.0.0", BUSSEG_PASSWORD="pass wörd 1") as server:
        assert server.process.stdout.readline().startswith("Other machines can reach this page, with the password")
        server.address = server.address.replace("0.0.0.0", "127.0.0.1")
        for path in ("/", "/config", "/theme.css", "/gradio_api/info", "/results/guessed"):
            answer = server.request("GET", path)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="busseg", charset="UTF-8"')
        assert server.upload(secret.read_bytes()).status == 401
        assert server.left() == []
        for wrong in ("Basic " + base64.b64encode(b"me:pass").decode(), "Basic ?", "Bearer pass wörd 1".encode()):
            assert server.request("GET", "/config", Authorization=wrong).status == 401
        assert server.request("GET", "/config", Host="evil.example").status == 400
        known = ("me", "pass wörd 1")
        client = gradio_client.Client(
            server.address, verbose=False, analytics_enabled=False, httpx_kwargs={"auth": tuple(map(str.encode, known))}
        )
        result = client.predict(gradio_client.handle_file(secret), 0.5, api_name="/predict")
        assert result["label"] == "benign"
