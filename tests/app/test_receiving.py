import asyncio
import io
import time
from contextlib import closing
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

UPLOAD = (
    "POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
)
PART = '--x\r\nContent-Disposition: form-data; name="files"; filename="endless.png"\r\n\r\n'


def test_upload_without_end_is_stopped_while_it_streams(server):
    megabyte = b"f4240\r\n" + bytes(1_000_000) + b"\r\n"  # 0xf4240 is 1,000,000
    with closing(server.connect(UPLOAD)) as connection:
        connection.sendall(f"{len(PART):x}\r\n{PART}\r\n".encode())
        connection.setblocking(False)
        sent, rest, answer = 0, b"", b""
        while not answer and sent < 80:
            try:
                rest = rest or megabyte
                rest = rest[connection.send(rest) :]
                sent += not rest
            except BlockingIOError:
                time.sleep(0.005)
            try:
                answer = connection.recv(10_000)
            except BlockingIOError:
                continue
        connection.settimeout(10)
        while b"\r\n\r\nExpected" not in answer:  # its body may come later than its headers
            answer += connection.recv(10_000) or pytest.fail(f"no body: {answer}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Expected files of at most 50 MB, found more: endless.png" in answer
    assert 50 <= sent < 80  # what is in the buffers of the system is above the limit
    assert server.left() == []


def test_file_above_the_limit_is_refused_and_not_kept(server):
    answer = server.upload(bytes(50_000_001))
    assert (answer.status, answer.text) == (413, "Expected files of at most 50 MB, found more: a.png")
    assert server.left() == []


def test_request_above_the_limit_is_refused_by_its_header(server):
    answer = server.request("POST", "/gradio_api/upload", Content_Length="500000001")
    assert (answer.status, answer.text) == (413, "Expected at most 500 MB at once, found more")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain", b"pixels"),
        ("multipart/form-data", b"pixels"),
        ("multipart/form-data; boundary=x", b"pixels"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\npixels\r\n--x--"),
    ],
)
def test_what_is_no_form_is_refused(server, kind, body):
    answer = server.request("POST", "/gradio_api/upload", body, Content_Type=kind)
    assert answer.status == 400
    assert answer.text == "Expected files as multipart/form-data, found something else"
    assert server.request("POST", "/gradio_api/upload", body).status == 400


def test_text_in_a_form_is_no_file(server):
    body = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\n/etc/passwd\r\n--x--'
    answer = server.request("POST", "/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=x")
    assert (answer.status, answer.text, server.left()) == (200, "[]", [])


def test_uploads_that_wait_are_held_to_a_size(tmp_path, monkeypatch):
    from busseg.app import receiving
    from busseg.app.keeping import Uploads

    async def receive():
        pytest.fail("the body was read")

    uploads = Uploads(tmp_path)
    path = uploads.keep("scan.png", io.BytesIO(bytes(1_000_001)))
    monkeypatch.setattr(receiving, "MAX_WAITING_MB", 1)
    answer = asyncio.run(receiving.receive_files(SimpleNamespace(headers={}, receive=receive), uploads))
    assert answer.status_code == 503
    assert answer.body.startswith(b"Expected at most 1 MB that wait for an answer, found more")
    assert path.exists()
