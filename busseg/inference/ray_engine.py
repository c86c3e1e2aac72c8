"""Predict archives on Ray: the same predictor in many processes, on one machine or on a cluster.

Ray sends blocks of frames to its workers. A worker reads, predicts, writes the image files and returns rows; if it
dies, Ray starts another one, which repeats the block. The calling process writes the table from the rows, in the order
of the files, so each frame has exactly one row, however often its block ran.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from busseg.imaging.dicom import Uids
from busseg.inference.batch import predict_files, predict_in_threads
from busseg.inference.predictor import PACKAGED, Predictor
from busseg.inference.records import failure
from busseg.inference.silence import silence
from busseg.storage.claims import claim_folder
from busseg.storage.escaping import FORMULA
from busseg.storage.files import hidden_folder, replacing
from busseg.storage.run_folder import PREDICTION, PREDICTION_PARQUET, PREDICTIONS

_BLOCK = 32  # frames at most that are repeated when a worker dies
_TRIES = 3  # of a block; one of its files may be what kills the workers
_STORE = 2**28  # bytes of Ray's object store, which holds paths and rows


def predict_files_on_ray(
    model: str | Path,
    predictor: Predictor,
    inputs: Mapping[Path, Path],
    out: str | Path,
    resume: bool = False,
    probability_maps: bool = False,
    json_lines: bool = False,
    overlay_dicom: bool = False,
    require_region: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[dict]:
    """Predict files as `predict_files` does, by Ray's workers, and also write `predictions.parquet`.

    There is one worker per core: of the cluster that the environment's `RAY_ADDRESS` names, or else of this machine.
    The hosts of a cluster must have busseg, and see this process's working folder, the images, the model and `out` at
    the same paths. If several workers die of a block of files, its files get rows with an error; `resume` then repeats
    them in smaller blocks.

    Args:
        model: Name or path of the predictor's model, for the workers to load.
        predictor, inputs, out, resume, probability_maps, json_lines, overlay_dicom, require_region, watch: See
            `predict_files`.

    Yields:
        Dicts; see `predict_files`.

    Raises:
        ImportError: If Ray is not installed.
        OSError: If there is no such cluster, or its workers cannot load the model or write the folder.
    """
    ray = _import_ray()
    with claim_folder(out, PREDICTION) as out:
        with _cluster(ray):
            options = resume, probability_maps, json_lines, overlay_dicom, require_region
            engine = partial(_predict_by_workers, ray, model)
            yield from predict_files(predictor, inputs, out, *options, engine, watch)
        _write_parquet(out)


def _import_ray():
    # Set before Ray is loaded: no usage statistics, and no logs of its internals.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray.data
    except ImportError as error:
        raise ImportError('Expected Ray, found it not installed: pip install "busseg[ray]"') from error
    return ray


@contextmanager
def _cluster(ray):
    """The running cluster of this process, or the one that the environment names, or a new one on this machine."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _try_to_reach(address)
    local = {} if address else {"include_dashboard": False, "object_store_memory": _STORE}
    with silence():  # its C++ logs regardless of the level
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield
    finally:
        ray.shutdown()


def _try_to_reach(address):
    """Fail at once without a cluster; Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():  # else a word, such as "auto"
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"Expected a Ray cluster at RAY_ADDRESS, found none ({error}): {address}") from error


class _Worker:
    """A predictor in a process of its own, which predicts one block of frames after the other."""

    def __init__(self, model, options, folder, tries, output):
        os.chdir(folder)  # so that relative paths mean the same
        self.predictor = Predictor(model, threads=1, **options)
        self.tries = tries
        self.output = output

    def __call__(self, block):
        try:
            results = list(self._predict(block["frame"], self.tries / str(block["block"][0])))
        except OSError as error:  # the next block could not be written either
            return {"row": [{}], "line": [""], "stop": [f"{error.strerror or error}: {error.filename or ''}"]}
        rows, lines = zip(*results)
        return {"row": list(rows), "line": [line or "" for line in lines], "stop": [""] * len(rows)}

    def _predict(self, frames, tries):
        with tries.open("ab") as file:  # a byte per try
            file.write(b".")
        if tries.stat().st_size <= _TRIES:
            return predict_in_threads(self.predictor, frames, self.output)
        died = f"Expected a prediction, found that {_TRIES} workers died of this file or of one of its block"
        return (failure(frame, f"{died}: {frame.path}", self.predictor.task) for frame in frames)


def _predict_by_workers(ray, model, predictor, frames, output):
    """An engine for `predict_files`: as `predict_in_threads`, by the workers of a cluster."""
    frames = list(frames)
    if not frames:
        return
    _set_up(ray)
    output = replace(output, folder=Path(output.folder).resolve())
    with hidden_folder(output.folder) as tries:
        answers = _start_workers(ray, model, predictor, frames, tries, output)
        try:
            for frame, answer in zip(frames, answers.iter_rows(), strict=True):
                if answer["stop"] or answer["row"]["file"] != str(frame.path):
                    found = answer["row"].get("file")
                    raise OSError(answer["stop"] or f"Expected Ray to answer for {frame.path}, found {found}")
                yield answer["row"], answer["line"]
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OSError(f"Expected Ray's workers to predict, found that they cannot ({reason})") from error


def _set_up(ray):
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _start_workers(ray, model, predictor, frames, tries, output):
    """Ray's dataset of the answers to frames; a worker counts the tries of its block in the folder `tries`."""
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    size = max(1, min(_BLOCK, len(frames) // (4 * workers)))
    blocks = -(-len(frames) // size)
    model = str(model) if str(model) in PACKAGED else Path(model).resolve()
    options = {name: getattr(predictor, name) for name in ("sensitivity", "threshold", "device", "precision")}
    items = [{"block": number * blocks // len(frames), "frame": frame} for number, frame in enumerate(frames)]
    return ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        _Worker, fn_constructor_args=(model, options, Path.cwd(), tries, output),
        batch_size=None, batch_format="numpy", concurrency=min(workers, blocks), num_cpus=1,
    )  # fmt: skip


def _write_parquet(out):
    """Write the table again as Parquet, with column types."""
    import pyarrow
    from pyarrow import compute, csv, parquet

    with (out / PREDICTIONS).open(encoding="utf-8") as table:
        columns = table.readline().strip().split(",")
    types = {name: pyarrow.float64() for name in columns} | {"lesion_px": pyarrow.int64(), "frame": pyarrow.int64()}
    types["regions"] = pyarrow.int64()
    types |= dict.fromkeys(("file", *Uids._fields, "label", "warning", "error"), pyarrow.string())
    types |= {name: pyarrow.bool_() for name in columns if name.startswith("malignant_at_")}
    read = csv.read_csv(
        out / PREDICTIONS,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=True),
    )
    for place, name in enumerate(columns):
        if types[name] == pyarrow.string():  # as `escaping.from_cell` reads a cell
            text = compute.replace_substring_regex(read[name], f"^'({FORMULA})", r"\1")
            read = read.set_column(place, name, text)
    with replacing(out / PREDICTION_PARQUET) as temporary:
        parquet.write_table(read, temporary)
