import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from busseg.data.phantom import draw_phantom
from busseg.imaging.images import write_image
from busseg.inference.predictor import Predictor


class Echo:
    """What `Predictor` needs of a model, without Keras: the mask is image / 255; of its mean m, (1 - m, m, 0)."""

    name = "echo"
    input_shape = (None, 32, 32, 1)
    output_shape = {"mask": (None, 32, 32, 1), "label": (None, 3)}  # noqa: RUF012

    def predict_on_batch(self, batch):
        mask = batch / np.float32(255)
        mean = mask.mean(axis=(1, 2))
        return {"mask": mask, "label": np.concatenate([1 - mean, mean, 0 * mean], axis=1)}


@pytest.fixture(scope="session")
def echo():
    """A predictor whose answers are arithmetic; see `Echo`."""
    return Predictor(Echo())


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A DICOM clip of three frames, 40 high and 60 wide, white, and in them a region of 32 x 32 at left 20, top 4.

    The region is grey all over: 0, then 204, then 102. Its pixels are 0.1 mm wide and 0.2 mm high.
    """
    pydicom = pytest.importorskip("pydicom")
    header, region = pydicom.Dataset(), pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"  # Ultrasound Multi-frame Image Storage
    header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID = (
        pydicom.uid.generate_uid() for _ in range(3)
    )
    header.PatientID, header.PatientName, header.Modality = "7", "Phantom", "US"
    header.NumberOfFrames, header.Rows, header.Columns = 3, 40, 60
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit = 7
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 20, 4
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 51, 35
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.01, 0.02
    header.SequenceOfUltrasoundRegions = [region]
    frames = np.full((3, 40, 60), 255, np.uint8)
    frames[:, 4:36, 20:52] = np.reshape([0, 204, 102], (3, 1, 1))
    header.PixelData = frames.tobytes()
    path = tmp_path_factory.mktemp("clip") / "clip.dcm"
    header.save_as(path, enforce_file_format=True)
    return path


class Server:
    """`busseg app` in a process of its own, and requests to it.

    Args:
        address: Its address, `http://...`.
        process: The `Popen` of its process.
        folder: Folder of its temporary files.
    """

    def __init__(self, address, process, folder):
        self.address, self.process, self.folder = address, process, folder

    @property
    def host(self):
        """Host and port, as in the Host header."""
        return self.address.removeprefix("http://")

    def left(self):
        """The files in the folder of temporary files."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def request(self, method, path, body=None, **headers):
        """`status`, `text` and `headers` of an answer, which must come within seconds."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection(self.host, timeout=10)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            try:
                content = answer.read()
            except http.client.IncompleteRead as error:  # so ends a stream that Gradio refuses
                content = error.partial
            return SimpleNamespace(status=answer.status, text=content.decode("latin-1"), headers=answer.headers)

    def connect(self, text):
        """A connection on which a text was sent, in which `{host}` is the server's."""
        host, _, port = self.host.partition(":")
        connection = socket.create_connection((host, int(port)), 20)
        connection.sendall(text.replace("{host}", self.host).encode())
        return connection

    def ask(self, path, body, **headers):
        """Status and text of the answer to a question: bytes, or a dict for JSON."""
        body = json.dumps(body) if isinstance(body, dict) else body
        answer = self.request("POST", path, body, Content_Type="application/json", **headers)
        return answer.status, answer.text

    def upload(self, content, name="a.png", **headers):
        """The answer to an upload of a file."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        part, kind = head.encode() + content + b"\r\n--x--", "multipart/form-data; boundary=x"
        return self.request("POST", "/gradio_api/upload", part, Content_Type=kind, **headers)

    def uploaded(self, path):
        """A file as Gradio's clients name it in a question, after its upload."""
        (kept,) = json.loads(self.upload(path.read_bytes(), path.name).text)
        return {"path": kept, "meta": {"_type": "gradio.FileData"}}


@contextmanager
def _running(folder, *arguments, **environment):
    own = {"TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-m", "busseg.cli", "app", "--port", "0", *arguments],
        env=os.environ | own | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        patience = threading.Timer(300, process.kill)
        patience.start()
        line = process.stdout.readline()
        patience.cancel()
        try:
            assert line.startswith("Research software, not a medical device: http://"), process.stderr.read()
            yield Server(line.split()[-1], process, folder)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def running():
    """A `Server` as long as a block is: `with running(folder, *arguments, **environment) as server`."""
    pytest.importorskip("gradio")
    return _running


@pytest.fixture(scope="session")
def server(running, tmp_path_factory):
    """A `Server` for the tests that need no options of it. What they ask prints nothing; at its end nothing is left."""
    with running(tmp_path_factory.mktemp("temporary")) as server:
        yield server
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        out, err = server.process.communicate(timeout=15)
    assert (server.process.returncode, out, err) == (130, "", "busseg: stopped\n")
    assert server.left() == list(server.folder.glob("busseg*")) == []


@pytest.fixture(scope="session")
def secret(tmp_path_factory):
    """A file of the server's user, which the page could answer if it opened it."""
    path = tmp_path_factory.mktemp("secret") / "secret.png"
    write_image(path, draw_phantom("benign", 1)[0])
    return path


@pytest.fixture(scope="session")
def scans(tmp_path_factory):
    """Dict from each class to a phantom that `best` classifies correctly."""
    folder = tmp_path_factory.mktemp("scans")
    seeds = {"normal": 0, "benign": 1, "malignant": 1}  # see `busseg.app.endpoints.PHANTOMS`
    for label, seed in seeds.items():
        write_image(folder / f"{label}.png", draw_phantom(label, seed)[0])
    return {label: folder / f"{label}.png" for label in seeds}


@pytest.fixture(scope="session")
def foul(tmp_path_factory):
    """Dict from what is wrong with a file to its path: a text named .png, and a PNG of 100 megapixels."""
    folder = tmp_path_factory.mktemp("foul")
    (folder / "text.png").write_text("This is no image.")
    write_image(folder / "huge.png", np.zeros((10_000, 10_000), np.uint8))
    return {"text": folder / "text.png", "huge": folder / "huge.png"}


@pytest.fixture(scope="session")
def refused():
    """Dict from what is wrong with a file of `foul` to the line that says so."""
    return {
        "text": "Expected an image or a video, found text: text.png",
        "huge": "Expected at most 25000000 pixels, found 10000 x 10000: huge.png",
    }


@pytest.fixture(scope="session")
def phantom_clip(tmp_path_factory, write_scan):
    """A DICOM clip of three phantoms, which the model can read."""
    phantoms = np.stack([draw_phantom("malignant", seed=seed)[0] for seed in (1, 2, 3)])
    return write_scan(tmp_path_factory.mktemp("clip") / "clip.dcm", phantoms)


@pytest.fixture(scope="session")
def new_client():
    """Function that returns a client of Gradio, as programs use, of a `Server`."""
    gradio_client = pytest.importorskip("gradio_client")
    return lambda server: gradio_client.Client(server.address, verbose=False, analytics_enabled=False)
