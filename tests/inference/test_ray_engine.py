import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.data.task import Task
from busseg.imaging.images import write_image
from busseg.inference import ray_engine
from busseg.inference.batch import predict_files
from busseg.inference.inputs import find_inputs
from busseg.inference.predictor import Predictor
from busseg.inference.ray_engine import predict_files_on_ray
from busseg.inference.records import fields
from busseg.storage.files import read_csv, write_csv

pytest.importorskip("ray", reason="needs Ray: pip install busseg[ray]")
MODEL = "small"


@pytest.fixture(scope="module")
def predictor():
    return Predictor(MODEL)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine, of two workers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    yield ray
    ray.shutdown()


def draw_archive(folder, phantoms, broken):
    """Small phantoms in two folders, with files among them that are no images."""
    for number in range(phantoms):
        image, _ = draw_phantom(CLASSES[number % 3], number, height=64, width=80)
        write_image(folder / f"{number % 2}/{number:05}.png", image)
    for number in range(broken):
        (folder / f"{number % 2}/{number * phantoms // broken:05}-broken.png").write_bytes(b"\x89PNG" * number)
    return find_inputs([folder])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return draw_archive(tmp_path_factory.mktemp("archive"), phantoms=38, broken=2)


def rounded(value):
    """A column's value, where it is a fraction as a number that allows for the last of its six digits."""
    return pytest.approx(float(value), abs=2.1e-6) if "." in str(value)[:3] else value


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# === A worker, without Ray ===
@pytest.fixture
def worker(tmp_path):
    """An engine for `predict_files`: one of Ray's workers in this process. It gets a block of all frames."""
    (tmp_path / "tries").mkdir()

    def predict(predictor, frames, output):
        answer = ray_engine._Worker(MODEL, {}, Path.cwd(), tmp_path / "tries", output)(
            {"block": [7], "frame": list(frames)}
        )
        if any(answer["stop"]):
            raise OSError(*answer["stop"])
        yield from zip(answer["row"], answer["line"], strict=True)

    return predict


def test_worker_writes_what_threads_would(archive, predictor, worker, tmp_path):
    expected = [*predict_files(predictor, archive, tmp_path / "threads", json_lines=True)]
    rows = [*predict_files(predictor, archive, tmp_path / "worker", json_lines=True, engine=worker)]
    assert rows == expected
    assert contents(tmp_path / "worker") == contents(tmp_path / "threads")
    assert sum(row["error"] != "" for row in rows) == 2


def test_block_of_which_three_workers_died_is_not_tried_again(archive, predictor, worker, tmp_path):
    (tmp_path / "tries/7").write_bytes(b"..")  # by workers that died
    third, fourth = ([*predict_files(predictor, archive, tmp_path / "out", engine=worker)] for _ in range(2))
    assert sum(row["error"] != "" for row in third) == 2
    assert [row["file"] for row in fourth] == [str(path) for path in archive]
    assert all("3 workers died of this file" in row["error"] for row in fourth)


