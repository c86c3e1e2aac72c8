"""A real PACS, Orthanc with its DICOMweb plugin, and the programs of DCMTK, dicom3tools and dcmqi.

They are no dependencies; a test is skipped where one is not installed. On Debian:

    apt-get install orthanc orthanc-dicomweb dcmtk dicom3tools
    python3 -m venv /tmp/dcmqi && /tmp/dcmqi/bin/pip install dcmqi
    PATH=$PATH:/tmp/dcmqi/bin pytest -m slow -n 0 tests/pacs/test_orthanc.py
"""

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest

from busseg.data.phantom import draw_phantom

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
highdicom = pytest.importorskip("highdicom", reason="needs busseg[dicom]")
pytest.importorskip("dicomweb_client", reason="needs busseg[pacs]")
pytest.importorskip("pynetdicom", reason="needs busseg[pacs]")
from pydicom.uid import generate_uid  # noqa: E402

pytestmark = pytest.mark.slow

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LOGIN = "busseg:s3cret"
SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33"
# pydicom's ultrasound, and the option by which storescu proposes its transfer syntax.
OF_PYDICOM = {
    "ExplVR_BigEnd.dcm": "-xb",
    "examples_jpeg2k.dcm": "-xv",
    "examples_palette.dcm": "-x=",
    "examples_rgb_color.dcm": "-x=",
    "examples_ybr_color.dcm": "-xy",
}


def find_storescu():
    """The path of DCMTK's storescu. pynetdicom installs a program of the same name."""
    for folder in os.environ["PATH"].split(os.pathsep):
        program = shutil.which("storescu", path=folder)
        if program:
            done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
            if "dcmtk" in done.stdout:
                return program
    pytest.skip("needs storescu of DCMTK on the path")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait(done, what, seconds=300):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited in vain for {what()}"
        time.sleep(0.1)


