"""Shared parts of the measuring scripts: timing in turns, workers in fresh processes, and a batch of noise.

It loads only Python's own library, so that an interpreter without busseg can be a worker, too.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# Variables that the command line of busseg sets before it loads Keras; see `busseg.cli.program.starting_keras`.
AS_BUSSEG = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}

# === Timing ===


def time_in_turns(first, second, repeats):
    """Time two things in turns, so that what slows the machine down slows both.

    Args:
        first, second: Functions without arguments that return how many seconds they took.
        repeats: Number of pairs. Every other pair begins with the second.

    Returns:
        Dict of three lists, one number a pair: `first` and `second`, in seconds, and `gain`, first / second: how many
        times as fast the second is.
    """
    seconds = {"first": [], "second": []}
    for repeat in range(repeats):
        turns = [("first", first), ("second", second)]
        for name, measure in turns if repeat % 2 == 0 else reversed(turns):
            seconds[name].append(measure())
    return {**seconds, "gain": [a / b for a, b in zip(seconds["first"], seconds["second"])]}


def spread(values):
    """Median, least and greatest of numbers, as a dict."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# === Workers ===


class Worker:
    """A Python process that builds something once, then repeats its work on request and returns the time.

    Two of them can be timed in turns: the one not asked sleeps.

    Args:
        maker: "module:function". The function takes the settings and returns `(facts, work)`: a dict for JSON, and a
            function without arguments, or None where the facts are all.
        settings: Dict for JSON.
        environment: Dict of environment variables; None takes one away.
        python: Path of the interpreter.

    Raises:
        RuntimeError: If the process fails, with the last line of what it said.
    """

    def __init__(self, maker, settings, environment=AS_BUSSEG, python=sys.executable):
        variables = {**os.environ, **environment}
        self._notes = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.measuring", maker], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._notes, env={k: v for k, v in variables.items() if v is not None},
        )  # fmt: skip
        self.facts = self._ask(settings)

    def time(self, count=1):
        """Seconds that the work takes, the mean of doing it `count` times."""
        return self._ask(count) / count

    def close(self):
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._notes.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _ask(self, question):
        with suppress(BrokenPipeError):
            print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._notes.seek(0)
            said = [line for line in self._notes.read().splitlines() if line.strip()]
            self.close()
            raise RuntimeError(said[-1] if said else f"a worker ended with {self._process.returncode}")
        return json.loads(answer)


def in_fresh_process(maker, settings, environment=AS_BUSSEG, python=sys.executable):
    """The facts that a maker finds in a process of its own; see `Worker`."""
    with Worker(maker, settings, environment, python) as worker:
        return worker.facts


def serve(maker):
    """The worker's side: settings come in the first line, and in each further one how often to work."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    module, function = maker.split(":")
    facts, work = getattr(importlib.import_module(module), function)(**json.loads(sys.stdin.readline()))
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(json.loads(line)):
            work()
        print(json.dumps(time.perf_counter() - start), file=answers, flush=True)


# === Batches ===


def noise(image_size, batch_size):
    """A batch of noise: images and masks, both `(batch, size, size)` float32, and the numbers of classes."""
    import numpy as np

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (batch_size, image_size, image_size)).astype(np.float32)
    return image, (image > 200).astype(np.float32), random.integers(0, 3, batch_size)


# === Files ===


def loop_over_files(inputs, out, size, lesion_of):
    """The usual loop over files: read, resize, predict, threshold, back to native size, write mask and overlay.

    Args:
        inputs: Path of a folder of images.
        out: Path of the folder to write.
        size: Side of the network's square in pixels.
        lesion_of: Function from `(size, size)` float32, 0..255, to lesion probabilities of the same shape.
    """
    import cv2
    import numpy as np

    Path(out).mkdir()

    def predict():
        for path in sorted(Path(inputs).iterdir()):
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            square = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
            lesion = cv2.resize(lesion_of(square), image.shape[::-1])
            mask = (lesion >= 0.5).astype(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            overlay = cv2.drawContours(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), contours, -1, (0, 190, 255), 2)
            cv2.imwrite(f"{out}/{path.stem}_mask.png", mask * 255)
            cv2.imwrite(f"{out}/{path.stem}_overlay.png", overlay)

    return predict


if __name__ == "__main__":
    serve(sys.argv[1])