def test_worker_says_which_folder_cannot_be_written(archive, predictor, worker, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/0").touch()  # where a folder of masks must be
    (tmp_path / "out/predictions.csv").write_text("file,label,warning,error\n")
    with pytest.raises(OSError, match=r": .*/out/0"):
        list(predict_files(predictor, archive, tmp_path / "out", engine=worker))


# === Ray ===
@pytest.mark.slow  # Ray takes seconds to start
def test_workers_write_what_this_process_would_and_parquet(archive, predictor, cluster, tmp_path):
    from pyarrow import parquet

    expected = [*predict_files(predictor, archive, tmp_path / "threads", json_lines=True)]
    rows = [*predict_files_on_ray(MODEL, predictor, archive, tmp_path / "ray", json_lines=True)]
    # Another number of images at once lets the network add in another order.
    assert [[*map(rounded, row.values())] for row in rows] == [[*map(rounded, row.values())] for row in expected]
    assert read_csv(tmp_path / "ray/predictions.csv") == [{key: str(value) for key, value in r.items()} for r in rows]
    found, wanted = contents(tmp_path / "ray"), contents(tmp_path / "threads")
    assert found.keys() == wanted.keys() | {"predictions.parquet"}
    assert all(found[name] == wanted[name] for name in wanted if name.endswith("_mask.png"))
    assert found["predictions.jsonl"].count(b"\n") == len(archive)

    table = parquet.read_table(tmp_path / "ray/predictions.parquet")
    kinds = {name: str(table.schema.field(name).type) for name in ("file", "p_benign", "lesion_px", "error")}
    assert kinds == {"file": "string", "p_benign": "double", "lesion_px": "int64", "error": "string"}
    for typed, row in zip(table.to_pylist(), rows, strict=True):
        assert typed["file"] == row["file"]
        assert typed["error"] == (row["error"] or None)
        assert typed["p_benign"] == (float(row["p_benign"]) if row["p_benign"] else None)
    assert sum(row["error"] != "" for row in rows) == 2


@pytest.mark.parametrize("name", ["=1+2.png", "'=1.png", "''=1.png", "a.png", "\r.png"])
def test_parquet_has_names_as_they_are_and_no_apostrophes(tmp_path, name):
    from pyarrow import parquet

    columns = fields(Task.ULTRASOUND)
    values = {"file": name, "p_benign": "-1", "sop_instance_uid": "1.2"}
    write_csv(tmp_path / "predictions.csv", columns, [dict.fromkeys(columns, "") | values])
    ray_engine._write_parquet(tmp_path)
    (row,) = parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert (row["file"], row["p_benign"], row["sop_instance_uid"]) == (name, -1.0, "1.2")


@pytest.mark.slow
def test_finished_frames_are_not_predicted_again(archive, predictor, cluster, tmp_path):
    first = [*predict_files_on_ray(MODEL, predictor, archive, tmp_path)]
    rows = read_csv(tmp_path / "predictions.csv")
    masks = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*_mask.png")}
    write_csv(tmp_path / "predictions.csv", list(rows[0]), rows[:30])  # as a kill leaves it
    first_mask = next(path for path in sorted(masks) if "00000" in path.name)
    first_mask.unlink()
    again = [*predict_files_on_ray(MODEL, predictor, archive, tmp_path, resume=True)]
    assert [row["file"] for row in again] == [row["file"] for row in first]
    kept = {path.name for path, written in masks.items() if path.stat().st_mtime_ns == written}
    done = {f"{Path(row['file']).stem}_mask.png" for row in rows[:30] if not row["error"]}
    assert kept == done - {first_mask.name}
    assert len(read_csv(tmp_path / "predictions.csv")) == len(archive)


@pytest.mark.slow
def test_file_that_kills_its_workers_does_not_stop_the_others(archive, predictor, cluster, tmp_path, monkeypatch):
    """The worker of this test dies of one file; Ray sends the class, so that it need not be in the package."""
    deadly = [*archive][17]

    class Mortal(ray_engine._Worker):
        def _predict(self, frames, tries):
            results = super()._predict(frames, tries)
            if any(frame.path == deadly for frame in frames) and tries.stat().st_size <= 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return results

    monkeypatch.setattr(ray_engine, "_Worker", Mortal)
    rows = [*predict_files_on_ray(MODEL, predictor, archive, tmp_path)]
    assert [row["file"] for row in rows] == [str(path) for path in archive]
    lost = [row["file"] for row in rows if "workers died" in row["error"]]
    assert str(deadly) in lost
    assert len(lost) <= 5  # its block: 40 files, 4 blocks a worker


@pytest.mark.slow
def test_folder_that_cannot_be_written_stops_all(archive, predictor, cluster, tmp_path):
    (tmp_path / "0").touch()  # where a folder of masks must be
    (tmp_path / "predictions.csv").write_text("file,label,warning,error\n")
    with pytest.raises(OSError, match=r"/0"):
        list(predict_files_on_ray(MODEL, predictor, archive, tmp_path))
    assert not (tmp_path / "predictions.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--engine", "spark"], {}, "busseg: error: Expected an engine of threads, ray, found 'spark'"),
        (
            ["--engine", "ray"],
            {"RAY_ADDRESS": "127.0.0.1:1"},
            "Expected a Ray cluster at RAY_ADDRESS, found none ([Errno 111] Connection refused): 127.0.0.1:1",
        ),
        (["--engine", "ray"], {"HIDE": "ray"}, 'Expected Ray, found it not installed: pip install "busseg[ray]"'),
    ],
)
def test_wrong_use_is_one_line(archive, tmp_path, arguments, environment, expected):
    code = (
        "import os, sys\n"
        "if 'HIDE' in os.environ: sys.modules[os.environ['HIDE']] = None\n"
        "from busseg.cli import main; main()"
    )
    path = str(next(iter(archive)))
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", path, "--model", MODEL, "--out", tmp_path / "out", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(expected)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# === An archive ===
def workers_of(process):
    """Ids of the processes of Ray that predict and that descend from this one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except (OSError, ValueError):
            continue  # it has ended

    def descends(one):
        while one in parents and one != process:
            one = parents[one]
        return one == process

    return [one for one, name in names.items() if name.startswith("ray::MapWorker") and descends(one)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker to kill in /proc")
def test_archive_of_which_a_worker_is_killed_in_the_middle_has_a_row_for_every_image(predictor, cluster, tmp_path):
    inputs = draw_archive(tmp_path / "archive", phantoms=5000, broken=20)
    out = tmp_path / "out"
    rows, begun, first = [], time.perf_counter(), None
    for row in predict_files_on_ray(MODEL, predictor, inputs, out):
        rows.append(row)
        first = first or time.perf_counter()
        if len(rows) == 2000:
            workers = workers_of(os.getpid())
            assert len(workers) == 2
            os.kill(workers[0], signal.SIGKILL)
    ended = time.perf_counter()
    assert Counter(row["file"] for row in rows) == Counter(map(str, inputs))
    assert read_csv(out / "predictions.csv") == [{key: str(value) for key, value in row.items()} for row in rows]
    assert sum(row["error"] != "" for row in rows) == 20
    assert len(list(out.rglob("*_mask.png"))) == 5000

    print(f"Ray: {ended - begun:.1f} s, {len(rows) / (ended - first):.0f} images/s after the first")
    begun = time.perf_counter()
    expected = [*predict_files(predictor, inputs, tmp_path / "threads")]
    ended = time.perf_counter()
    print(f"threads: {ended - begun:.1f} s, {len(rows) / (ended - begun):.0f} images/s")
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
