"""Recognise a file's kind by its first bytes, and say how to convert the kinds that busseg does not read.

`docs/inputs.md` lists how busseg treats each kind.
"""

from pathlib import Path

from busseg.imaging.images import SUFFIXES

# `images.read_image` reads these; `clips.py` reads TIFF and PNG files with several frames.
IMAGES = ("PNG", "JPEG", "BMP", "TIFF")
# `clips.py` reads these, in the decoder's process.
NEWER_IMAGES = ("WebP", "GIF", "JPEG 2000", "AVIF")
VIDEOS = ("MP4 or QuickTime video", "AVI video", "Matroska or WebM video", "MPEG video", "Windows Media video")

_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
_READ_SUFFIXES = (
    *SUFFIXES, ".jfif", ".jpe", ".apng", ".webp", ".gif", ".jp2", ".j2k", ".jpx", ".jpf", ".avif", *_VIDEO_SUFFIXES,
)  # fmt: skip

_UNPACK, _AS_PNG = "unpack it first", "save it as PNG"
_VOLUME = "export its slices as PNG, as ITK-SNAP and 3D Slicer do"
_ARRAY = "save its images as PNG, for instance with Pillow"
_CONVERT = {
    "HEIC": "save it as JPEG or PNG",
    "NIfTI": _VOLUME, "NRRD": _VOLUME, "MetaImage": _VOLUME,
    "NumPy array": _ARRAY, "HDF5 or MATLAB": _ARRAY,
    "PDF": "extract its images, as `pdfimages -png` does",
    "SVG": _AS_PNG, "Photoshop": _AS_PNG,
    "ZIP": _UNPACK, "gzip": _UNPACK, "7-Zip": _UNPACK, "RAR": _UNPACK, "tar": _UNPACK,
    "DICOM": "`busseg predict` reads it by a model of ultrasound",
}  # fmt: skip

_HEAD_BYTES = 512
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II\0*": "TIFF", b"MM*\0": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",
    b"GIF8": "GIF", b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x1aE\xdf\xa3": "Matroska or WebM video", b"\0\0\x01\xba": "MPEG video", b"\0\0\x01\xb3": "MPEG video",
    b"0&\xb2u\x8ef\xcf\x11": "Windows Media video",
    b"NRRD": "NRRD", b"ObjectType": "MetaImage", b"NDims": "MetaImage",
    b"\x93NUMPY": "NumPy array", b"\x89HDF": "HDF5 or MATLAB", b"MATLAB": "HDF5 or MATLAB",
    b"%PDF": "PDF", b"<svg": "SVG", b"8BPS": "Photoshop",
    b"PK\x03\x04": "ZIP", b"PK\x05\x06": "ZIP", b"\x1f\x8b": "gzip", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR",
}  # fmt: skip
# Containers, by their bytes 8 to 12.
_RIFF = {b"WEBP": "WebP", b"AVI ": "AVI video"}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"
)


def is_readable_name(path: Path) -> bool:
    """Whether a file has the suffix of an image or video that busseg reads, and is not hidden."""
    return path.suffix.lower() in _READ_SUFFIXES and not path.name.startswith(".")


def find_kind(path: str | Path) -> str | None:
    """The kind of a file, in words: one of `IMAGES`, `NEWER_IMAGES` or `VIDEOS`, or a kind that busseg does not read.

    Returns:
        Text such as "PNG" or "NIfTI"; "text" for other text files; None for other files, and if there is no file.

    Raises:
        OSError: If the system denies reading it.
    """
    path = Path(path)
    if not path.is_file():  # opening a pipe may block forever
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return "NIfTI" if path.name.lower().endswith((".nii", ".nii.gz")) else find_kind_of_bytes(head)


def find_kind_of_bytes(content: bytes) -> str | None:
    """The kind of a file by its content, or by the first 512 bytes of it; see `find_kind`."""
    head = content[:_HEAD_BYTES]
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return "NIfTI"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"RIFF") and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "MP4 or QuickTime video")
    if head[4:8] in (b"moov", b"mdat", b"wide"):  # old QuickTime files
        return "MP4 or QuickTime video"
    starts = (kind for start, kind in _STARTS.items() if head.startswith(start))
    return next(starts, "text" if _is_text(head) else None)


def _is_text(head):
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < _HEAD_BYTES - 3:  # later, the head may end within a character
            return False
    return bool(head) and b"\0" not in head


def refuse_kind(kind: str | None) -> str:
    """The part of an error that names a kind of file that busseg does not read, and how to convert it."""
    way = f"; {_CONVERT[kind]}" if kind in _CONVERT else ""
    return f"an image or a video, found {kind or 'something else'}{way}"


def is_convertible(kind: str | None) -> bool:
    """Whether a kind of file that busseg does not read may hold images that a user can extract."""
    return kind in _CONVERT
