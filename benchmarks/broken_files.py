"""Seed files for the fuzzer, images and DICOM of all kinds, and the functions that break them."""

import io
import re
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
# Values that overwrite a field of 1, 2 or 4 bytes: ends of ranges, of signed and unsigned numbers.
_NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
_HEADER = 600  # bytes at the beginning of a file, or of a compressed frame of DICOM, where a broken one does most
_ITEM = b"\xfe\xff\x00\xe0"  # before each of those


def image_seeds():
    """Dict from a name with a suffix to the bytes of a whole image: each format, in its modes and compressions."""
    from busseg.data.phantom import draw_phantom

    grey = Image.fromarray(draw_phantom("benign", seed=1, height=96, width=128)[0])
    exif = Image.Exif()
    exif[274] = 6
    wanted = [
        *(("png", "PNG", mode, {}) for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "I;16")),
        ("png", "PNG", "L", {"exif": exif, "dpi": (72, 72), "icc_profile": bytes(200)}),
        *(("jpg", "JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        ("jpg", "JPEG", "RGB", {"progressive": True, "exif": exif}),
        *(("tif", "TIFF", mode, {}) for mode in ("L", "RGB", "1", "I;16")),
        *(("tif", "TIFF", "L", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
        *(("bmp", "BMP", mode, {}) for mode in ("L", "RGB", "1")),
        ("png", "GIF", "P", {}),
        ("jpg", "WEBP", "RGB", {}),
        ("webp", "WEBP", "RGB", {"lossless": True}),
        ("gif", "GIF", "P", {}),
        *(("jp2", "JPEG2000", mode, {}) for mode in ("L", "RGB", "I;16")),
        ("avif", "AVIF", "RGB", {}),
    ]
    seeds = {}
    for number, (suffix, format, mode, options) in enumerate(wanted):
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        seeds[f"{number:02}.{suffix}"] = buffer.getvalue()
    return seeds


def clip_seeds():
    """Dict from a name with a suffix to the bytes of a file of several frames: images that move, pages, videos."""
    import cv2

    from busseg.data.phantom import draw_phantom

    frames = [draw_phantom("benign", seed=seed, height=96, width=128)[0] for seed in range(6)]
    first, *others = map(Image.fromarray, frames)
    seeds = {}
    for suffix, format in (("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF"), ("avif", "AVIF")):
        buffer = io.BytesIO()
        first.save(buffer, format, save_all=True, append_images=others)
        seeds[f"clip.{suffix}"] = buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        for suffix, codec in (("mp4", "mp4v"), ("avi", "MJPG"), ("mkv", "mp4v")):
            path = Path(folder, f"clip.{suffix}")
            video = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, (128, 96))
            for frame in frames:
                video.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
            video.release()
            seeds[path.name] = path.read_bytes()
    return seeds


def dicom_seeds(largest=300_000):
    """Dict from names to the bytes of DICOM files: those with pixels in pydicom's package, labelled as ultrasound, and
    phantoms in the transfer syntaxes that can be written here.

    Args:
        largest: Number of bytes of the largest file to take.
    """
    import pydicom
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    from busseg.data.phantom import draw_phantom
    from busseg.imaging.dicom import import_pydicom, is_dicom

    import_pydicom("")
    seeds = {}
    for path in sorted((Path(pydicom.__file__).parent / "data/test_files").rglob("*")):
        if path.is_file() and path.stat().st_size <= largest and is_dicom(path):
            try:
                scan = pydicom.dcmread(path, force=True)
                if "PixelData" in scan:
                    seeds[path.stem] = _as_ultrasound(scan)
            except Exception:  # some are broken already, for pydicom's own tests
                seeds[path.stem] = path.read_bytes()
    pixels = draw_phantom("malignant", seed=2, height=64, width=80)[0]
    for name, syntax in (("plain", None), ("rle", RLELossless), ("jls", JPEGLSLossless), ("j2k", JPEG2000Lossless)):
        seeds[name] = _phantom(np.stack([pixels, 255 - pixels, pixels]), syntax)
    return seeds


def _as_ultrasound(scan):
    scan.SOPClassUID = ULTRASOUND
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(scan, keyword, scan.get(keyword) or "1.2.3")
    buffer = io.BytesIO()
    scan.save_as(buffer)
    return buffer.getvalue()


def _phantom(frames, syntax):
    import pydicom

    scan = pydicom.Dataset()
    scan.file_meta = pydicom.dataset.FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    scan.NumberOfFrames, scan.Rows, scan.Columns = frames.shape
    scan.SamplesPerPixel, scan.PhotometricInterpretation, scan.PixelRepresentation = 1, "MONOCHROME2", 0
    scan.BitsAllocated, scan.BitsStored, scan.HighBit = 8, 8, 7
    scan.PixelData = frames.tobytes()
    scan.Modality = "US"
    if syntax == pydicom.uid.JPEG2000Lossless:  # which Pillow writes, and pydicom alone does not
        encoded = []
        for frame in frames:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
            encoded.append(buffer.getvalue())
        scan.PixelData = pydicom.encaps.encapsulate(encoded)
        scan.file_meta.TransferSyntaxUID = syntax
    elif syntax:
        scan.SOPClassUID, scan.SOPInstanceUID = ULTRASOUND, "1.2.3"
        scan.compress(syntax)
    return _as_ultrasound(scan)


def break_file(content, others, random):
    """Break a file in one to four places.

    Args:
        content: Its bytes.
        others: Sequence of bytes of other files, for pieces of them.
        random: `random.Random`.

    Returns:
        Bytes.
    """
    broken = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(min(len(broken), _HEADER) if random.random() < 0.7 else len(broken))
        frames = [match.end() for match in re.finditer(re.escape(_ITEM), broken)]
        if frames and random.random() < 0.6:
            place = min(len(broken) - 1, random.choice(frames) + random.randrange(_HEADER))
        length = random.choice((1, 2, 4, 8, 30, 200))
        kind = random.randrange(8)
        if kind <= 1:
            broken[place] = random.randrange(256)
        elif kind <= 3:
            size, order = random.choice(((1, "B"), (2, "H"), (4, "L"))), random.choice("<>")
            broken[place : place + size[0]] = struct.pack(order + size[1], random.choice(_NUMBERS) % 256 ** size[0])
        elif kind == 4:
            broken[place : place + length] = b""
        elif kind == 5:
            broken[place:place] = random.randbytes(length)
        elif kind == 6:
            other = random.choice(others)
            start = random.randrange(len(other))
            broken[place : place + length] = other[start : start + length]
        else:
            del broken[place:]
        if not broken:
            return b"\0"
    whole = bytes(broken)
    return _with_checksums(whole) if random.random() < 0.5 else whole


def _with_checksums(content):
    """A PNG with the checksums that its chunks should have, so that more of it is read; other files as they are."""
    signature = b"\x89PNG\r\n\x1a\n"
    if not content.startswith(signature):
        return content
    chunks, place = [signature], len(signature)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">L", content, place)
        chunk = content[place + 4 : place + 8 + length]
        chunks.append(content[place : place + 4] + chunk + struct.pack(">L", zlib.crc32(chunk)))
        place += 12 + length
    return b"".join(chunks)
