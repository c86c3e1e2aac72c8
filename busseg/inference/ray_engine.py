"""Predict archives on Ray: the same predictor in many processes, on one machine or on a cluster.

Ray hands blocks of files to its workers. A worker reads, predicts, writes the pictures and answers with rows; where one
dies, Ray starts another and has its block done again. The rows come back to the one process that writes the table, in
the order of the files, so that each file has exactly one, however often its block was done.
"""

import logging
import os
import socket
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from busseg.inference.batch import failure, predict_files, predict_in_threads
from busseg.inference.predictor import PACKAGED, Predictor
from busseg.inference.silence import silence
from busseg.storage.claims import claim_folder
from busseg.storage.escaping import FORMULA
from busseg.storage.files import hidden_folder, replacing
from busseg.storage.run_folder import PREDICTION, PREDICTION_PARQUET, PREDICTIONS

_BLOCK = 32  # files that are done again when a worker dies, at most
_TRIES = 3  # of a block, for a file of it may be what its workers die of
_STORE = 2**28  # bytes for what passes between processes, which are paths and rows


def predict_files_on_ray(
    model, predictor, inputs, out, resume=False, probability_maps=False, json_lines=False, overlay_dicom=False,
    require_region=False, watch=lambda: None,
):  # fmt: skip
    """Predict files as `predict_files` does, by Ray's workers, and write `predictions.parquet`, too.

    Workers are one a core: of the cluster that the environment's `RAY_ADDRESS` names, or else of this machine. Those of
    a cluster must have busseg, and see this process's working folder, the images, the model and `out` at the same
    paths. A block of files that several workers died of gets rows with an error; `resume` then does it in smaller ones.

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
    # Before Ray is loaded: it is to tell nobody that it is used, and not to speak of its own insides.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray.data
    except ImportError as error:
        raise ImportError('Expected Ray, found it not installed: pip install "busseg[ray]"') from error
    return ray


@contextmanager
def _cluster(ray):
    """The cluster that this process is part of, or that the environment names, or a new one of this machine."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _try_to_reach(address)
    local = {} if address else {"include_dashboard": False, "object_store_memory": _STORE}
    with silence():  # what it logs by is told by its C++, past the level itself
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield
    finally:
        ray.shutdown()


def _try_to_reach(address):
    """Ray itself would wait for minutes for a cluster that is not there."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():  # else a word, such as "auto"
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"Expected a Ray cluster at RAY_ADDRESS, found none ({error}): {address}") from error


class _Worker:
    """A predictor in a process of its own, which predicts one block of files after the other."""

    def __init__(self, model, sensitivity, folder, out, tries, *options):
        os.chdir(folder)  # so that relative paths mean the same
        self.predictor = Predictor(model, threads=1, sensitivity=sensitivity)
        self.tries = tries
        self.rest = out, *options  # of `predict_in_threads`

    def __call__(self, block):
        try:
            results = list(self._predict(block["frame"], self.tries / str(block["block"][0])))
        except OSError as error:  # whatever the next block is, it could not be written either
            return {"row": [{}], "line": [""], "stop": [f"{error.strerror or error}: {error.filename or ''}"]}
        rows, lines = zip(*results)
        return {"row": list(rows), "line": [line or "" for line in lines], "stop": [""] * len(rows)}

    def _predict(self, frames, tries):
        with tries.open("ab") as file:  # a byte a try
            file.write(b".")
        if tries.stat().st_size <= _TRIES:
            return predict_in_threads(self.predictor, frames, *self.rest)
        died = f"Expected a prediction, found that {_TRIES} workers died of this file or of one of its block"
        return (failure(frame, f"{died}: {frame.path}", self.predictor.task) for frame in frames)


def _predict_by_workers(ray, model, predictor, frames, out, *options):
    """What `predict_in_threads` gives, of the workers of a cluster."""
    frames = list(frames)
    if not frames:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    size = max(1, min(_BLOCK, len(frames) // (4 * workers)))
    blocks = -(-len(frames) // size)
    model = str(model) if str(model) in PACKAGED else Path(model).resolve()
    items = [{"block": number * blocks // len(frames), "frame": frame} for number, frame in enumerate(frames)]
    out = Path(out).resolve()
    with hidden_folder(out) as tries:
        answers = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            _Worker, fn_constructor_args=(model, predictor.sensitivity, Path.cwd(), out, tries, *options),
            batch_size=None, batch_format="numpy", concurrency=min(workers, blocks), num_cpus=1,
        )  # fmt: skip
        try:
            for frame, answer in zip(frames, answers.iter_rows(), strict=True):
                if answer["stop"] or answer["row"]["file"] != str(frame.path):
                    told = answer["row"].get("file")
                    raise OSError(answer["stop"] or f"Expected Ray to answer for {frame.path}, found {told}")
                yield answer["row"], answer["line"]
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OSError(f"Expected Ray's workers to predict, found that they cannot ({reason})") from error


def _write_parquet(out):
    """Write the table once more, with types, for programs that read archives."""
    import pyarrow
    from pyarrow import compute, csv, parquet

    with (out / PREDICTIONS).open(encoding="utf-8") as table:
        columns = table.readline().strip().split(",")
    types = {name: pyarrow.float64() for name in columns} | {"lesion_px": pyarrow.int64(), "frame": pyarrow.int64()}
    types["regions"] = pyarrow.int64()
    types |= dict.fromkeys(("file", "label", "warning", "error"), pyarrow.string())
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
