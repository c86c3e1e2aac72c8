import os
import signal
import stat
import subprocess
import sys
import tempfile
import time

import pytest

from busseg.app.folder import server_folder

pytest.importorskip("fcntl", reason="Windows locks no folders")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def leave(place, name):
    """A folder as a server that was killed an hour ago leaves it."""
    left = place / name
    (left / "uploads").mkdir(parents=True)
    (left / "uploads" / "scan.png").write_bytes(b"pixels")
    hour_ago = time.time() - 3600
    os.utime(left, (hour_ago, hour_ago))
    return left


def test_folder_is_private_and_gone_at_the_end(place):
    with server_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "scan.png").write_bytes(b"pixels")
        with tempfile.NamedTemporaryFile() as file:
            assert file.name.startswith(str(folder))
    assert list(place.iterdir()) == []
    assert tempfile.tempdir == str(place)


# A thread writes on for a second after the block, and makes its folders, as the writers of results do.
WRITING = """
import threading, time
from busseg.app.folder import server_folder

def write(folder):
    for number in range(100):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(b"pixels")
        time.sleep(0.01)

with server_folder() as folder:
    thread = threading.Thread(target=write, args=(folder / "tmp/results",))
    thread.start()
"""


def test_what_a_thread_writes_after_the_end_is_deleted_too(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", WRITING], env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_servers_left_is_gone_with_the_next_start(place):
    left, other = leave(place, "busseg-app-1"), leave(place, "other-app-1")
    with server_folder():
        assert (left.exists(), other.exists()) == (False, True)


def test_folder_of_a_running_server_stays(place, monkeypatch):
    with server_folder() as first:
        hour_ago = time.time() - 3600
        os.utime(first, (hour_ago, hour_ago))
        monkeypatch.setattr(tempfile, "tempdir", str(place))  # as in a process of its own
        with server_folder() as second:
            assert first.exists()
            assert first != second


def test_link_that_looks_like_a_folder_of_ours_is_not_followed(place, tmp_path_factory):
    elsewhere = leave(tmp_path_factory.mktemp("elsewhere"), "mine")
    (place / "busseg-app-link").symlink_to(elsewhere)
    with server_folder():
        assert (elsewhere / "uploads" / "scan.png").exists()


@pytest.mark.slow
def test_next_start_clears_what_a_killed_server_left(running, secret, tmp_path):
    with running(tmp_path) as killed:
        killed.uploaded(secret)
        assert len(killed.left()) == 1
        time.sleep(1.1)  # younger, it could be one that starts
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
    assert len(killed.left()) == 1
    with running(tmp_path) as server:
        assert server.left() == []


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
def test_server_that_is_ended_amid_its_work_leaves_nothing(running, secret, tmp_path_factory, tmp_path, name, wait_for):
    images = [tmp_path_factory.mktemp("images") / f"{number}.png" for number in range(30)]
    for path in images:
        path.write_bytes(secret.read_bytes())
    with running(tmp_path) as server:
        status, _ = server.ask("/gradio_api/call/batch", {"data": [[server.uploaded(path) for path in images]]})
        assert status == 200
        (tmp,) = tmp_path.glob("busseg-app-*/tmp")
        wait_for(lambda: any(tmp.rglob("*_mask.png")), server.process)
        server.process.send_signal(getattr(signal, name))
        _, err = server.process.communicate(timeout=300)
        assert (server.process.returncode, err) == (128 + signal.SIGTERM, "")
    assert list(tmp_path.iterdir()) == []
