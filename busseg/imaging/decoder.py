"""Decode compressed DICOM, videos and images of newer formats in a process of its own, with limits of time and memory.

Some broken files make GDCM, FFmpeg and other decoders end the process that they run in, or never come to an end. Here
that is a process which does nothing else: the file that ended it is named, and the next one gets a new process.

A request is a line of JSON; the answer is a line of JSON, followed by the pixels. Nothing is unpickled, for a decoder
that a file has taken over could send anything.
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

from busseg.imaging.clip_pixels import MAX_FRAMES, ClipReader, measure_clip
from busseg.imaging.dicom_pixels import decode_frame, import_pydicom
from busseg.imaging.images import check_size

TIME_LIMIT_S = 8  # of a frame; one of half a million pixels takes some hundredths of a second
MEMORY_LIMIT = 2**31  # bytes of addresses, where the system can limit them; the largest frames take half of it
_FRAMES_AT_ONCE = 20  # so many times the limit for a request that goes through many frames
_OUT_OF_TIME = 1  # the exit status by `faulthandler`

_at_once = threading.BoundedSemaphore(os.cpu_count() or 1)
_idle = []  # the processes that wait for a request


class DecoderDiedError(ValueError):
    """The process that decoded a file ended, or was ended by its limits."""


def decode_apart(path, number, shape):
    """Decode one frame in another process, in grey; see `dicom_pixels.decode_frame`.

    The first call starts the process, which takes half a second; later ones, by any thread, find it waiting.

    Raises:
        DecoderDiedError: If the frame ends the process, or takes more than `TIME_LIMIT_S` or `MEMORY_LIMIT`.
        ValueError: If the pixels are missing, cut short, broken or of another size.
        OSError: If no process can be started.
    """
    return _ask({"what": "dicom", "path": path, "number": number, "shape": shape})[1].reshape(shape)


def measure_apart(path):
    """Count the frames of an image or a video in another process; see `clip_pixels.measure_clip`.

    Returns:
        `(frames, (height, width))`.

    Raises:
        DecoderDiedError, ValueError, OSError: See `read_apart`.
    """
    answer, _ = _ask({"what": "measure", "path": path})
    height, width = map(int, answer["size"])
    return min(int(answer["frames"]), MAX_FRAMES), (height, width)


def read_apart(path, number, colour=False):
    """Read a frame of an image or a video in another process; see `clip_pixels.ClipReader`.

    Returns:
        Array `(height, width)`, or with `colour` `(height, width, 3)`, uint8.

    Raises:
        DecoderDiedError: If a frame ends the process, or takes more than `TIME_LIMIT_S` or `MEMORY_LIMIT`.
        ValueError: If the file is broken.
        OSError: If no process can be started.
    """
    return _ask({"what": "clip", "path": path, "number": number, "colour": colour})[1]


def _ask(request):
    """`(answer, pixels)` of a process that is idle, or of a new one."""
    with _at_once:
        while True:
            try:
                process, fresh = _idle.pop(), False
            except IndexError:
                process, fresh = _Process(), True
            try:
                answered = process.ask(request)
            except DecoderDiedError:
                # A file before this one may have left it damaged: only what ends a fresh one is to blame.
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
        # The same modules as here, and none that happens to lie in the folder that the user stands in. One thread: of
        # several, each would reserve memory.
        places = os.pathsep.join(os.path.abspath(place) for place in sys.path)  # noqa: PTH100 - of "" the folder, too
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": places, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        if not self._process.stdout.readline():  # which says that it is ready
            raise OSError(f"Expected a process that decodes files, found that it ended ({self.close()})")

    @property
    def out_of_time(self):
        return self._process.poll() == _OUT_OF_TIME

    def ask(self, request):
        path = request["path"]
        told = json.dumps(request | {"path": str(path.absolute()), "time_limit_s": TIME_LIMIT_S})
        try:
            self._process.stdin.write(f"{told}\n".encode())
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            if "error" not in answer:
                shape = _checked_shape(answer["shape"])
                return answer, np.frombuffer(self._process.stdout.read(math.prod(shape)), np.uint8).reshape(shape)
        except (OSError, ValueError) as error:  # no answer, or half of one
            status = self.close()
            found = f"no end within {TIME_LIMIT_S} s" if self.out_of_time else f"that the decoder died ({status})"
            raise DecoderDiedError(f"Expected pixels that can be decoded, found {found}: {path}") from error
        raise ValueError(answer["error"].replace(str(path.absolute()), str(path)))

    def close(self):
        """Wait for the end of the process; return its exit status, which is below 0 if a signal ended it."""
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            return self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _checked_shape(shape):
    """The shape of the pixels that a process tells of, `(height, width)` or `(height, width, 3)`, as a tuple."""
    height, width, *channels = map(int, shape)
    if min(height, width) < 0 or check_size((height, width)) or channels not in ([], [3]):
        raise ValueError(f"Expected a shape of pixels, found {shape}")
    return (height, width, *channels)


@atexit.register
def _close_idle():
    while _idle:
        _idle.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # or else two would talk to one process


# === In the process ===
def _serve():
    """Answer the requests of stdin until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops who asks, and then this
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # decoders print, too
    with suppress(ImportError):  # it reads clips without it
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
                # Kept for the next frame, which most often is the next asked for.
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
    """Let the process end itself after some seconds, or at the `end`, unless it comes by here again before.

    By a thread that needs nothing of Python, so that it ends a decoder that never gives up Python's lock, too.
    """
    faulthandler.dump_traceback_later(max(0.001, min(seconds, end - time.monotonic())), exit=True)


def _limit_memory():
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, ValueError, OSError):  # Windows, macOS: codestreams of a wrong size are refused there, too
        pass


if __name__ == "__main__":
    _serve()
