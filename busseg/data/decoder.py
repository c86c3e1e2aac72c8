"""Decode compressed DICOM in a process of its own, with limits of time and memory.

Some broken files make GDCM and other decoders end the process that they run in, or never come to an end. Here that is
a process which does nothing else: the file that ended it is named, and the next one gets a new process.

A request is a line of JSON; the answer is a line of JSON, followed by the pixels. Nothing is unpickled, for a decoder
that a file has taken over could send anything.
"""

import atexit
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from busseg.data.dicom_pixels import decode_frame, import_pydicom

TIME_LIMIT_S = 8  # of a frame; one of half a million pixels takes some hundredths of a second
MEMORY_LIMIT = 2**31  # bytes of addresses, where the system can limit them; the largest frames take half of it
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
    with _at_once:
        while True:
            try:
                process, fresh = _idle.pop(), False
            except IndexError:
                process, fresh = _Process(), True
            try:
                pixels = process.decode(path, number, shape)
            except DecoderDiedError:
                # A file before this one may have left it damaged: only what ends a fresh one is to blame.
                if fresh or process.out_of_time:
                    raise
                continue
            except ValueError:
                _idle.append(process)
                raise
            _idle.append(process)
            return pixels


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
            raise OSError(f"Expected a process that decodes DICOM, found that it ended ({self.close()})")

    @property
    def out_of_time(self):
        return self._process.poll() == _OUT_OF_TIME

    def decode(self, path, number, shape):
        request = json.dumps(
            {"path": str(path.absolute()), "number": number, "shape": shape, "time_limit_s": TIME_LIMIT_S}
        )
        try:
            self._process.stdin.write(f"{request}\n".encode())
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            pixels = self._process.stdout.read(0 if "error" in answer else shape[0] * shape[1])
            if "error" not in answer:
                return np.frombuffer(pixels, np.uint8).reshape(shape)
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
    import_pydicom("")
    _limit_memory()
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # By a thread that needs nothing of Python, so that it ends a decoder that never gives up Python's lock, too.
        faulthandler.dump_traceback_later(request["time_limit_s"], exit=True)
        answer, pixels = {}, b""
        try:
            shape = tuple(request["shape"])
            pixels = decode_frame(Path(request["path"]), request["number"], shape).tobytes()
        except Exception as error:
            answer["error"] = str(error) or type(error).__name__
        faulthandler.cancel_dump_traceback_later()
        answers.write(f"{json.dumps(answer)}\n".encode() + pixels)
        answers.flush()


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
