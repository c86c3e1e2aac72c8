import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from busseg.imaging.dicom import is_dicom, read_dicom

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")

GREY = np.uint8([[0, 50, 100], [127, 128, 255]])


def change(path, **attributes):
    """Write other attributes into a file; None takes one away."""
    scan = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        if value is None:
            delattr(scan, keyword)
        else:
            setattr(scan, keyword, value)
    scan.save_as(path)
    return path


# === Recognising ===
def test_dicom_is_recognised_by_its_content_under_any_name(tmp_path, write_scan):
    for name in ("IM_0001", "1.2.840.113", "a.png", "a.dcm", "A.DCM"):
        assert is_dicom(write_scan(tmp_path / name, GREY))


def test_what_is_named_so_shall_be_dicom_and_what_is_neither_is_not(tmp_path):
    (tmp_path / "broken.dcm").touch()
    (tmp_path / "notes.txt").write_text("DICM")
    (tmp_path / "short").write_bytes(bytes(128) + b"DIC")
    found = [is_dicom(tmp_path / name) for name in ("broken.dcm", "notes.txt", "short", "gone", ".")]
    assert found == [True, False, False, False, False]


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("meta", [True, False])
def test_file_without_preamble_is_read(tmp_path, write_scan, phantom, implicit, meta):
    scan = pydicom.dcmread(write_scan(tmp_path / "whole.dcm", np.stack([phantom, 255 - phantom])))
    if meta:
        syntax = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        scan.file_meta.TransferSyntaxUID = syntax
    else:
        scan.file_meta = pydicom.dataset.FileMetaDataset()
    scan.preamble = None
    scan.save_as(tmp_path / "bare", implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert b"DICM" not in (tmp_path / "bare").read_bytes()
    assert is_dicom(tmp_path / "bare")
    np.testing.assert_array_equal(read_dicom(tmp_path / "bare").read_frame(2), 255 - phantom)


@pytest.mark.parametrize(
    "start", [b"\x08\x00", b"\x08\x00ab\x00\x00\x00\x00", b"\x02\x00\x00\x00abcd", b"II*\x00\x08\x00"]
)
def test_what_merely_begins_like_an_element_is_no_dicom(tmp_path, start):
    (tmp_path / "a").write_bytes(start + bytes(200))
    assert not is_dicom(tmp_path / "a")


@pytest.mark.parametrize(("kind", "frames"), [("1.2.840.10008.5.1.4.1.1.6", 1), ("1.2.840.10008.5.1.4.1.1.3", 2)])
def test_retired_ultrasound_is_read(tmp_path, write_scan, phantom, kind, frames):
    pixels = np.stack([phantom] * frames) if frames > 1 else phantom
    scan = read_dicom(write_scan(tmp_path / "a.dcm", pixels, SOPClassUID=kind))
    assert scan.frame_count == frames
    np.testing.assert_array_equal(scan.read_frame(frames), phantom)


# === Regions ===
def test_region_and_scale_are_those_of_the_tissue(tmp_path, write_scan, phantom):
    path = write_scan(tmp_path / "a.dcm", phantom, region=(10, 5, 40, 30), spacing_cm=(0.02, 0.01))
    scan = read_dicom(path)
    assert scan.region == (10, 5, 40, 30)
    assert scan.spacing_mm == pytest.approx((0.1, 0.2))  # 0.01 cm down, 0.02 cm across
    (crop,) = scan.crops(phantom)
    np.testing.assert_array_equal(crop, phantom[5:35, 10:50])
    frame = scan.place([np.ones((30, 40), np.uint8)])
    assert (frame.shape, frame.sum(), frame[5:35, 10:50].sum()) == ((60, 80), 1200, 1200)


def test_largest_tissue_is_taken_and_what_is_none_is_not(tmp_path, write_scan, phantom):
    others = [(1, (0, 0, 20, 20)), (1, (20, 0, 40, 50)), (3, (0, 0, 80, 60))]
    assert read_dicom(write_scan(tmp_path / "a.dcm", phantom, others=others)).region == (20, 0, 40, 50)
    assert read_dicom(write_scan(tmp_path / "b.dcm", phantom, others=others[2:])).region == (0, 0, 80, 60)


@pytest.mark.parametrize(
    ("region", "expected", "scaled"),
    [
        ((10, 5, 71, 56), (10, 5, 70, 55), True),  # one out: a scanner that counts from 1
        ((10, 5, 70, 65), (10, 5, 70, 55), False),  # cut below
        ((10, 5, 90, 65), (0, 0, 80, 60), False),  # shrunk
        ((90, 5, 10, 10), (0, 0, 80, 60), False),  # outside
    ],
)
def test_region_that_reaches_out_of_the_frame_has_no_scale(tmp_path, write_scan, phantom, region, expected, scaled):
    scan = read_dicom(write_scan(tmp_path / "a.dcm", phantom, region=region, spacing_cm=(0.02, 0.02)))
    assert (scan.region, scan.spacing_mm is not None) == (expected, scaled)


@pytest.mark.parametrize(("across", "down", "unit"), [(0.02, 0.0, 3), (0.02, 0.02, 4), (0.02, 0.02, None)])
def test_scale_that_is_no_length_is_none(tmp_path, write_scan, phantom, across, down, unit):
    path = write_scan(tmp_path / "a.dcm", phantom, region=(0, 0, 80, 60), spacing_cm=(across, down))
    region = pydicom.dcmread(path).SequenceOfUltrasoundRegions[0]
    region.PhysicalUnitsYDirection = unit
    assert read_dicom(change(path, SequenceOfUltrasoundRegions=[region])).spacing_mm is None


def test_pixel_spacing_is_the_scale_where_there_is_no_region(tmp_path, write_scan):
    assert read_dicom(write_scan(tmp_path / "a.dcm", GREY, PixelSpacing=[0.1, 0.2])).spacing_mm == (0.1, 0.2)
    assert read_dicom(write_scan(tmp_path / "b.dcm", GREY, PixelSpacing=[0, 0])).spacing_mm is None


# === Refusing ===
def refusal(path):
    """The line with which a file, or its first frame, is refused."""
    with pytest.raises(ValueError, match=r"^Expected ") as error:
        read_dicom(path).read_frame()
    assert str(error.value).endswith(f": {path}")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("CT_small.dcm", "an ultrasound image, found CT Image Storage"),
        ("MR_small.dcm", "an ultrasound image, found MR Image Storage"),
        ("test-SR.dcm", "an ultrasound image, found Comprehensive SR Storage"),
        ("no_meta.dcm", "a DICOM file, found something else"),
    ],
)
def test_what_is_no_ultrasound_is_refused_in_one_line(wheel, name, found):
    assert found in refusal(wheel(name))


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"Rows": None}, "with Rows, found none"),
        ({"StudyInstanceUID": None}, "with StudyInstanceUID, found none"),
        ({"PixelData": None}, "pixels that can be decoded"),
        ({"PixelData": bytes(10)}, "pixels that can be decoded"),
        ({"NumberOfFrames": 2_000_000_000}, "a number of frames that fit into the file, found 2000000000"),
        ({"NumberOfFrames": -1}, "a number of frames that fit into the file, found -1"),
        ({"Rows": 60_000, "Columns": 60_000}, "at most 25000000 pixels, found 60000 x 60000"),
        ({"Rows": 1, "Columns": 40_000}, "at most 32767 pixels a side, found 40000 x 1"),
    ],
)
def test_broken_scan_is_refused_in_one_line(tmp_path, write_scan, phantom, attributes, found):
    assert found in refusal(change(write_scan(tmp_path / "a.dcm", phantom), **attributes))


