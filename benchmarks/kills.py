"""SIGKILLs at random times against the files that the verbs write: nothing may be lost, half-written or left over.

Each run of a verb is killed at random times and called again, a few times, until it ends; then its output is compared
with that of a run which was never killed. Half of the runs that replace a former output begin with one. After every
kill all files are checked: each must be whole, and a file that busseg did not write must be unchanged. The processes
are forks of this one, which has loaded TensorFlow: a kill hits the work, not the loading.

Example: python -m benchmarks.kills --kills 200
"""

import csv
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

from benchmarks.reporting import measure_and_report, parse_arguments

VERBS = {
    "split": "split {data} --out {out}/splits.csv",
    "audit": "audit {data} --out {out}/audit",
    "train": "train {data} --recipe {recipe} --resume --out {out}/run",
    "crossval": "crossval {data} --folds 2 --recipe {recipe} --out {out}/crossval",
    "evaluate": "evaluate {model} {data} --out {out}/evaluation",
    "predict": "predict {data} --model {onnx} --json-lines --resume --out {out}/predictions",
    "explain": "explain {data}/normal --model {onnx} --out {out}/explained",
    "export": "export {model} --out {out}/saved_model",
    "export onnx": "export {model} --format onnx --out {out}/model.onnx",
    "export openvino": "export {model} --format openvino --out {out}/openvino",
}
GO_ON = ("train", "crossval", "predict")  # the others begin again, and replace a former output
PIECE_BY_PIECE = ("evaluate", "explain")  # these delete the former output before they write the new one
RECIPE = "image_size = 32\nwidth = 4\ndepth = 2\nepochs = 4\nbatch_size = 4\npatience = 4\n"
KILLS = 4  # of one run, at most
MINE = "thesis.tex"
EXPORTED = {".onnx", ".pb", ".xml", ".bin", ".data-00000-of-00001"}  # differ; export compares their answers itself
TIMED = {"environment.json", "report.html", "audit.html"}  # hold times and settings of their making
QUICK = {"kills": 10}