class Orthanc:
    """Orthanc on loopback, with its database in a folder."""

    def __init__(self, folder, program):
        self.http, self.dicom = free_port(), free_port()
        self._program, self._configuration, self._log = program, folder / "orthanc.json", folder / "orthanc.log"
        self.url = f"http://127.0.0.1:{self.http}/dicom-web"
        settings = {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": self.http,
            "DicomPort": self.dicom, "DicomAet": "PACS", "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
            "RegisteredUsers": dict([LOGIN.split(":")]), "DicomAlwaysAllowStore": True, "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "OverwriteInstances": False,
        }  # fmt: skip
        self._configuration.write_text(json.dumps(settings))
        self.start()

    def start(self):
        with self._log.open("a") as log:
            self._process = subprocess.Popen([self._program, self._configuration], stdout=log, stderr=log)
        wait(self._answers, self._log.read_text, 60)

    def stop(self):
        self._process.terminate()
        self._process.wait(60)

    def ask(self, path, method="GET", content=None):
        login = base64.b64encode(LOGIN.encode()).decode()
        headers = {"Authorization": f"Basic {login}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}/{path}", content, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def _answers(self):
        try:
            return bool(self.ask("system"))
        except OSError:
            return False

    def files(self):
        """The headers of all stored objects, by SOP Instance UID, with their bytes."""
        found = {}
        for name in json.loads(self.ask("instances")):
            content = self.ask(f"instances/{name}/file")
            header = pydicom.dcmread(BytesIO(content))
            found[str(header.SOPInstanceUID)] = header, content
        return found

    def count(self):
        return json.loads(self.ask("statistics"))["CountInstances"]


@pytest.fixture
def orthanc(tmp_path):
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if not program or not PLUGIN.exists():
        pytest.skip("needs Orthanc with its DICOMweb plugin: apt-get install orthanc orthanc-dicomweb")
    place = tmp_path / "orthanc"
    place.mkdir()
    server = Orthanc(place, program)
    yield server
    server.stop()


@pytest.fixture
def send():
    """Function that sends files to a port by DCMTK's storescu, with options; it returns whether all were accepted."""
    program = find_storescu()

    def call(port, *paths, options=()):
        command = [program, "-aec", "BUSSEG", *options, "127.0.0.1", str(port), *paths]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    return call


@pytest.fixture
def phantoms(request, write_scan, tmp_path):
    """Paths of six phantoms, or as many as the parameter says, of one study, whose UID follows: `(paths, study)`."""
    study, series = generate_uid(), generate_uid()
    paths = []
    for seed in range(getattr(request, "param", 6)):
        image, _ = draw_phantom(("benign", "malignant", "normal")[seed % 3], seed, 240, 320)
        uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        path = tmp_path / f"phantoms/{seed}.dcm"
        paths.append(write_scan(path, image, (0, 0, 320, 240), (0.01, 0.01), **uids))
    return paths, study


@pytest.fixture
def ultrasound(phantoms):
    """Dict from the path of each file to storescu's option: the phantoms, and pydicom's ultrasound."""
    folder = Path(pydicom.__file__).parent / "data/test_files"
    return dict.fromkeys(phantoms[0], "-x=") | {folder / name: option for name, option in OF_PYDICOM.items()}


@pytest.fixture
def busseg(orthanc, tmp_path, patient):
    """Function that starts a verb of busseg with its log in a file, and returns `(process, log)`. No log names the
    patient.
    """
    started = []

    def start(verb, *options):
        log = tmp_path / f"{verb}-{len(started)}.log"
        environment = {**os.environ, "BUSSEG_DICOMWEB_LOGIN": LOGIN, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "busseg.cli", verb, *map(str, options), "--model", "small"]
        if verb == "listen":
            command += ["--out", str(tmp_path / "queue"), "--send-to", f"PACS@127.0.0.1:{orthanc.dicom}"]
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        started.append((process, log))
        return process, log

    yield start
    for process, log in started:
        process.kill()
        process.wait()
        assert not any(value in log.read_text() for value in patient.values())


def results(orthanc, sources):
    """Counter of the results in Orthanc: `(UID of the source, SOP class)`."""
    found = Counter()
    for header, _ in orthanc.files().values():
        if header.SOPClassUID in (SEG, SR):
            text = header.to_json()
            (source,) = [uid for uid in sources if f'"{uid}"' in text]
            assert header.StudyInstanceUID == sources[source].StudyInstanceUID
            found[source, str(header.SOPClassUID)] += 1
    return found


def once(uids):
    """What `results` finds where each of the images has one SEG and one SR."""
    return Counter({(uid, sop_class): 1 for uid in uids for sop_class in (SEG, SR)})


def headers(paths):
    return {str(header.SOPInstanceUID): header for header in (pydicom.dcmread(path) for path in paths)}


def check_readable(orthanc, folder):
    """All results are read by highdicom and by dcmqi, and dciodvfy finds no error. Returns how many there are."""
    folder.mkdir()
    count = 0
    for uid, (header, content) in orthanc.files().items():
        if header.SOPClassUID not in (SEG, SR):
            continue
        path, count = folder / f"{uid}.dcm", count + 1
        path.write_bytes(content)
        if header.SOPClassUID == SEG:
            assert highdicom.seg.segread(path).number_of_segments >= 1
        else:
            assert highdicom.sr.srread(path).content.get_image_measurement_groups() is not None
        out = folder / uid
        out.mkdir()
        calls = {
            SEG: ["segimage2itkimage", "--inputDICOM", path, "--outputDirectory", out, "-t", "nifti"],
            SR: ["tid1500reader", "--inputDICOM", path, "--outputMetadata", out / "sr.json"],
        }
        if shutil.which(calls[SEG][0]):
            done = subprocess.run(calls[str(header.SOPClassUID)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        if shutil.which("dciodvfy"):
            done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
            assert [line for line in done.stderr.splitlines() if line.startswith(("Error", "Abort"))] == []
    return count


# === busseg dicomweb ===
def test_studies_get_seg_and_sr_once(orthanc, send, busseg, ultrasound, tmp_path):
    for path, option in ultrasound.items():
        assert send(orthanc.dicom, path, options=[option])
    sources = headers(ultrasound)
    logs = {}
    for turn in range(2):
        for study in sorted({str(header.StudyInstanceUID) for header in sources.values()}):
            process, log = busseg("dicomweb", orthanc.url, "--study", study)
            assert process.wait(300) == 0, log.read_text()
            logs[turn, study] = log.read_text()
        if turn == 0:
            found, count = results(orthanc, sources), orthanc.count()
    unlike = {uid for uid in sources if any(f"no SEG or SR is stored: {uid}" in text for text in logs.values())}
    phantoms = {str(pydicom.dcmread(path).SOPInstanceUID) for path in list(ultrasound)[:6]}
    assert not unlike & phantoms
    assert found == once(sources.keys() - unlike)
    assert orthanc.count() == count == len(sources) + len(found)
    assert all("Stored 0 objects" in text for (turn, _), text in logs.items() if turn == 1)
    assert check_readable(orthanc, tmp_path / "read") == len(found)


@pytest.mark.parametrize("phantoms", [12], indirect=True)  # more than are done until Orthanc has stopped
def test_server_that_stops_meanwhile_gets_each_result_once(orthanc, send, busseg, phantoms):
    paths, study = phantoms
    assert send(orthanc.dicom, *paths)
    process, log = busseg("dicomweb", orthanc.url, "--study", study)
    wait(lambda: orthanc.count() > len(paths) or process.poll() is not None, log.read_text)
    orthanc.stop()
    time.sleep(3)
    assert process.poll() is None, log.read_text()
    orthanc.start()
    assert process.wait(300) == 0, log.read_text()
    sources = headers(paths)
    assert results(orthanc, sources) == once(sources)


# === busseg listen ===
def start_listening(busseg, port=0, *options):
    """`(process, log, port)` of a listener that is ready."""
    process, log = busseg("listen", "--port", port, *options)
    wait(lambda: "listening as" in log.read_text() or process.poll() is not None, log.read_text, 120)
    assert process.poll() is None, log.read_text()
    return process, log, int(log.read_text().split("listening as BUSSEG@127.0.0.1:")[1].split()[0])


def images_in(tmp_path, state):
    """The UIDs of the images in a state of the queue."""
    return {path.name.removesuffix(".dcm") for path in (tmp_path / "queue" / state).glob("[0-9]*")}


def test_images_that_are_sent_are_answered_once(orthanc, send, busseg, ultrasound, tmp_path):
    process, log, port = start_listening(busseg)
    sources = headers(ultrasound)
    for path, option in [*ultrasound.items(), *ultrasound.items()]:
        assert send(orthanc.dicom, path, options=[option])
        assert send(port, path, options=[option]), log.read_text()
    wait(lambda: images_in(tmp_path, "answered") == sources.keys(), log.read_text)
    text = log.read_text()
    unlike = {uid for uid in sources if f"predicted {uid}: 0 objects to send" in text}
    assert results(orthanc, sources) == once(sources.keys() - unlike)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert log.read_text().endswith("busseg: stopped\n")
    assert check_readable(orthanc, tmp_path / "read") == 2 * len(sources.keys() - unlike)


@pytest.mark.parametrize("phantoms", [12], indirect=True)
def test_listener_killed_at_any_moment_answers_each_image_once(orthanc, send, busseg, phantoms, tmp_path):
    paths, _ = phantoms
    sources, seed, waiting = headers(paths), random.Random(0), list(paths)
    killed = Counter()  # at which move of an image
    process, log, port = start_listening(busseg)
    while waiting or killed.total() < 12:
        state = ("received", "to_send", "answered")[killed.total() % 3]
        before = images_in(tmp_path, state)
        if waiting and send(port, waiting[0]):  # one that was not acknowledged is sent again
            waiting.pop(0)
        deadline = time.monotonic() + 10
        while not images_in(tmp_path, state) - before and time.monotonic() < deadline:
            time.sleep(0.005)
        killed[state if images_in(tmp_path, state) - before else "idle"] += 1
        time.sleep(seed.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process, log, port = start_listening(busseg)
    wait(lambda: images_in(tmp_path, "answered") == sources.keys(), log.read_text)
    assert all(killed[state] > 1 for state in ("received", "to_send", "answered"))
    assert results(orthanc, sources) == once(sources)
    assert orthanc.count() == 2 * len(paths)
    assert list((tmp_path / "queue").rglob("*.dcm")) == []


def test_node_that_stops_meanwhile_gets_each_result_once(orthanc, send, busseg, phantoms, tmp_path):
    paths, _ = phantoms
    _, log, port = start_listening(busseg)
    assert send(port, *paths[:3])
    wait(lambda: images_in(tmp_path, "answered"), log.read_text)
    orthanc.stop()
    assert send(port, *paths[3:])
    wait(lambda: log.read_text().count("trying again") >= 2, log.read_text)
    orthanc.start()
    sources = headers(paths)
    wait(lambda: images_in(tmp_path, "answered") == sources.keys(), log.read_text)
    assert results(orthanc, sources) == once(sources)
