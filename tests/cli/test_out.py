"""Where the verbs may write: what a user has there is never lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import busseg.cli
from busseg.models.unet import build_unet
from busseg.storage import claims, run_folder
from busseg.storage.files import HIDDEN

pytestmark = pytest.mark.usefixtures("light")

# How to call each verb; the output is last.
VERBS = {
    "audit": "audit {data} --out",
    "split": "split {data} --out",
    "train": "train {data} --recipe {recipe} --out",
    "evaluate": "evaluate {model} {data} --out",
    "crossval": "crossval {data} --folds 2 --recipe {recipe} --out",
    "compare": "compare {scores} {scores} --out",
    "predict": "predict {data}/benign/1.png --model {model} --out",
    "review": "review {predictions} --out",
    "explain": "explain {data}/benign/1.png --model {model} --out",
    "export": "export {model} --out",
    "export onnx": "export {model} --format onnx --out",
    "export litert": "export {model} --format litert --out",
    "export openvino": "export {model} --format openvino --out",
    "demo": "demo --out",
    "download": "download busi",
}
MARKERS = {
    "audit": run_folder.AUDIT,
    "train": run_folder.RUN,
    "evaluate": run_folder.EVALUATION,
    "crossval": run_folder.CROSSVAL,
    "compare": run_folder.COMPARISON,
    "predict": run_folder.PREDICTION,
    "review": run_folder.REVIEW,
    "explain": run_folder.EXPLANATION,
    "demo": run_folder.DEMO,
}
SUFFIXES = {"export onnx": ".onnx", "export litert": ".tflite"}
AGAIN = ("audit", "evaluate", "compare", "predict", "review", "explain")  # those that a second call replaces


@pytest.fixture(scope="module")
def things(tmp_path_factory, light, noise):
    """What the verbs work with: a dataset of five images a class, a recipe, a model, its scores and predictions."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "recipe.toml").write_text("image_size = 32\nwidth = 4\ndepth = 1\nepochs = 1\n")
    build_unet(image_size=32, width=4, depth=1).save(folder / "model.keras")
    data = shutil.copytree(noise, folder / "data")
    things = {"data": data, "recipe": folder / "recipe.toml", "model": folder / "model.keras"}
    assert run(VERBS["evaluate"], things, folder / "scores") == 0
    assert run(VERBS["predict"], things, folder / "predictions") == 0
    return things | {"scores": folder / "scores", "predictions": folder / "predictions"}


def run(call, things, *out):
    """Call the command line in this process; return its exit status."""
    before, sys.argv = sys.argv, ["busseg", *call.format(**things).split(), *map(str, out)]
    try:
        busseg.cli.main()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def made(things, tmp_path_factory):
    """Function that puts what a verb has made into a folder; each verb makes it once."""
    folder = tmp_path_factory.mktemp("made")

    def put(verb, out):
        if not (folder / verb).exists():
            assert run(VERBS[verb], things, folder / verb) == 0
        shutil.copytree(folder / verb, out)

    return put