@pytest.mark.parametrize(
    ("syntax", "format", "options"),
    [
        ("JPEGBaseline8Bit", "JPEG", {}),
        ("JPEG2000", "JPEG2000", {"no_jp2": True}),
        ("JPEG2000", "JPEG2000", {"no_jp2": False}),  # in boxes, which is not allowed and is seen
    ],
)
def test_codestream_of_another_size_is_refused_before_it_is_decoded(
    encode, tmp_path, write_scan, syntax, format, options
):
    encoded = [encode(np.zeros((300, 400), np.uint8), format, **options)]
    syntax = getattr(pydicom.uid, syntax)
    path = write_scan(tmp_path / "a.dcm", encoded, Rows=30, Columns=40, transfer_syntax=syntax)
    assert "(a codestream of (300, 400, 1), not (30, 40, 1))" in refusal(path)
    path = write_scan(tmp_path / "b.dcm", encoded, Rows=300, Columns=400, transfer_syntax=syntax)
    assert read_dicom(path).read_frame().max() == 0


@pytest.mark.parametrize("packed", [False, True])
def test_no_more_frames_are_read_than_are_there(encode, tmp_path, write_scan, phantom, packed):
    frames = [phantom] * 3
    if packed:
        attributes = {"Rows": 60, "Columns": 80, "transfer_syntax": pydicom.uid.JPEGBaseline8Bit}
        path = write_scan(tmp_path / "a.dcm", [encode(frame, "JPEG") for frame in frames], **attributes)
    else:
        path = write_scan(tmp_path / "a.dcm", np.stack(frames))
    scan = read_dicom(change(path, NumberOfFrames=1000))
    assert (scan.frame_count, scan.missing) == (3, 997)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.dcm")
    os.mkfifo(tmp_path / "a")
    assert not is_dicom(tmp_path / "a")
    with pytest.raises(ValueError, match=r"^Expected a DICOM file, found a named pipe: .*a\.dcm$"):
        read_dicom(tmp_path / "a.dcm")


