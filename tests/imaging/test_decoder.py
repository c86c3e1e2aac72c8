import os
import time
from pathlib import Path

import numpy as np
import pytest

from busseg.imaging import decoder
from busseg.imaging.decoder import DecoderDiedError, decode_apart, measure_apart
from busseg.imaging.threads import count_cores

pytest.importorskip("pydicom", reason="needs busseg[dicom]")

# What the process runs in place of a decoder: by the name of the file, what broken files have made decoders do.
DECODER = """
import ctypes, os, sys, time
from pathlib import Path
import numpy as np
import busseg.imaging.clip_pixels as clips
import busseg.imaging.dicom_pixels as pixels

tried = set()

def decode_frame(path, number, shape):
    first = not tried
    tried.add(path)
    print("printed by a decoder", flush=True)
    if path.name == "abort":
        os.abort()
    if path.name == "hang":
        ctypes.PyDLL(None).sleep(60)  # which keeps Python's lock
    if path.name == "greedy":
        bytearray(4 * 2**30)
    if path.name == "damaged" and not first:
        os.abort()
    if path.name == "bad":
        raise ValueError(f"Expected more: {path}")
    if path.name == "pid":
        return np.frombuffer(np.int64(os.getpid()).tobytes(), np.uint8).reshape(shape)
    return np.full(shape, number, np.uint8)

def measure_clip(path, alive):
    frames = 0
    while path.name == "endless" or frames < 40:
        time.sleep(0.05)
        alive()
        frames += 1
    return frames, (2, 3)

pixels.decode_frame = decode_frame
clips.measure_clip = measure_clip
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Processes that run `DECODER`."""
    (tmp_path / "sitecustomize.py").write_text(DECODER)
    monkeypatch.syspath_prepend(tmp_path)
    decoder._close_idle()
    yield
    decoder._close_idle()


def pid():
    return int(decode_apart(Path("pid"), 1, (1, 8)).view(np.int64).item())


def test_pixels_come_back(stub):
    np.testing.assert_array_equal(decode_apart(Path("good"), 7, (2, 3)), np.full((2, 3), 7))


def test_process_is_another_one_and_stays_for_the_next_file(stub):
    first = pid()
    assert first != os.getpid()
    with pytest.raises(ValueError, match=r"^Expected more: bad$"):  # the path as it was given
        decode_apart(Path("bad"), 1, (2, 3))
    assert pid() == first


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_file_that_ends_the_process_is_named_and_the_next_is_decoded(stub):
    first = pid()
    with pytest.raises(DecoderDiedError, match=r"^Expected pixels .*, found that the decoder died \(-6\): abort$"):
        decode_apart(Path("abort"), 1, (2, 3))
    assert pid() != first


@pytest.mark.skipif(os.name != "posix", reason="needs ctypes on libc")
def test_file_that_never_ends_is_named_in_time(stub, monkeypatch):
    monkeypatch.setattr(decoder, "TIME_LIMIT_S", 0.5)
    pid()
    started = time.monotonic()
    with pytest.raises(DecoderDiedError, match=r"^Expected .*, found no end within 0.5 s: hang$"):
        decode_apart(Path("hang"), 1, (2, 3))
    assert time.monotonic() - started < 10
    np.testing.assert_array_equal(decode_apart(Path("good"), 7, (2, 3)), np.full((2, 3), 7))


def test_file_of_many_frames_has_the_time_of_many(stub, monkeypatch):
    monkeypatch.setattr(decoder, "TIME_LIMIT_S", 0.5)
    started = time.monotonic()
    assert measure_apart(Path("long")) == (40, (2, 3))
    assert time.monotonic() - started > 40 * 0.05  # four times the limit of a frame


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_file_of_frames_without_end_is_named_in_time(stub, monkeypatch):
    monkeypatch.setattr(decoder, "TIME_LIMIT_S", 0.1)
    started = time.monotonic()
    with pytest.raises(DecoderDiedError, match=r"^Expected .*, found no end within 0\.1 s: endless$"):
        measure_apart(Path("endless"))
    assert time.monotonic() - started < 10  # 20 * 0.1 s, and the start of the process


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs a limit of memory")
def test_file_that_takes_too_much_memory_is_refused(stub):
    with pytest.raises(ValueError, match=r"^MemoryError$"):
        decode_apart(Path("greedy"), 1, (2, 3))
    np.testing.assert_array_equal(decode_apart(Path("good"), 7, (2, 3)), np.full((2, 3), 7))


def test_file_before_is_not_blamed_on_the_next(stub):
    first = pid()
    # The process dies of it, for it has decoded before; a fresh one does not.
    np.testing.assert_array_equal(decode_apart(Path("damaged"), 7, (2, 3)), np.full((2, 3), 7))
    assert pid() != first


def test_threads_have_a_process_each(stub):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        frames = list(pool.map(lambda number: decode_apart(Path("good"), number, (2, 3)), range(1, 41)))
    assert [frame[0, 0] for frame in frames] == list(range(1, 41))
    assert 1 <= len(decoder._idle) <= count_cores()
