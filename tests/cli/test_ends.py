import os
import sys
from contextlib import contextmanager

import pytest

import busseg.cli

pytestmark = pytest.mark.usefixtures("light")


# === An extra is missing ===
def test_page_without_gradio_says_what_to_install(call, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("busseg.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = call("app")
    assert (done.status, done.out) == (2, "")
    assert done.err == 'busseg: error: Expected Gradio, found it not installed: pip install "busseg[app]"\n'


# === The disk is full ===
@contextmanager
def files_of_at_most(size):
    """A block in which this process may write no larger file, as on a full disk. Its prints go to a file, too."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# In a process of its own, whose prints go to a pipe: the limit is smaller than they are.
FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
from busseg.cli import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
def test_full_disk_ends_a_prediction_and_leaves_no_half_file(dataset, call_apart, names, tmp_path):
    before, out = names(tmp_path), tmp_path / "out"
    done = call_apart("predict", dataset, "--model", "small", "--out", out, code=FULL)
    assert done.status == 2
    assert done.err.splitlines() == [f"busseg: error: File too large: {out / 'predictions.csv'}"]
    assert names(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize(("verb", "name"), [("split", ""), ("audit", "audit.json")])
def test_full_disk_is_an_error_and_leaves_no_half_file(dataset, call, names, tmp_path, verb, name):
    before, out = names(tmp_path), tmp_path / "out"
    with files_of_at_most(500):
        done = call(verb, dataset, "--out", out)
    assert done.status == 2
    assert done.err.splitlines() == [f"busseg: error: File too large: {out / name}"]
    assert names(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
def test_full_disk_ends_a_training_and_leaves_no_half_model(call, dataset, recipe, names, tmp_path):
    before, out = names(tmp_path), tmp_path / "out"
    with files_of_at_most(10_000):
        done = call("train", dataset, "--recipe", recipe, "--out", out)
    assert done.status == 2
    assert done.err.splitlines() == [f"busseg: error: File too large: {out / 'model.keras'}"]
    logs = {path for path in names(tmp_path) if path.startswith("out/logs")}
    left = {"out", "out/recipe.toml", "out/splits.csv", "out/environment.json"}
    assert names(tmp_path) - before - logs == left


# === Ctrl-C ===
# Comes when the splits file is opened, in the middle of the work. A background shell would have SIGINT ignored.
STOPPED = """
import os, signal, sys
os.environ["KERAS_BACKEND"] = "numpy"  # which starts in a quarter of the time
signal.signal(signal.SIGINT, signal.default_int_handler)

def stop(event, arguments):
    if event == "open" and str(arguments[0]).endswith("splits.csv"):
        signal.raise_signal(signal.SIGINT)

sys.addaudithook(stop)
from busseg.cli import main
main()
"""


def test_stop_by_the_user_ends_with_130(dataset, call_apart, tmp_path):
    (tmp_path / "splits.csv").touch()
    done = call_apart("train", dataset, "--splits", tmp_path / "splits.csv", "--out", tmp_path / "run", code=STOPPED)
    assert (done.status, done.err.splitlines()[-1], done.out) == (130, "busseg: stopped", "")
    assert not (tmp_path / "run").exists()


def test_traceback_is_shown_to_who_asks_for_it(monkeypatch, tmp_path):
    monkeypatch.setenv("BUSSEG_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["busseg", "split", str(tmp_path / "gone")])
    with pytest.raises(FileNotFoundError):
        busseg.cli.main()
