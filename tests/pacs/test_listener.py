import os
import socket
import socketserver
import ssl
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from busseg.cli import app

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
pynetdicom = pytest.importorskip("pynetdicom", reason="needs busseg[pacs]")

from pynetdicom import evt  # noqa: E402

from busseg.imaging.dicom import SOP_CLASSES  # noqa: E402
from busseg.pacs import listener, sender  # noqa: E402
from busseg.pacs.addresses import Node  # noqa: E402
from busseg.pacs.answers import Answerer  # noqa: E402
from busseg.pacs.listener import Settings, listen  # noqa: E402
from busseg.pacs.tls import Pem, client_context, server_context  # noqa: E402

CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7")
ECHO = "1.2.840.10008.1.1"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """All pauses are short: of the sender, of the listener, and of the servers that look whether they shall end."""
    monkeypatch.setattr(sender, "FIRST_S", 0.1)
    monkeypatch.setattr(sender, "LONGEST_S", 0.2)
    monkeypatch.setattr(sender, "_POLL_S", 0.02)
    monkeypatch.setattr(listener, "_POLL_S", 0.02)
    monkeypatch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.02,))


@pytest.fixture
def node():
    """A DICOM node that takes results: `port`; `taken`, the bytes of each; `statuses`, what it answers first; and
    `start` and `stop`.
    """
    this = SimpleNamespace(taken=[], statuses=[], port=0, server=None)

    def take(event):
        status = this.statuses.pop(0) if this.statuses else 0
        if status == 0:
            this.taken.append(event.encoded_dataset())
        return status

    def start(tls=None):
        entity = pynetdicom.AE("PACS")
        for sop_class in CLASSES:
            entity.add_supported_context(sop_class)
        handlers = [(evt.EVT_C_STORE, take)]
        here = ("127.0.0.1", this.port)
        this.server = entity.start_server(here, block=False, evt_handlers=handlers, ssl_context=tls)
        this.port = this.server.server_address[1]

    this.start, this.stop = start, lambda: this.server.ae.shutdown()
    start()
    yield this
    this.stop()


@pytest.fixture
def listening(tmp_path, node, answerer, patient):
    """Function that makes a block in which busseg listens; it yields `port` and `lines`, the log."""

    @contextmanager
    def block(answerer=answerer, **options):
        settings = Settings(Node("BUSSEG", "127.0.0.1", 0), Node("PACS", "127.0.0.1", node.port), **options)
        found, started, stop, lines = [], threading.Event(), threading.Event(), []

        def note(here):
            found.append(here)
            started.set()

        thread = threading.Thread(
            target=listen, args=(tmp_path / "queue", answerer, settings, lines.append, note, stop), daemon=True
        )
        thread.start()
        try:
            assert started.wait(60)
            yield SimpleNamespace(port=found[0].port, lines=lines)
        finally:
            stop.set()
            thread.join(60)
            assert not thread.is_alive()
            assert not any(value in line for line in lines for value in patient.values())

    return block


@contextmanager
def associated(port, title="BUSSEG", caller="SCANNER", tls=None):
    entity = pynetdicom.AE(caller)
    for sop_class in (*SOP_CLASSES, ECHO):
        entity.add_requested_context(sop_class)
    association = entity.associate("127.0.0.1", port, ae_title=title, tls_args=tls)
    yield association
    if association.is_established:
        association.release()


def send(port, paths, **options):
    """The statuses of images that are sent."""
    with associated(port, **options) as association:
        return [association.send_c_store(pydicom.dcmread(path)).Status for path in paths]


def wait(done):
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def answered(folder):
    return {path.name for path in (folder / "queue/answered").iterdir() if not path.name.startswith(".")}


def test_each_image_is_answered_with_seg_and_sr(listening, node, study, classes, tmp_path):
    with listening() as busseg:
        assert send(busseg.port, study.paths) == [0, 0, 0]
        wait(lambda: answered(tmp_path) == set(study.uids))
    assert classes(node.taken) == {"SEG": 2, "SR": 2, "SC": 0}  # the third is no breast ultrasound
    assert f"predicted {study.unlike}: 0 objects to send" in busseg.lines
    assert not list((tmp_path / "queue/received").iterdir())
    if os.name != "nt":  # others of the machine may not read it
        assert (tmp_path / "queue/received").stat().st_mode & 0o077 == 0


def test_overlays_are_sent_on_request(listening, node, study, answerer, classes, tmp_path):
    with listening(Answerer(answerer.predictor, captures=True)) as busseg:
        send(busseg.port, study.paths[:1])
        wait(lambda: answered(tmp_path))
    assert classes(node.taken) == {"SEG": 1, "SR": 1, "SC": 1}


