"""Time and peak memory of each verb of the command line from a cold start.

The images are a few phantoms and the network is tiny, so the start dominates: Python, and for some verbs TensorFlow,
whose bare import is the second row. Each run is a process of its own. The first one, which reads the files from the
disk, is not counted.

Example: python -m benchmarks.cold_start --verbs help train predict --json cold_start.json
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track

from benchmarks.measuring import in_fresh_process, spread
from benchmarks.reporting import measure_and_report, parse_arguments

# What to run. `{made}` holds what the verbs before it made; `{out}` is a new folder each time.
BUSSEG = (sys.executable, "-m", "busseg.cli")
VERBS = {
    "help": "--help",
    "audit": "audit {made}/phantoms --out {out}/audit",
    "split": "split {made}/phantoms --folds 5 --out {out}/splits.csv",
    "train": "train {made}/phantoms --recipe {made}/tiny.toml --out {out}/train",
    "evaluate": "evaluate {made}/train {made}/phantoms --out {out}/evaluate",
    "predict": "predict {made}/phantoms/benign --model {made}/train --out {out}/predict",
    "review": "review {made}/predict --out {out}/review",
    "convert": "convert {made}/phantoms {out}/coco --to coco",
    "explain": "explain {made}/phantoms/benign --model {made}/train --out {out}/explain",
    "export": "export {made}/train --out {out}/export",
    "calibrate": "calibrate {made}/train {made}/phantoms --out {out}/calibrated.keras",
    "crossval": "crossval {made}/phantoms --recipe {made}/tiny.toml --folds 2 --out {out}/crossval",
    "release": "release {made}/phantoms --crossval {made}/crossval --out {out}/release",
    "compare": "compare {made}/evaluate {made}/crossval --out {out}/compare",
    "demo": "demo --out {out}/demo",
}
TINY = "image_size = 32\nwidth = 4\ndepth = 2\nepochs = 1\n"
QUICK = {"verbs": ["help", "audit"], "repeats": 0}


def measure(verbs=tuple(VERBS), repeats=5, phantoms=10):
    """Run each verb several times.

    Args:
        verbs: Names of `VERBS`. Those that make what others need must be among them.
        repeats: Number of runs that count; if 0, the first does.
        phantoms: Number a class.

    Returns:
        List of rows.
    """
    from busseg.data.phantom import write_phantoms

    commands = {verb: [*BUSSEG, *VERBS[verb].split()] for verb in verbs}
    commands["import tensorflow"] = [sys.executable, "-c", "import tensorflow"]
    rows = []
    with tempfile.TemporaryDirectory() as made:
        write_phantoms(Path(made) / "phantoms", phantoms)
        (Path(made) / "tiny.toml").write_text(TINY, encoding="utf-8")
        for verb, command in track(list(commands.items()), "Starting"):
            first = run_in_small_process(command, made, out=made)
            runs = []
            for _ in range(repeats):
                with tempfile.TemporaryDirectory() as out:
                    runs.append(run_in_small_process(command, made, out))
            runs = runs or [first]
            measured = {name: spread([one[name] for one in runs]) for name in ("s", "peak memory, MB")}
            rows.append({"verb": verb, **measured})
    return rows


def run_in_small_process(command, made, out):
    """The result of `run`. A process's memory includes that of the process that starts it, so the latter is small."""
    words = [word.format(made=made, out=out) for word in command]
    return in_fresh_process("benchmarks.cold_start:run", {"command": words})


def run(command):
    """A worker's maker: runs a command, and returns its wall time and its peak memory.

    Raises:
        RuntimeError: If it fails, with the last line of what it said.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, text=True)
        _, status, used = os.wait4(process.pid, 0)  # unlike `wait`, this returns the memory
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {said.read().strip().splitlines()[-1]}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes on Linux
    return {"s": seconds, "peak memory, MB": used.ru_maxrss * unit / 1e6}, None


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--verbs", {"nargs": "+", "choices": VERBS, "metavar": "VERB", "help": f"({', '.join(VERBS)})"}),
        ("--repeats", {"type": int, "help": "runs of each that count (5)"}),
        ("--phantoms", {"type": int, "help": "a class (10)"}),
    )
    measure_and_report("cold_start", measure, settings, path)


if __name__ == "__main__":
    main()
