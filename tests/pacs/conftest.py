"""A study of ultrasound, a small DICOMweb server, and a DICOM node that takes results; all in this process."""

import json
import shutil
import subprocess
import threading
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from busseg.data.phantom import draw_phantom
from busseg.inference.predictor import Predictor
from busseg.pacs.tls import Pem, server_context

SEG, SR, CAPTURE = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"
_BOUNDARY = "busseg-test"


@pytest.fixture(scope="session")
def answerer():
    """An `Answerer` of the model small."""
    pytest.importorskip("highdicom", reason="needs busseg[dicom]")
    from busseg.pacs.answers import Answerer

    return Answerer(Predictor("small"))


@pytest.fixture(scope="session")
def study(write_scan, tmp_path_factory):
    """A study of two phantoms and what is no breast ultrasound: `uid`, `paths`, `uids`; and `unlike`, its last UID.

    To be read only.
    """
    from pydicom.uid import generate_uid

    folder, uid, series = tmp_path_factory.mktemp("study"), generate_uid(), generate_uid()
    images = [draw_phantom(label, seed, 240, 320)[0] for seed, label in enumerate(("malignant", "normal"))]
    images.append(np.random.default_rng(0).integers(0, 256, images[0].shape, np.uint8))
    uids = [generate_uid() for _ in images]
    paths = [
        write_scan(
            folder / f"{number}.dcm", image, (0, 0, *image.shape[::-1]), (0.01, 0.01),
            StudyInstanceUID=uid, SeriesInstanceUID=series, SOPInstanceUID=instance,
        )
        for number, (image, instance) in enumerate(zip(images, uids))
    ]  # fmt: skip
    return SimpleNamespace(uid=uid, series=series, paths=paths, uids=uids, unlike=uids[-1])


class _Handler(BaseHTTPRequestHandler):
    """QIDO, WADO and STOW of one study."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, content=b"", kind="application/dicom+json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refused(self):
        pacs = self.server.pacs
        pacs.asked.append((self.command, self.path, self.headers.get("Authorization")))
        if pacs.busy:
            pacs.busy -= 1
            self._answer(503)
        elif pacs.authorization and self.headers.get("Authorization") != pacs.authorization:
            self._answer(401)
        else:
            return False
        return True

    def do_GET(self):
        if self._refused():
            return
        pacs, url = self.server.pacs, urlsplit(self.path)
        uid = url.path.rsplit("/", 1)[1]
        if uid == "instances":
            offset = int(parse_qs(url.query).get("offset", ["0"])[0])
            rows = list(pacs.objects.values())[offset:][: pacs.page]
            self._answer(200, json.dumps([_row(content) for content in rows]).encode())
        elif uid in pacs.missing:
            self._answer(404)
        else:
            content = b"Muster" if uid in pacs.broken else pacs.objects[uid]
            part = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + content
            whole = part + f"\r\n--{_BOUNDARY}--".encode()
            self._answer(200, whole, f'multipart/related; type="application/dicom"; boundary="{_BOUNDARY}"')

    def do_POST(self):
        import pydicom

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        pacs = self.server.pacs
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        for part in BytesParser().parsebytes(head + body).get_payload():
            content = part.get_payload(decode=True)
            header = pydicom.dcmread(BytesIO(content))
            if header.SOPClassUID in pacs.refused:
                failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}}
                self._answer(200, json.dumps(failed).encode())
                return
            assert header.SOPInstanceUID not in pacs.objects, "stored twice"
            pacs.objects[str(header.SOPInstanceUID)] = content
        self._answer(200, b"{}")


def _row(content):
    import pydicom

    header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
    names = {"00080016": "SOPClassUID", "00080018": "SOPInstanceUID", "0020000E": "SeriesInstanceUID"}
    row = {tag: {"vr": "UI", "Value": [str(header[name].value)]} for tag, name in names.items()}
    return row | {"00280008": {"vr": "IS", "Value": [int(header.get("NumberOfFrames") or 1)]}}


@contextmanager
def _serving(study, tls=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.pacs = SimpleNamespace(
        objects={uid: path.read_bytes() for uid, path in zip(study.uids, study.paths)}, asked=[], authorization=None,
        broken=set(), missing=set(), refused=set(), page=100, busy=0,
        url=f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/dicom",
    )  # fmt: skip
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.pacs
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def pacs(study):
    """A DICOMweb server that holds `study`. `objects`, from SOP Instance UID to the bytes of a file; `asked`, what was
    asked: method, path and authorization. What it may be set to: `authorization` it demands, `broken` and `missing`
    UIDs, `refused` SOP classes, the length of a `page`, and how many requests it is `busy` for.
    """
    pytest.importorskip("dicomweb_client", reason="needs busseg[pacs]")
    with _serving(study) as server:
        yield server


@pytest.fixture
def secure_pacs(study, pem):
    """As `pacs`, with https; it demands a certificate of `pem`'s authority."""
    pytest.importorskip("dicomweb_client", reason="needs busseg[pacs]")
    with _serving(study, server_context(pem)) as server:
        yield server


@pytest.fixture(scope="session")
def pem(tmp_path_factory):
    """The `Pem` of a node at 127.0.0.1, signed by an authority of its own."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl on the path")
    folder = tmp_path_factory.mktemp("pem")
    files = Pem(folder / "node.pem", folder / "node.key", folder / "ca.pem")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    authority = ["-subj", "/CN=authority", "-keyout", folder / "ca.key", "-out", files.ca]
    signed = ["-CA", files.ca, "-CAkey", folder / "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
    node = ["-subj", "/CN=node", "-addext", "basicConstraints=critical,CA:FALSE"]
    named = ["-keyout", files.key, "-out", files.certificate]
    for command in ([*new, *authority], [*new, *node, *signed, *named]):
        subprocess.run(command, check=True, capture_output=True)
    return files


@pytest.fixture
def classes():
    """Function that counts the SOP classes of files, given as bytes."""
    import pydicom

    def count(contents):
        found = [str(pydicom.dcmread(BytesIO(content), stop_before_pixels=True).SOPClassUID) for content in contents]
        return {name: found.count(uid) for name, uid in (("SEG", SEG), ("SR", SR), ("SC", CAPTURE))}

    return count
