import gzip
import os
import zipfile
from pathlib import Path

import pytest

from busseg.imaging.kinds import find_kind, is_readable_name, refuse_kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"MM\0*", "TIFF"),
        (b"GIF89a", "GIF"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x20ftypisom", "MP4 or QuickTime video"),
        (b"RIFF\x10\0\0\0AVI LIST", "AVI video"),
        (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypmif1", "HEIC"),
        (bytes(344) + b"n+1\0", "NIfTI"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"NRRD0004\n", "NRRD"),
        (b"PK\x03\x04", "ZIP"),
        (b"%PDF-1.7\n\xe2\xe3", "PDF"),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        ("a letter that the end of the head cuts".ljust(511).encode() + "ü".encode(), "text"),
        (b"\xd0\xcf\x11\xe0", None),
        (b"\xd0\xcf", None),
        (b"", None),
    ],
)
def test_kind_is_recognised_by_the_first_bytes_under_any_name(tmp_path, head, kind):
    path = tmp_path / "a.png"
    path.write_bytes(head)
    assert find_kind(path) == kind


def test_compressed_nifti_is_recognised_by_its_name(tmp_path):
    for name, kind in (("a.nii.gz", "NIfTI"), ("a.csv.gz", "gzip")):
        (tmp_path / name).write_bytes(gzip.compress(b"hello"))
        assert find_kind(tmp_path / name) == kind


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_pipe_is_of_no_kind_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert find_kind(tmp_path / "pipe.mp4") is None
    assert find_kind(tmp_path) is None
    assert find_kind(tmp_path / "gone") is None


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("NIfTI", "an image or a video, found NIfTI; export its slices as PNG, as ITK-SNAP and 3D Slicer do"),
        ("ZIP", "an image or a video, found ZIP; unpack it first"),
        ("text", "an image or a video, found text"),
        (None, "an image or a video, found something else"),
    ],
)
def test_refusal_names_the_kind_and_the_way_to_convert_it(kind, line):
    assert refuse_kind(kind) == line


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.WebP", True), ("a.jfif", True), ("a.MP4", True), ("a.png", True), ("a.nii", False), (".a.gif", False)],
)
def test_names_of_what_is_read(name, expected):
    assert is_readable_name(Path(name)) is expected


def test_office_document_is_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "report.docx", "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    assert find_kind(tmp_path / "report.docx") == "ZIP"
