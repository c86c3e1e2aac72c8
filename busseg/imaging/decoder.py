"""Decode compressed DICOM, videos and images of newer formats in a separate process with limits of time and memory.

Some broken files make GDCM, FFmpeg and other decoders crash their process, or run forever. This module gives them a
process that does nothing else: the error names the file that ended it, and the next file gets a new process.

A request is a line of JSON; the answer is a line of JSON, followed by the pixels. Nothing is unpickled, because a
hijacked decoder could send anything.
"""

import atexit
import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.clip_pixels import MAX_FRAMES, ClipReader, measure_clip
from busseg.imaging.dicom_pixels import decode_frame, import_pydicom
from busseg.imaging.images import check_size
from busseg.imaging.threads import count_cores

TIME_LIMIT_S = 8  # for a frame; half a million pixels take some hundredths of a second
MEMORY_LIMIT = 2**31  # bytes of address space, where the system can limit it; the largest frames need half
_FRAMES_AT_ONCE = 20  # a request for many frames may take this many times the limit
_OUT_OF_TIME = 1  # exit status that `faulthandler` sets

_at_once = threading.BoundedSemaphore(count_cores())
_idle: list["_Process"] = []  # processes that wait for a request


class DecoderDiedError(ValueError):
    """The process that decoded a file crashed, or exceeded its limits."""


def decode_apart(path: Path, number: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode one frame of a DICOM file in another process, in grey; see `dicom_pixels.decode_frame`.

    The first call starts the process, which takes half a second; later calls, from any thread, reuse it.

    Raises:
        DecoderDiedError: If the frame crashes the process, or exceeds `TIME_LIMIT_S` or `MEMORY_LIMIT`.
        ValueError: If the pixels are missing, cut short, broken or of another size.
        OSError: If no process can be started.
    """
    return _ask({"what": "dicom", "path": path, "number": number, "shape": shape})[1].reshape(shape)


def measure_apart(path: Path) -> tuple[int, tuple[int, int]]:
    """Count the frames of an image or a video in another process; see `clip_pixels.measure_clip`.

    Returns:
        `(frames, (height, width))`.

    Raises:
        DecoderDiedError, ValueError, OSError: See `read_apart`.
    """
    answer, _ = _ask({"what": "measure", "path": path})
    height, width = map(int, answer["size"])
    return min(int(answer["frames"]), MAX_FRAMES), (height, width)


def read_apart(path: Path, number: int, *, colour: bool = False) -> NDArray[np.uint8]:
    """Read a frame of an image or a video in another process; see `clip_pixels.ClipReader`.

    Returns:
        Array `(height, width)`, or with `colour` `(height, width, 3)`, uint8.

    Raises:
        DecoderDiedError: If a frame crashes the process, or exceeds `TIME_LIMIT_S` or `MEMORY_LIMIT`.
        ValueError: If the file is broken.
        OSError: If no process can be started.
    """
    return _ask({"what": "clip", "path": path, "number": number, "colour": colour})[1]


def _ask(request):
    """`(answer, pixels)` from an idle process, or from a new one."""
    with _at_once:
        while True:
            try:
                process, fresh = _idle.pop(), False
            except IndexError:
                process, fresh = _Process(), True
            try:
                answered = process.ask(request)
            except DecoderDiedError:
                # An earlier file may have damaged the process: only a crash of a fresh one is this file's fault.
                if fresh or process.out_of_time:
                    raise
                continue
            except ValueError:
                _idle.append(process)
                raise
            _idle.append(process)
            return answered


class _Process:
    def __init__(self):
        # The module path of this process, without the user's current folder. One thread, because each would reserve
        # memory.
        places = os.pathsep.join(os.path.abspath(place) for place in sys.path)  # noqa: PTH100 - resolves "", too
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": places, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        if not self._process.stdout.readline():  # it says that it is ready
            raise OSError(f"Expected a process that decodes files, found that it ended ({self.close()})")

    @property
    def out_of_time(self):
        return self._process.poll() == _OUT_OF_TIME

    def ask(self, request):
        path = request["path"]
        line = json.dumps(request | {"path": str(path.absolute()), "time_limit_s": TIME_LIMIT_S})
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            if "error" not in answer:
                shape = _checked_shape(answer["shape"])
                return answer, np.frombuffer(self._process.stdout.read(math.prod(shape)), np.uint8).reshape(shape)
        except (OSError, ValueError) as error:  # no answer, or an incomplete one
            status = self.close()
            found = f"no end within {TIME_LIMIT_S} s" if self.out_of_time else f"that the decoder died ({status})"
            raise DecoderDiedError(f"Expected pixels that can be decoded, found {found}: {path}") from error
        raise ValueError(answer["error"].replace(str(path.absolute()), str(path)))

    def close(self):
        """End the process. Returns its exit status, which is negative if a signal ended it."""
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            return self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _checked_shape(shape):
    """The shape in a process's answer, `(height, width)` or `(height, width, 3)`, as a tuple.

    Raises:
        ValueError: If it is no shape of an image that busseg accepts.
    """
    height, width, *channels = map(int, shape)
    if min(height, width) < 0 or check_size((height, width)) or channels not in ([], [3]):
        raise ValueError(f"Expected a shape of pixels, found {shape}")
    return (height, width, *channels)


@atexit.register
def _close_idle():
    while _idle:
        _idle.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # else two processes would share one decoder


# === In the process ===
def _serve():
    """Answer the requests of stdin until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the parent, whose end stops this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # decoders print to stdout
    with suppress(ImportError):  # clips need no pydicom
        import_pydicom("")
    _limit_memory()
    reader = None
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit = request["time_limit_s"]
        path, wait = Path(request["path"]), partial(_wait, limit, time.monotonic() + _FRAMES_AT_ONCE * limit)
        answer, pixels = {}, np.empty((0, 0), np.uint8)
        try:
            wait()
            if request["what"] == "dicom":
                pixels = decode_frame(path, request["number"], tuple(request["shape"]))
            elif request["what"] == "measure":
                answer["frames"], answer["size"] = measure_clip(path, wait)
            else:
                # Kept, because the next request is most often for the next frame.
                file = str(path), path.stat().st_mtime_ns, request["colour"]
                if not reader or reader[0] != file:
                    reader = file, ClipReader(path, request["colour"], lambda: wait())  # noqa: B023 - of the request
                pixels = reader[1].read(request["number"])
            answer["shape"] = pixels.shape
        except Exception as error:
            answer["error"] = str(error) or type(error).__name__
        faulthandler.cancel_dump_traceback_later()
        answers.write(f"{json.dumps(answer)}\n".encode())
        answers.write(pixels.tobytes())
        answers.flush()


def _wait(seconds, end):
    """Make the process exit after `seconds`, or at the time `end`, unless this function is called again before.

    `faulthandler` uses a thread that does not need Python's lock, so it also ends a decoder that never releases it.
    """
    faulthandler.dump_traceback_later(max(0.001, min(seconds, end - time.monotonic())), exit=True)


def _limit_memory():
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, ValueError, OSError):  # Windows and macOS, which also refuse codestreams of a wrong size
        pass


if __name__ == "__main__":
    _serve()