def test_same_image_again_is_taken_and_not_answered(listening, node, study, tmp_path):
    with listening() as busseg:
        send(busseg.port, study.paths[:1])
        wait(lambda: answered(tmp_path))
        assert send(busseg.port, study.paths[:1]) == [0]
    assert len(node.taken) == 2
    assert busseg.lines[-1] == f"received {study.uids[0]} from SCANNER, again"


def test_images_wait_while_the_node_is_down(listening, node, study, classes, tmp_path):
    node.stop()
    with listening() as busseg:
        assert send(busseg.port, study.paths[:2]) == [0, 0]
        wait(lambda: sum("to accept an association" in line for line in busseg.lines) >= 2)
        wait(lambda: len(list((tmp_path / "queue/to_send").iterdir())) == 2)  # predicted meanwhile
        node.start()
        wait(lambda: answered(tmp_path) == set(study.uids[:2]))
    assert classes(node.taken) == {"SEG": 2, "SR": 2, "SC": 0}


def test_queue_of_a_stopped_node_is_continued(listening, node, study, classes, tmp_path):
    node.stop()
    with listening() as busseg:
        send(busseg.port, study.paths[:1])
        wait(lambda: any((tmp_path / "queue/to_send").iterdir()))
    node.start()
    with listening():
        wait(lambda: answered(tmp_path) == {study.uids[0]})
    assert classes(node.taken) == {"SEG": 1, "SR": 1, "SC": 0}


def test_refused_result_is_tried_again_alone(listening, node, study, tmp_path):
    node.statuses = [0, 0xA700]  # the report, out of resources
    with listening() as busseg:
        send(busseg.port, study.paths[:1])
        wait(lambda: answered(tmp_path))
    assert f"PACS@127.0.0.1:{node.port} refused a result of {study.uids[0]} (0xA700); trying again" in busseg.lines
    assert len(node.taken) == 2


def test_result_that_is_always_refused_fails_and_stops_no_other(listening, node, study, tmp_path):
    node.statuses = 5 * [0xA900]
    with listening() as busseg:
        send(busseg.port, study.paths[:1])
        wait(lambda: (tmp_path / f"queue/failed/{study.uids[0]}.txt").exists())
        send(busseg.port, study.paths[1:2])
        wait(lambda: answered(tmp_path) == {study.uids[1]})
    reason = (tmp_path / f"queue/failed/{study.uids[0]}.txt").read_text()
    assert reason == f"PACS@127.0.0.1:{node.port} refused a result 5 times (0xA900)\n"


def test_image_that_cannot_be_predicted_fails_and_stops_no_other(listening, study, tmp_path):
    broken = pydicom.dcmread(study.paths[0])
    broken.PixelData = broken.PixelData[:1000]
    broken.save_as(tmp_path / "broken.dcm")
    with listening() as busseg:
        assert send(busseg.port, [tmp_path / "broken.dcm", study.paths[1]]) == [0, 0]
        wait(lambda: answered(tmp_path) == {study.uids[1]})
    (line,) = [line for line in busseg.lines if line.startswith(f"failed {study.uids[0]}: Expected ")]
    assert str(tmp_path) not in line
    assert (tmp_path / f"queue/failed/{study.uids[0]}.dcm").exists()


# === Who may send what ===
def test_echo_is_answered(listening):
    with listening() as busseg, associated(busseg.port) as association:
        assert association.send_c_echo().Status == 0


@pytest.mark.parametrize(("title", "caller", "expected"), [
    ("BUSSEG", "SCANNER", True),
    ("BUSSEG", "OTHER", False),
    ("ANY-SCP", "SCANNER", False),
])  # fmt: skip
def test_unknown_titles_are_rejected(listening, title, caller, expected):
    with listening(allowed=("SCANNER",)) as busseg, associated(busseg.port, title, caller) as association:
        assert association.is_established == expected


def test_images_of_another_kind_are_not_accepted(listening):
    entity = pynetdicom.AE("SCANNER")
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2")  # CT
    with listening() as busseg:
        association = entity.associate("127.0.0.1", busseg.port, ae_title="BUSSEG")
        assert not association.is_established


def test_image_with_the_uid_of_another_is_refused(listening, study, monkeypatch):
    from pynetdicom.dimse_primitives import C_STORE

    with listening() as busseg, associated(busseg.port) as association:
        named = property(lambda self: pydicom.uid.UID("1.2.3"), C_STORE.AffectedSOPInstanceUID.fset)
        with monkeypatch.context() as patch:
            patch.setattr(C_STORE, "AffectedSOPInstanceUID", named)
            assert association.send_c_store(pydicom.dcmread(study.paths[0])).Status == 0xA900


def test_full_disk_is_told_to_the_sender(listening, study, monkeypatch):
    from busseg.pacs.queue import Queue

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Queue, "add", full)
    with listening() as busseg:
        assert send(busseg.port, study.paths[:1]) == [0xA700]
    assert busseg.lines[-1] == f"refused {study.uids[0]} from SCANNER: No space left on device"