@pytest.mark.parametrize("name", ["plain.dcm", "packed.dcm"])
def test_scan_cut_anywhere_is_refused_in_one_line(encode, tmp_path, write_scan, phantom, name):
    path = tmp_path / name
    if name == "plain.dcm":
        write_scan(path, phantom, region=(10, 5, 40, 30))
    else:
        encoded = [encode(phantom, "JPEG")]
        write_scan(path, encoded, Rows=60, Columns=80, transfer_syntax=pydicom.uid.JPEGBaseline8Bit)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 16, 97):
        path.write_bytes(whole[:length])
        refusal(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected a DICOM file, found nothing: .*gone\.dcm$"):
        read_dicom(tmp_path / "gone.dcm")


def test_frame_of_another_size_is_refused(tmp_path, write_scan):
    scan = replace(read_dicom(write_scan(tmp_path / "a.dcm", GREY)), shape=(3, 3))
    with pytest.raises(ValueError, match=r"^Expected a frame of \(3, 3\), found \(2, 3\): .*a\.dcm$"):
        scan.read_frame()


@pytest.mark.parametrize("syntax", ["MPEG4HP41", "DeflatedExplicitVRLittleEndian"])
def test_transfer_syntax_without_separate_frames_is_refused_by_its_name(tmp_path, write_scan, syntax):
    path = write_scan(tmp_path / "a.dcm", GREY, transfer_syntax=pydicom.uid.ExplicitVRLittleEndian)
    scan = pydicom.dcmread(path)
    scan.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    if syntax == "MPEG4HP41":
        scan.PixelData = pydicom.encaps.encapsulate([b"film"])
    scan.save_as(path)
    assert f"found {scan.file_meta.TransferSyntaxUID.name}: " in refusal(path)


def test_missing_decoder_names_the_extra(tmp_path, write_scan, monkeypatch):
    path = write_scan(tmp_path / "a.dcm", [b"1234"], Rows=2, Columns=3, transfer_syntax=pydicom.uid.JPEGLosslessSV1)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})
    assert 'found none; pip install "busseg[dicom]": ' in refusal(path)


def test_missing_pydicom_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").touch()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r'^Expected pydicom .*found none; pip install "busseg\[dicom\]": .*a\.dcm$'):
        read_dicom(tmp_path / "a.dcm")


def test_nothing_of_a_patient_is_printed_even_of_broken_values(tmp_path, write_scan, patient):
    path = write_scan(tmp_path / "a.dcm", GREY)
    whole = path.read_bytes()
    # Values that pydicom warns of, and quotes: an invalid birth date, and a name of three alphabets too many.
    broken = whole.replace(b"19531224", b"Xmas1953").replace(b"Muster^", b"M=u=s=t").replace(b"101500", b"noon  ")
    assert broken != whole
    path.write_bytes(broken)
    code = (
        "import logging, sys; logging.basicConfig(level=0)\n"
        "from busseg.imaging.dicom import read_dicom\n"
        "print(read_dicom(sys.argv[1]).read_frame().sum())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, path], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout == f"{GREY.sum()}\n"
    for secret in ("Xmas", "M=u", "noon", "delheid", *patient.values()):
        assert secret not in done.stderr
