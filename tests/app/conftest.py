import os
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

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


@contextmanager
def _running(folder, *arguments, **environment):
    own = {"TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-m", "busseg.cli", "app", "--port", "0", *arguments],
        env=os.environ | own | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        line = process.stdout.readline()
        assert line.startswith("Research software, not a medical device: http://"), process.stderr.read()
        left = lambda: [path for path in folder.rglob("*") if path.is_file()]  # noqa: E731
        yield SimpleNamespace(address=line.split()[-1], process=process, folder=folder, left=left)
        process.kill()


@pytest.fixture(scope="session")
def running():
    """`busseg app` in a process of its own, as long as a block is: `with running(folder, *arguments, **environment)`.

    Of what it yields, `folder` holds the temporary files, and `left()` lists them; `address` and `process` are its own.
    """
    pytest.importorskip("gradio")
    return _running


@pytest.fixture(scope="module")
def server(running, tmp_path_factory):
    """A server for the tests of a file; see `running`."""
    with running(tmp_path_factory.mktemp("temporary")) as server:
        yield server
