"""DICOM SEG read by other people's programs: the loader of OHIF, in Node, and dcmqi, which 3D Slicer reads it by.

They are no dependencies; where one is not installed, its tests are skipped. Install them anywhere, and say where:

    npm install --prefix /tmp/ohif @cornerstonejs/adapters@5.14 @babel/runtime dcmjs
    python3 -m venv /tmp/dcmqi && /tmp/dcmqi/bin/pip install dcmqi
    BUSSEG_OHIF=/tmp/ohif PATH=$PATH:/tmp/dcmqi/bin pytest -m slow -n 0 tests/imaging/test_dicom_seg_readers.py
"""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from busseg.imaging.dicom import read_dicom
from busseg.imaging.dicom_seg import LESIONS, write_segmentation

pytest.importorskip("highdicom", reason="needs busseg[dicom]")
pytestmark = pytest.mark.slow

SHAPE = (40, 60)  # the pixels of a frame fill an even number of bytes; of others OHIF 5.14 overlooks the byte that pads
REGION = (2, 2, 50, 36)
CASES = {
    "image": (["malignant"], (0.02, 0.01)),
    "image-without-scale": (["benign"], None),
    "clip": (["normal", "malignant", "normal", "benign", "malignant", "normal"], (0.02, 0.01)),
    "clip-without-scale": (["benign", "normal", "malignant"], None),
    "normal": (["normal", "normal"], None),
}


@pytest.fixture(params=CASES)
def written(request, tmp_path, write_scan):
    """`(source, segmentation, masks, labels, spacing_mm)` of a scan with one mask a frame, empty of a normal frame."""
    labels, spacing_cm = CASES[request.param]
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (len(labels), *SHAPE), np.uint8)
    source = write_scan(tmp_path / "scan.dcm", pixels if len(labels) > 1 else pixels[0], REGION, spacing_cm)
    masks = random.integers(0, 2, pixels.shape, np.uint8)
    segmentation = tmp_path / "seg.dcm"
    write_segmentation(segmentation, read_dicom(source), masks, labels, "best")
    masks[[label == "normal" for label in labels]] = 0
    return source, segmentation, masks, labels, (0.1, 0.2) if spacing_cm else (1, 1)


def found_labels(labels):
    return [label for label in LESIONS if label in labels] or ["lesion"]


def test_loader_of_ohif_finds_each_lesion_in_its_frame(written):
    packages = os.environ.get("BUSSEG_OHIF")
    if not packages or not shutil.which("node"):
        pytest.skip("needs Node, and BUSSEG_OHIF, the folder where @cornerstonejs/adapters is installed")
    source, segmentation, masks, labels, _ = written
    script = Path(__file__).with_name("ohif_loader.mjs")
    done = subprocess.run(
        ["node", script, packages, source, segmentation], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    found = found_labels(labels)
    assert answer["labels"][1:] == found  # segments count from 1
    for mask, label, frame in zip(masks, labels, answer["frames"], strict=True):
        expected = {} if label == "normal" else {str(found.index(label) + 1): np.flatnonzero(mask).tolist()}
        assert frame == expected


def test_dcmqi_finds_each_lesion_in_its_frame(written, tmp_path):
    if not shutil.which("segimage2itkimage"):
        pytest.skip("needs dcmqi, whose segimage2itkimage is found in no folder of PATH")
    _, segmentation, masks, labels, spacing_mm = written
    out = tmp_path / "dcmqi"
    out.mkdir()
    command = ["segimage2itkimage", "--inputDICOM", segmentation, "--outputDirectory", out, "-t", "nifti", "-p", "s"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(out.glob("*.nii.gz"))) == len(found_labels(labels))
    lesions = [i for i, label in enumerate(labels) if label != "normal"] or [0]
    for number, found in enumerate(found_labels(labels), start=1):
        volume, spacing = read_nifti(out / f"s-{number}.nii.gz")
        expected = [mask * (label == found) for mask, label in zip(masks, labels)]
        # From the first frame with a lesion to the last.
        np.testing.assert_array_equal(volume > 0, np.stack(expected[lesions[0] : lesions[-1] + 1]) > 0)
        assert spacing == pytest.approx((1, *spacing_mm))


def read_nifti(path):
    """`(volume, spacing)`, both by frame, row and column, of an uncompressed or gzipped NIfTI-1 file.

    Reference:
        https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    """
    content = gzip.decompress(path.read_bytes())
    shape, (bits,) = np.frombuffer(content[42:48], "<i2"), np.frombuffer(content[72:74], "<i2")
    values = np.frombuffer(content[352:], f"<i{bits // 8}")
    return values.reshape(shape[::-1]), np.frombuffer(content[80:92], "<f4")[::-1]