def test_taken_port_is_one_line(listening, answerer, tmp_path):
    with listening() as busseg:
        settings = Settings(Node("BUSSEG", "127.0.0.1", busseg.port), Node("PACS", "127.0.0.1", 9))
        with pytest.raises(OSError, match=rf"^Expected a free port, found {busseg.port} \("):
            listen(tmp_path / "other", answerer, settings, print, print)


def test_address_of_another_machine_is_one_line(answerer, tmp_path):
    settings = Settings(Node("BUSSEG", "192.0.2.1", 0), Node("PACS", "127.0.0.1", 9))
    with pytest.raises(OSError, match=r"^Expected an address of this machine to listen on, found 192\.0\.2\.1$"):
        listen(tmp_path / "queue", answerer, settings, print, print)


@pytest.mark.parametrize(("options", "line"), [
    (["--host", "0.0.0.0"], "Expected --allow, or --cert and --ca, for a --host that other machines reach, found "),
    (["--send-to", "PACS"], "Expected a node as AE@HOST:PORT, "),
    (["--ae-title", " "], "Expected an AE title of 1 to 16 letters, "),
    (["--allow", "A\\B"], "Expected an AE title of 1 to 16 letters, "),
])  # fmt: skip
def test_options_are_checked_before_a_model_is_loaded(tmp_path, options, line):
    out, node = str(tmp_path / "queue"), "PACS@127.0.0.1:9"
    call = ["listen", "--out", out, "--send-to", node, "--model", "no model", *options]
    with pytest.raises(ValueError, match=rf"^{line}"):
        raise CliRunner().invoke(app, call).exception
    assert not (tmp_path / "queue").exists()


def test_folder_with_other_files_is_no_queue(tmp_path):
    (tmp_path / "mine.txt").touch()
    call = ["listen", "--out", str(tmp_path), "--send-to", "PACS@127.0.0.1:9"]
    with pytest.raises(
        FileExistsError, match=r"^Expected an empty folder or one with queue\.json, found other files: "
    ):
        raise CliRunner().invoke(app, call).exception


# === TLS ===
def test_images_and_results_travel_with_tls(listening, node, study, pem, classes, tmp_path):
    node.stop()
    node.start(server_context(pem))
    with listening(pem=pem, send_tls=True) as busseg:
        assert send(busseg.port, study.paths[:1], tls=(client_context(pem), "127.0.0.1")) == [0]
        wait(lambda: answered(tmp_path))
    assert classes(node.taken) == {"SEG": 1, "SR": 1, "SC": 0}


def test_peers_without_tls_or_without_a_certificate_are_cut_off(listening, pem):
    with listening(pem=pem) as busseg:
        with associated(busseg.port) as association:
            assert not association.is_established
        nameless = ssl.create_default_context(cafile=pem.ca)
        with associated(busseg.port, tls=(nameless, "127.0.0.1")) as association:
            assert not association.is_established
        with associated(busseg.port, tls=(client_context(pem), "127.0.0.1")) as association:
            assert association.is_established


def test_peer_that_says_nothing_keeps_no_other_out(listening, pem):
    with listening(pem=pem) as busseg, socket.create_connection(("127.0.0.1", busseg.port)):
        began = time.monotonic()
        with associated(busseg.port, tls=(client_context(pem), "127.0.0.1")) as association:
            assert association.is_established
        assert time.monotonic() - began < 20  # a handshake in the server's own thread would take 30 s


def test_node_with_an_unknown_certificate_gets_no_results(listening, node, study, pem, tmp_path):
    node.stop()
    node.start(server_context(pem))
    with listening(send_tls=True) as busseg:  # the system's authorities did not sign it
        send(busseg.port, study.paths[:1])
        wait(lambda: any("to accept an association" in line for line in busseg.lines))
    assert node.taken == []


def test_key_without_a_certificate_is_refused(pem):
    with pytest.raises(ValueError, match=r"^Expected --cert beside --key, found none$"):
        server_context(Pem(key=pem.key))


def test_authority_without_tls_is_refused(pem, answerer, tmp_path):
    here = Node("BUSSEG", "127.0.0.1", 0)
    with pytest.raises(ValueError, match=r"^Expected --cert, or --send-tls, beside --ca, found none$"):
        listen(tmp_path / "queue", answerer, Settings(here, here, pem=Pem(ca=pem.ca)), print, print)


def test_broken_pem_is_one_line(pem, tmp_path):
    (tmp_path / "a.pem").write_text("x")
    with pytest.raises(OSError, match=r"^Expected PEM files of a certificate and its key, found others: .*a\.pem$"):
        server_context(Pem(tmp_path / "a.pem"))
    with pytest.raises(OSError, match=r"^Expected a PEM file of authorities, found another: .*a\.pem$"):
        server_context(Pem(pem.certificate, pem.key, tmp_path / "a.pem"))