def measure(kills=200, seed=0, verbs=tuple(VERBS)):
    """Kill runs of the verbs in turn.

    Args:
        kills: Number of SIGKILLs that hit a process.
        seed: Of the times.
        verbs: Those of `VERBS` to run.

    Returns:
        List of rows, one a verb: numbers of runs and kills, and of what went wrong, each of which should be 0.
    """
    os.environ |= {"TF_DETERMINISTIC_OPS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}
    for name in ("busseg.experiments.crossval", "busseg.export.formats"):  # loaded before the forks
        importlib.import_module(name)

    rng = random.Random(seed)
    rows = {verb: dict.fromkeys(("runs", "kills", *WRONG), 0) for verb in verbs}
    with tempfile.TemporaryDirectory() as folder:
        things = prepare(Path(folder))
        expected, seconds = {}, {}
        for verb in verbs:
            out = Path(folder) / f"expected-{verb}".replace(" ", "-")
            out.mkdir()
            began = time.monotonic()
            if finish(start(verb, things, out)):
                raise RuntimeError(f"{verb} failed: {things['log'].read_text()}")
            expected[verb], seconds[verb] = out, time.monotonic() - began
        while sum(row["kills"] for row in rows.values()) < kills:
            for verb in verbs:
                out = Path(folder) / "out"
                run_and_kill(verb, things, out, expected[verb], seconds[verb], rng, rows[verb])
                print(f"{verb}: {rows[verb]}", flush=True)
                shutil.rmtree(out)
    return [{"verb": verb, **row} for verb, row in rows.items()]


def prepare(folder):
    """Phantoms, a recipe, and a model as Keras and as ONNX; dict from name to path."""
    from busseg.data.phantom import write_phantoms

    things = {"data": folder / "data", "recipe": folder / "recipe.toml", "model": folder / "run/model.keras"}
    things |= {"onnx": folder / "model.onnx", "log": folder / "log.txt"}
    write_phantoms(things["data"], per_class=8)
    things["recipe"].write_text(RECIPE)
    for command in ("train {data} --recipe {recipe} --out {out}/run", VERBS["export onnx"]):
        if finish(start(command, things, folder)):
            raise RuntimeError(f"{command} failed: {things['log'].read_text()}")
    return things


def start(verb, things, out):
    """Fork a process that runs a verb; return its number."""
    arguments = VERBS.get(verb, verb).format(**things, out=out).split()
    child = os.fork()
    if child:
        return child
    os.setsid()
    log = os.open(things["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["busseg", *arguments]
    code = 1
    try:
        from busseg.cli import main

        main()
    except SystemExit as done:
        code = done.code or 0
    finally:
        os._exit(code)


def finish(process):
    """Wait for a process; return its exit status, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run_and_kill(verb, things, out, expected, seconds, rng, row):
    """Run a verb to its end, however often it is killed; count in `row` what happens."""
    row["runs"] += 1
    former = verb not in GO_ON and rng.random() < 0.5
    if former:
        shutil.copytree(expected, out)
    else:
        out.mkdir()
    (out / MINE).write_text("mine")
    mine = [out / MINE]
    for _ in range(KILLS):
        process = start(verb, things, out)
        time.sleep(rng.uniform(0, seconds))
        os.killpg(process, signal.SIGKILL)
        if finish(process) >= 0:
            break
        row["kills"] += 1
        row["half-written"] += sum(not is_whole(path) for path in visible(out) if path not in mine)
        row["lost"] += sum(not path.is_file() or path.read_text() != "mine" for path in mine)
        if former and verb not in PIECE_BY_PIECE:  # of each of its files the old or the new stands
            row["lost"] += len({path.name for path in visible(expected)} - {path.name for path in visible(out)})
        begun = [path.parent for path in out.glob("[!.]*/[!.]*.*")]  # the file that marks it is there
        if "export" not in verb and begun and len(mine) == 1:
            mine.append(begun[0] / MINE)
            mine[-1].write_text("mine")
    row["failed"] += finish(start(verb, things, out)) != 0
    row["left over"] += len(list(out.rglob(".*")))
    row["lost"] += sum(not path.is_file() or path.read_text() != "mine" for path in mine)
    row["unequal"] += not equal(out, expected, mine)


WRONG = ("half-written", "lost", "left over", "failed", "unequal")


def visible(folder):
    """The files of a folder that are not hidden, nor in hidden folders, nor written line by line by TensorBoard."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and "logs" not in parts and not any(part.startswith(".") for part in parts):
            yield path


def is_whole(path):
    """Whether a file can be read to its end."""
    import onnx
    from PIL import Image

    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix in (".keras", ".npz"):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        elif path.suffix == ".onnx":
            onnx.checker.check_model(str(path))
        elif path.suffix == ".csv":
            text = path.read_text(encoding="utf-8")
            rows = list(csv.reader(text.splitlines(keepends=True)))
            return text.endswith("\n") and {len(row) for row in rows} == {len(rows[0])}
        elif path.suffix in (".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            for line in [text] if path.suffix == ".json" else text.splitlines():
                json.loads(line)
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".html", ".xml"):
            return path.read_text(encoding="utf-8").rstrip().endswith(("</html>", "</net>"))
    except Exception as error:  # any error of a reader at half a file
        print(f"{path}: {error!r}")
        return False
    return True


def equal(out, expected, mine):
    """Whether two outputs have the same files, and those the same content, times apart."""
    found, wanted = (
        {path.relative_to(folder).as_posix(): path for path in visible(folder) if path not in mine}
        for folder in (out, expected)
    )
    if found.keys() != wanted.keys():
        print(f"{out}: {sorted(found.keys() ^ wanted.keys())}")
        return False
    unequal = [name for name in found if _content(found[name]) != _content(wanted[name])]
    if unequal:
        print(f"{out}: {unequal}")
    return not unequal


def _content(path):
    if path.name in TIMED or path.suffix in EXPORTED or path.name == "variables.index":
        return None
    if path.suffix == ".npz":  # ZIP files hold the time of their making
        with zipfile.ZipFile(path) as archive:
            return {entry.filename: entry.CRC for entry in archive.infolist()}
    if path.suffix == ".keras":
        return _weights(path)
    return path.read_bytes()


def _weights(path):
    """The weights of a Keras model, and the state of its optimizer: dict from name to bytes."""
    import h5py

    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
        return found


if __name__ == "__main__":
    measure_and_report("kills", measure, *parse_arguments(
        __doc__, QUICK,
        ("--kills", {"type": int, "help": "number of SIGKILLs"}),
        ("--seed", {"type": int, "help": "of the times"}),
        ("--verbs", {"nargs": "+", "choices": VERBS, "help": "which verbs"}),
    ))  # fmt: skip
