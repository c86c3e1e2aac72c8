import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

pytest.importorskip("gradio")

from busseg.app.connections import HEAD_S, is_loopback

UPLOAD = (
    "POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    '47\r\n--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n\r\n'  # 0x47 = 71 bytes
)


@pytest.mark.slow
def test_slow_and_silent_connections_are_closed_and_others_answered(server):
    """10 seconds are given to a head, and to a body that hardly arrives."""

    def lifetime(text, drip):
        """Seconds until the server closes a connection on which a text was sent, then bytes every second."""
        begin = time.monotonic()
        with closing(server.connect(text)) as connection:
            connection.settimeout(1)
            while time.monotonic() - begin < 20:
                try:
                    if drip:
                        connection.sendall(drip)
                    if not connection.recv(1000):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
        return time.monotonic() - begin

    slow = {
        "silent": ("", b""),
        "half a head": ("GET / HTTP/1.1\r\nHost: {host}\r\n", b""),
        "head by letters": ("GET / HTTP/1.1\r\nHost: {host}\r\nX: ", b"x"),
        "upload by bytes": (UPLOAD, b"1\r\n-\r\n"),
        "question by bytes": (
            "POST /gradio_api/run/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n", b" "
        ),
    }  # fmt: skip
    with ThreadPoolExecutor(40) as pool:
        living = {name: [pool.submit(lifetime, *one) for _ in range(8)] for name, one in slow.items()}
        time.sleep(2)
        begin = time.monotonic()
        assert server.request("GET", "/config").status == 200
        assert time.monotonic() - begin < 3
        lives = {name: max(one.result() for one in ones) for name, ones in living.items()}
    assert {name: life for name, life in lives.items() if not HEAD_S - 1 < life < HEAD_S + 7} == {}


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("0.0.0.0", False), ("192.0.2.1", False)],
)
def test_loopback_is_what_only_this_machine_reaches(host, loopback):
    assert is_loopback(host) == loopback


def test_noise_is_refused(server):
    """Bytes that are no HTTP end a connection, and nothing else."""
    numbers = np.random.default_rng(18)
    for _ in range(20):
        with closing(server.connect("")) as connection:
            connection.sendall(numbers.bytes(1000) + b"\r\n\r\n")
            connection.settimeout(5)
            assert connection.recv(100)[:12] in (b"HTTP/1.1 400", b"")
    assert server.request("GET", "/config").status == 200
