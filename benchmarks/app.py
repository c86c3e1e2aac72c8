"""`busseg app` under load: several programs at once, the time of each answer, and the server's memory.

The server is a process of its own. Each program sends its requests with Gradio's client, one after the other: an image,
and for every fifth image another threshold, too. A row is a part of the requests, in the order of their answers, so
growing memory shows from row to row. The last row counts the uploaded files that are left.

Example: python -m benchmarks.app --requests 1000 --json app.json
"""

import os
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from pathlib import Path

from benchmarks.cold_start import BUSSEG
from benchmarks.measuring import REPOSITORY, spread
from benchmarks.reporting import measure_and_report, parse_arguments

QUICK = {"requests": 16, "clients": 2, "parts": 2}
_FIFTH = 5


def measure(requests=200, clients=8, parts=4, model="best"):
    """Ask a server.

    Args:
        requests: Number of questions in all.
        clients: Number of programs that ask at once.
        parts: Number of rows.
        model: That of the server.

    Returns:
        List of rows.

    Raises:
        RuntimeError: If the server does not start.
    """
    from busseg.data.phantom import write_phantoms

    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as kept:
        write_phantoms(place, per_class=4)
        images = sorted(path for path in Path(place).rglob("*.png") if "_mask" not in path.name)
        process = subprocess.Popen(
            [*BUSSEG, "app", "--port", "0", "--model", model], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": kept},
        )  # fmt: skip
        try:
            line = process.stdout.readline()
            if "http" not in line:
                raise RuntimeError("the server did not start")
            asked = _ask(line.split()[-1], process.pid, images, requests, clients)
            left = sum(path.is_file() for path in Path(kept).rglob("*"))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    return [*_rows(asked, parts), {"questions": f"files left: {left}"}]


def _ask(address, pid, images, requests, clients):
    """Dicts of each question in the order of the answers: `end` and `s` in seconds, `memory` in MB, `error` or None."""
    from gradio_client import Client, handle_file

    programs = [Client(address, verbose=False, analytics_enabled=False) for _ in range(clients)]
    numbers, asked, lock, start = count(), [], threading.Lock(), time.perf_counter()

    def go_on(program):
        while (number := next(numbers)) < requests:
            begin, error, image = time.perf_counter(), None, images[number % len(images)]
            try:
                result = program.predict(handle_file(image), api_name="/predict")
                if number % _FIFTH == 0:
                    result = program.predict(0.9, api_name="/threshold")
                if result["file"] != image.name:
                    error = f"an answer to {result['file']}"
            except Exception as failure:  # any error of a client is counted
                error = str(failure)
            now = time.perf_counter()
            with lock:
                asked.append({"end": now - start, "s": now - begin, "memory": _memory(pid), "error": error})

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(go_on, programs))
    return asked


def _memory(pid):
    """The memory of a process in MB."""
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024 / 1e6


def _rows(asked, parts):
    bounds = [round(len(asked) * part / parts) for part in range(parts + 1)]
    for first, last in pairwise(bounds):
        part = asked[first:last]
        began = asked[first - 1]["end"] if first else 0
        yield {
            "questions": f"{first + 1} to {last}",
            "answered": sum(not one["error"] for one in part),
            "a second": len(part) / (part[-1]["end"] - began),
            "s each": spread([one["s"] for one in part]),
            "memory, MB": spread([one["memory"] for one in part]),
            "errors": sorted({one["error"] for one in part if one["error"]}),
        }


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--requests", {"type": int, "help": "questions in all (200)"}),
        ("--clients", {"type": int, "help": "programs that ask at once (8)"}),
        ("--parts", {"type": int, "help": "rows (4)"}),
        ("--model", {"help": "of the server (best)"}),
    )
    measure_and_report("app", measure, settings, path)


if __name__ == "__main__":
    main()
