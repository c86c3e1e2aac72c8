import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from busseg.data.splits import Split
from busseg.storage.files import read_csv, write_csv
from busseg.training import fit as fitting
from busseg.training.fit import fit
from busseg.training.run import RunKeeper


@pytest.fixture(scope="session")
def assert_same_run(state_of):
    """Function that asserts that two folders hold the same history, model and last checkpoint, to the last bit."""

    def check(out, expected):
        assert read_csv(out / "history.csv") == read_csv(expected / "history.csv")
        last = f"checkpoints/{len(read_csv(out / 'history.csv')):04d}.keras"
        for name in ("model.keras", last):
            for (path, found), (_, wanted) in zip(state_of(out / name), state_of(expected / name), strict=True):
                np.testing.assert_array_equal(found, wanted, err_msg=f"{name}: {path}")

    return check


@pytest.mark.slow
def test_killed_run_ends_as_one_that_was_not(
    run, split, phantom_folder, full_recipe, assert_same_run, tmp_path, wait_for
):
    """A real kill, in another process: nothing there can tidy up."""
    whole, _ = run
    out, recipe = tmp_path / "run", tmp_path / "mine.toml"
    full_recipe.save(recipe)
    command = [sys.executable, "-m", "busseg.cli", "train", str(phantom_folder), "--out", str(out), "--recipe", recipe]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        wait_for((out / "checkpoints/0001.keras").exists, process, tmp_path / "log")
        time.sleep(0.1)  # into the second epoch
        process.send_signal(signal.SIGKILL)
    done = len(read_csv(out / "history.csv"))
    assert 1 <= done < full_recipe.epochs

    fit(full_recipe, split, out, resume=True)

    assert_same_run(out, whole)


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the folder of `run`, for `fit` writes a lock into the folder that it is given."""
    return shutil.copytree(run[0], tmp_path / "copied")


@pytest.fixture
def fit_interrupted(split, monkeypatch):
    """`fit`, interrupted in the middle of the epoch after so many."""

    def fit_for(epochs, recipe, out):
        class Interrupted(RunKeeper):
            def on_train_batch_end(self, batch, logs=None):
                if len(self.history) == epochs and batch == 1:
                    raise KeyboardInterrupt

        monkeypatch.setattr(fitting, "RunKeeper", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, split, out)
        monkeypatch.undo()

    return fit_for


def test_interrupted_run_ends_as_one_that_was_not_with_any_leftovers(
    run, split, full_recipe, run_files, files_of, assert_same_run, tmp_path, fit_interrupted
):
    (whole, expected), out = run, tmp_path / "run"
    fit_interrupted(2, full_recipe, out)
    assert files_of(out) == run_files | {"checkpoints/0002.keras"}
    # A kill after the history was written, and one before the checkpoint of the epoch before was removed.
    rows = read_csv(out / "history.csv")
    write_csv(out / "history.csv", list(rows[0]), [*rows, dict.fromkeys(rows[0], 0) | {"epoch": 3}])
    shutil.copy(out / "checkpoints/0002.keras", out / "checkpoints/0001.keras")

    history = fit(full_recipe, split, out, resume=True)

    assert_same_run(out, whole)
    assert history == expected
    assert files_of(out) == run_files | {"checkpoints/0004.keras"}


@pytest.mark.slow
def test_optimizer_resumes_its_state_in_half_precision_too(split, full_recipe, precisions, tmp_path, fit_interrupted):
    # The optimizer that scales the loss has a state of its own, and knows the epochs only from its count of steps.
    recipe = dataclasses.replace(full_recipe, precision="mixed_float16", epochs=2, warmup_epochs=0)
    fit_interrupted(1, recipe, tmp_path)
    history = fit(recipe, split, tmp_path, resume=True)
    assert precisions(tmp_path / "checkpoints/0002.keras") == {"float16", "float32"}
    assert precisions(tmp_path / "model.keras") == {"float32"}
    expected = [full_recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / 2)) for epoch in (1, 2)]
    assert [row["learning_rate"] for row in history] == pytest.approx(expected, abs=1e-9)


def test_finished_run_is_left_as_it_is(run, copied, split, full_recipe):
    out, history = copied, run[1]

    def contents():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}

    before = contents()
    assert fit(full_recipe, split, out, fold=3, resume=True) == history
    assert contents() == before


# === Refused ===
def test_another_run_in_the_folder_is_refused(copied, split, full_recipe):
    with pytest.raises(FileExistsError, match=r"^Expected a new folder, found another run; resume continues it: "):
        fit(full_recipe, split, copied)


def test_resuming_with_another_recipe_is_refused(copied, split, full_recipe):
    with pytest.raises(ValueError, match=r"^Expected the recipe of the run to resume, found another: .*recipe\.toml$"):
        fit(dataclasses.replace(full_recipe, epochs=5), split, copied, resume=True)


def test_resuming_with_another_split_is_refused(copied, split, full_recipe):
    other = Split(split.train, split.test, split.validation)
    with pytest.raises(ValueError, match=r"^Expected the split of the run to resume, found another: .*splits\.csv$"):
        fit(full_recipe, other, copied, resume=True)
