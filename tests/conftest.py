import gc
import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from busseg.data.phantom import write_phantoms
from busseg.data.readers.busi import find_samples
from busseg.imaging.images import write_image
from busseg.storage.locks import release, try_lock

# TensorFlow adds in the same order every time, so that tests can compare trainings to the last bit.
os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
# Its start-up notes are not ours to test; the command line silences them in the same way.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Nor does a test report to the makers of ONNX Runtime; see `runtimes.py`.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A shell that starts the tests in the background has them ignore these signals, and the programs they start would, too.
for name in ("SIGINT", "SIGHUP"):
    number = getattr(signal, name, None)
    if number and threading.current_thread() is threading.main_thread() and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

REPOSITORY = Path(__file__).parents[1]


# === What makes tests fast ===
# Long files come first, so that the processes of the tests end at nearly the same time; the page's near the end, for
# their server runs until then.
ROOMS = (
    "training", "experiments", "models", "export", "cli", "inference", "pacs", "evaluation/report", "app", "explain",
    "evaluation", "imaging", "data", "storage",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.path.relative_to(REPOSITORY / "tests").as_posix()
        return next((place for place, room in enumerate(ROOMS) if name.startswith(f"{room}/")), len(ROOMS))

    items.sort(key=place)


def pytest_collection_finish():
    """The garbage collector passes over the half a million objects of the modules loaded by now, and runs seldom.

    What Keras and TensorFlow leave in cycles is small here; to look for it after every 700 new objects is not.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(7_000, 10, 10)


@contextmanager
def _graphs(used):
    """Whether TensorFlow builds graphs in the block. To build them is most of the work of a tiny training."""
    import keras

    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(not used)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@pytest.fixture
def without_graphs():
    """The test computes without TensorFlow's graphs, for it promises nothing that depends on them."""
    with _graphs(False):
        yield


@pytest.fixture
def with_graphs():
    """The test builds TensorFlow's graphs, although it is one of a file that is `light`."""
    with _graphs(True):
        yield


@pytest.fixture(scope="session")
def graphless():
    """Function that makes a block `without_graphs`, for fixtures of several tests."""
    return lambda: _graphs(False)


@pytest.fixture(scope="module")
def light():
    """The tests of a file compute without TensorFlow's graphs, and evaluations write blank review sheets.

    Both take seconds to make, and others test them: `test_fit.py` and `test_formats.py`, `test_figures.py`.
    """
    from busseg.evaluation import scoring

    def blank(predictor, samples, path):
        write_image(path, np.zeros((8, 8), np.uint8))

    with _graphs(False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "draw_review_sheet", blank)
        yield


@pytest.fixture(scope="session")
def wait_for():
    """Function that waits for something that a process does, at most ten minutes, else kills it and fails.

    It takes a function that says whether it is done, the `Popen`, and the path of its log if it writes to one.
    """

    def wait(done, process, log=None):
        deadline = time.monotonic() + 600
        while not done():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                text = log.read_text() if log else process.stdout.read()
                pytest.fail(f"waited in vain for a process that ended with {process.returncode}: {text}")
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Function that makes a folder once for all processes of the tests.

    It takes a name and a function that fills the new folder of this name; it returns the folder.
    """
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # which the processes share

    def make(name, fill):
        folder, done = place / name, place / f"{name}.done"
        deadline = time.monotonic() + 600
        while not (lock := try_lock(place / f"{name}.lock")):
            assert time.monotonic() < deadline, f"another process has not made {name}"
            time.sleep(0.05)
        try:
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                fill(folder)
                done.touch()
        finally:
            release(lock)
        return folder

    return make


# === Data ===
@pytest.fixture(scope="session")
def phantom_folder(once):
    """A folder shaped like BUSI with ten phantoms a class, to be read only. Numbers 10 have two masks."""
    return once("phantoms", lambda folder: write_phantoms(folder, per_class=10))


@pytest.fixture(scope="session")
def phantom_samples(phantom_folder):
    """The thirty samples of `phantom_folder`: ten benign, ten malignant, ten normal, in this order."""
    return find_samples(phantom_folder)


@pytest.fixture(scope="session")
def patient():
    """Who was scanned in each file of `write_scan`. None of it may be seen in a line of output."""
    return {
        "PatientName": "Muster^Ädelheid",
        "PatientID": "ID4711",
        "PatientBirthDate": "19531224",
        "AccessionNumber": "ACC0815",
        "ReferringPhysicianName": "Koch^Robert",
    }


@pytest.fixture(scope="session")
def write_scan(patient):
    """Function that writes ultrasound DICOM to a path, which it returns.

    `pixels` are uint8 or uint16 `(height, width)`, or with frames before and colours behind; or a list of encoded
    pictures, one a frame, with their `Rows` and `Columns`. `region` is the B-mode region, `(left, top, width, height)`,
    and `spacing_cm` its `(across, down)`; `others` are more regions, `(kind, rectangle)`, where 1 is the kind of
    two-dimensional tissue. Attributes with other values, or more of them, are given by their keywords.
    """
    pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def write(path, pixels, region=None, spacing_cm=None, others=(), transfer_syntax=ExplicitVRLittleEndian, **more):
        encoded = isinstance(pixels, list)
        colours = not encoded and pixels.ndim > 2 and pixels.shape[-1] == 3
        clip = len(pixels) > 1 if encoded else pixels.ndim - colours == 3
        scan = pydicom.Dataset()
        scan.file_meta = pydicom.dataset.FileMetaDataset()
        scan.file_meta.TransferSyntaxUID = transfer_syntax
        scan.SpecificCharacterSet = "ISO_IR 100"
        scan.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{3 if clip else 6}.1"
        scan.SOPInstanceUID, scan.StudyInstanceUID, scan.SeriesInstanceUID = (generate_uid() for _ in range(3))
        scan.Modality, scan.PatientSex, scan.StudyID = "US", "F", "1"
        scan.StudyDate, scan.StudyTime = "20240131", "101500"
        for keyword, value in patient.items():
            setattr(scan, keyword, value)
        if not encoded:
            scan.Rows, scan.Columns = pixels.shape[clip : clip + 2]
        scan.BitsAllocated = scan.BitsStored = 8 if encoded else 8 * pixels.itemsize
        scan.SamplesPerPixel = 3 if colours else 1
        scan.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
        scan.PixelRepresentation = 0
        if clip:
            scan.NumberOfFrames = len(pixels)
        regions = [_region(1, region, spacing_cm)] if region else []
        regions += [_region(*other) for other in others]
        if regions:
            scan.SequenceOfUltrasoundRegions = regions
        for keyword, value in more.items():
            setattr(scan, keyword, value)
        scan.HighBit = scan.BitsStored - 1
        if scan.SamplesPerPixel == 3:
            scan.PlanarConfiguration = 0
        scan.PixelData = encapsulate(pixels) if encoded else pixels.tobytes() + bytes(pixels.nbytes % 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        scan.save_as(path, enforce_file_format=True)
        return path

    return write


def _region(kind, rectangle, spacing_cm=None):
    """An item of SequenceOfUltrasoundRegions."""
    import pydicom

    left, top, width, height = rectangle
    region = pydicom.Dataset()
    region.RegionSpatialFormat = region.RegionDataType = kind
    region.RegionLocationMinX0, region.RegionLocationMaxX1 = left, left + width - 1
    region.RegionLocationMinY0, region.RegionLocationMaxY1 = top, top + height - 1
    if spacing_cm:
        region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
        region.PhysicalDeltaX, region.PhysicalDeltaY = spacing_cm
    return region


@pytest.fixture(scope="session")
def busi_folder():
    """The real BUSI folder."""
    return _real_folder("busi")


@pytest.fixture(scope="session")
def breakhis_folder():
    """Real images of BreaKHis, all or a few."""
    return _real_folder("breakhis")


@pytest.fixture(scope="session")
def busbra_folder():
    """Real images of BUS-BRA, all or those of some of its patients."""
    return _real_folder("busbra")


@pytest.fixture(scope="session")
def breast_folder():
    """Real images of BrEaST, all or those of some of its patients."""
    return _real_folder("breast")


def _real_folder(name):
    """The folder that `BUSSEG_NAME` names, or the first found in its usual places."""
    named = os.environ.get(f"BUSSEG_{name.upper()}")
    for place in (named, REPOSITORY.parent / "shared/data" / name, REPOSITORY / "data" / name):
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip(f"needs {name}; see data/README.md")


@pytest.fixture(scope="session")
def echo_model():
    """A model whose answers are arithmetic: the mask is image / 255; with m its mean, the label is (1 - m, m, 0)."""
    import keras

    image = keras.Input((32, 32, 1), name="image")
    mask = keras.layers.Rescaling(1 / 255, name="mask")(image)
    label = keras.layers.Dense(3, name="label")(keras.layers.GlobalAveragePooling2D()(mask))
    model = keras.Model(image, {"mask": mask, "label": label}, name="echo")
    model.get_layer("label").set_weights([np.float32([[-1, 1, 0]]), np.float32([1, 0, 0])])
    return model


@pytest.fixture(scope="session")
def told_model(echo_model):
    """`echo_model` with an uncertainty, and with an ood_score of twice the mean of the image / 255."""
    import keras

    from busseg.models.serving import add_uncertainty

    ood_score = 2 * keras.ops.mean(echo_model.output["mask"], axis=(1, 2))
    scored = keras.Model(echo_model.input, {**echo_model.output, "ood_score": ood_score}, name="scored")
    return add_uncertainty(scored)


@pytest.fixture(scope="session")
def torn_model(echo_model):
    """`echo_model`, but what it answers to an image with a white pixel at its top left is no number."""
    import keras

    mask, label = echo_model.output["mask"], echo_model.output["label"]
    white = keras.ops.equal(mask[:, 0, 0, 0], 1)[:, None]
    broken = keras.ops.where(white, np.float32(np.nan), label)
    return keras.Model(echo_model.input, {"mask": mask, "label": broken}, name="torn")


@pytest.fixture(scope="session")
def echo_file(echo_model, tmp_path_factory):
    """The path of `echo_model`, saved."""
    path = tmp_path_factory.mktemp("models") / "echo.keras"
    echo_model.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_run(once, phantom_samples):
    """The folder of a run, to be read only: a tiny network, one epoch on fold 0 of `phantom_folder`."""
    from busseg.data.splits import grouped_splits
    from busseg.training.fit import fit
    from busseg.training.recipe import Recipe

    def train(folder):
        with _graphs(False):
            fit(Recipe(image_size=32, width=4, depth=2, epochs=1), grouped_splits(phantom_samples)[0], folder)

    return once("tiny", train)


@pytest.fixture(scope="session")
def tiny_exports(once, tiny_run):
    """Dict from each format to the path of `tiny_run`'s model in it, to be read only."""
    from busseg.export.formats import FORMATS

    names = {
        "saved_model": "tiny-saved-model",
        "onnx": "tiny.onnx",
        "litert": "tiny.tflite",
        "openvino": "tiny-openvino",
    }

    def export(folder):
        with _graphs(True):
            for format, write in FORMATS.items():
                write(tiny_run, folder / names[format])

    folder = once("tiny-exports", export)
    return {format: folder / name for format, name in names.items()}


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("needs Chromium or Chrome on the path")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=program, args=quiet)
        yield browser
        browser.close()