def content(folder):
    """Dict from the path of each file and folder to what it holds."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


def refused(verb, things, out, capfd):
    """The one line that the verb ends with, after which all that stands there is as it was."""
    before = content(out.parent)
    capfd.readouterr()
    assert run(VERBS[verb], things, out) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert content(out.parent) == before
    assert line.startswith("busseg: error: Expected ")
    assert str(out) in line
    return line


# === What is not busseg's ===
@pytest.mark.parametrize("verb", VERBS)
def test_folder_with_other_files_is_refused(things, tmp_path, capfd, verb):
    out = tmp_path / f"out{SUFFIXES.get(verb, '')}"
    for name in ("thesis.tex", "scans/1.png", "masks/1.png", "variables/a", "phantoms/benign/1.png", "saved_model.pb"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    refused(verb, things, out, capfd)


@pytest.mark.parametrize("verb", VERBS)
def test_dataset_itself_is_refused(things, tmp_path, capfd, verb):
    out = shutil.copytree(things["data"], tmp_path / f"data{SUFFIXES.get(verb, '')}")
    refused(verb, things | {"data": out}, out, capfd)


@pytest.mark.parametrize("verb", VERBS)
def test_other_file_is_refused(things, tmp_path, capfd, verb):
    out = tmp_path / f"out{SUFFIXES.get(verb, '')}"
    out.write_text("file,label,part\nmine,mine,mine\n")
    refused(verb, things, out, capfd)


@pytest.mark.parametrize("verb", MARKERS)
def test_other_file_with_the_name_of_a_marker_is_refused(things, tmp_path, capfd, verb):
    marker = tmp_path / "out" / MARKERS[verb].marker
    marker.parent.mkdir()
    marker.write_text('{"name": "mine"}' if marker.suffix == ".json" else "file,label\n1.png,mine\n")
    assert str(marker) in refused(verb, things, marker.parent, capfd)


@pytest.mark.parametrize("verb", ["split", "export onnx", pytest.param("export litert", marks=pytest.mark.slow)])
def test_other_file_is_replaced_if_forced_but_no_folder(things, with_graphs, tmp_path, capfd, verb):
    out = tmp_path / f"out{SUFFIXES.get(verb, '')}"
    out.write_text("mine")
    assert "--force replaces it" in refused(verb, things, out, capfd)
    forced = VERBS[verb].replace("--out", "--force --out")
    assert run(forced, things, out) == 0
    assert out.read_bytes() != b"mine"
    assert run(VERBS[verb], things, out) == 0  # now it is busseg's own
    out.unlink()
    (out / "mine").mkdir(parents=True)
    assert run(forced, things, out) == 2
    assert (out / "mine").is_dir()


# === What is busseg's ===
@pytest.mark.parametrize("verb", AGAIN)
def test_own_folder_is_taken_again_and_other_files_in_it_stay(things, made, tmp_path, verb):
    out = tmp_path / "out"
    made(verb, out)
    mine = [out / name for name in ("thesis.tex", "figures/mine.png", "scans/1.png", "masks.txt", ".hidden")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert run(VERBS[verb], things, out) == 0
    assert {path.read_text() for path in mine} == {"mine"}


@pytest.mark.parametrize(
    ("verb", "name"),
    [("predict", "1_mask.png"), ("predict", "1_overlay.png"), ("explain", "1_heat.npz"), ("explain", "1_occlusion.png"),
     ("evaluate", "masks/mine.png"), ("evaluate", "masks/deep/mine.txt")],
)  # fmt: skip
def test_other_file_where_a_result_would_be_is_refused(things, made, tmp_path, capfd, verb, name):
    out = tmp_path / "out"
    made(verb, out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    assert str(out / name) in refused(verb, things, out, capfd)


@pytest.mark.slow
def test_checkpoint_of_ones_own_survives_a_training(things, tmp_path):
    out = tmp_path / "run"
    assert run(VERBS["train"], things, out) == 0
    mine = out / "checkpoints" / "mine.keras"
    mine.write_text("mine")
    (out / "recipe.toml").write_text((out / "recipe.toml").read_text().replace("epochs = 1", "epochs = 2"))
    assert run("train {data} --resume --out", things, out) == 0
    assert sorted(path.name for path in mine.parent.iterdir()) == ["0002.keras", "mine.keras"]
    assert mine.read_text() == "mine"


# === Two processes ===
@pytest.fixture
def occupied():
    """Start a process that writes to a place until the test ends."""
    started = []

    def occupy(out, claim):
        imports = "import sys, time\nfrom busseg.storage.claims import *\nfrom busseg.storage.run_folder import Kind"
        code = f"{imports}\nwith {claim}:\n    print()\n    time.sleep(60)"
        started.append(subprocess.Popen([sys.executable, "-uc", code, out], stdout=subprocess.PIPE))
        assert started[-1].stdout.readline()

    yield occupy
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("verb", VERBS)
def test_second_process_is_refused(things, tmp_path, capfd, occupied, monkeypatch, verb):
    monkeypatch.setattr(claims, "PATIENCE_S", 0.1)
    out = tmp_path / f"out{SUFFIXES.get(verb, '')}"
    kind = MARKERS.get(verb)
    occupied(out, f"claim_folder(sys.argv[1], {kind!r})" if kind else "claim(sys.argv[1], 'a', bool)")
    assert "found one" in refused(verb, things, out, capfd)


# === Places that cannot be written ===
@pytest.mark.parametrize("verb", VERBS)
def test_place_under_a_file_is_one_line(things, tmp_path, capfd, verb):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / f"out{SUFFIXES.get(verb, '')}"
    capfd.readouterr()
    assert run(VERBS[verb], things, out) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert content(tmp_path) == {tmp_path / "file": b"mine"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where no one can write")
@pytest.mark.parametrize("verb", VERBS)
def test_read_only_place_is_one_line(things, capfd, verb):
    capfd.readouterr()
    assert run(VERBS[verb], things, f"/proc/busseg/out{SUFFIXES.get(verb, '')}") == 2
    [line] = capfd.readouterr().err.splitlines()
    assert "/proc/busseg" in line


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_NOFILE")
def test_64_file_descriptors_are_enough_to_predict(tmp_path, phantom_folder):
    code = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\nfrom busseg.cli import main\nmain()"
    call = [sys.executable, "-c", code, "predict", phantom_folder, "--model", "small", "--out", tmp_path / "out"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 31
    assert not list((tmp_path / "out").rglob(f"{HIDDEN}*"))
