import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from busseg.storage.files import read_csv
from busseg.training.parallel import Devices, all_devices, one_device
from busseg.training.recipe import Recipe

# What several devices could get wrong: batch normalisation, dropout, augmentation by place, the smaller last batch.
RECIPE = Recipe(
    image_size=32, width=4, depth=1, dropout=0.5, augmentation="card", epochs=3, batch_size=4, learning_rate=1e-2,
    warmup_epochs=1, seed=5,
)  # fmt: skip
# Trains as `busseg train` does, and keeps the last weights of its process: `python - DATA OUT RECIPE DEVICES [HOW]`.
TRAIN = """
import sys
import keras
import numpy as np
from busseg.data.readers.busi import find_samples
from busseg.data.splits import Split, grouped_splits
from busseg.training import fit as fitting
from busseg.training.parallel import all_devices, one_device
from busseg.training.recipe import load_recipe

data, out, recipe, count, *together = sys.argv[1:]
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(count))
recipe = load_recipe(recipe)
if together:
    together = (together[0], int(together[1]), int(together[2]))
devices = one_device() if count == "1" and not together else all_devices(recipe.batch_size, *together)

class Keeping(fitting.RunKeeper):
    def on_train_end(self, logs=None):
        np.savez(f"{out}.{devices.process}.npz", *self.model.get_weights())

fitting.RunKeeper = Keeping
split = grouped_splits(find_samples(data))[0]
# 18 images in batches of 4: two devices share the last two, and none is left out.
fitting.fit(recipe, Split(split.train[:18], split.validation, split.test), out, devices=devices)
"""
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX: pip install busseg[jax]")


def start(backend, *arguments, devices=1, log=None):
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    stream = log.open("w") if log else subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=environment, stdout=stream, stderr=subprocess.STDOUT, text=True
    )


def finish(process, timeout=600):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def free_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def weights(path):
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def assert_close(found, expected, atol):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    RECIPE.save(path)
    return path


# === JAX ===
@pytest.fixture(scope="module")
def jax_runs(phantom_folder, recipe, tmp_path_factory):
    """The folders of three runs: by one device, by two devices of one process, and by two processes."""
    folder = tmp_path_factory.mktemp("runs")
    address = free_address()
    calls = {"one": (1, ()), "devices": (2, ()), "processes": (1, (address, 2, 0)), "of 1": (1, (address, 2, 1))}
    started = []
    for name, (devices, together) in calls.items():
        out = folder / ("processes" if together else name)
        started.append(start("jax", "-c", TRAIN, phantom_folder, out, recipe, devices, *together, devices=devices))
        if not together:
            assert finish(started[-1])[0] == 0
    for process in started[2:]:
        status, output = finish(process)
        assert status == 0, output
    return folder


@needs_jax
@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(jax_runs):
    assert_close(weights(jax_runs / "processes.0.npz"), weights(jax_runs / "processes.1.npz"), atol=0)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("name", ["devices", "processes"])
def test_devices_together_end_with_the_weights_of_one_at_the_same_batch(jax_runs, name):
    one = weights(jax_runs / "one.0.npz")
    assert_close(weights(jax_runs / f"{name}.0.npz"), one, atol=1e-4)
    saved = keras.models.load_model(jax_runs / name / "checkpoints/0003.keras", compile=False).get_weights()
    assert_close(saved, weights(jax_runs / f"{name}.0.npz"), atol=0)
    begun = read_csv(jax_runs / name / "history.csv")[0]
    for column, value in read_csv(jax_runs / "one" / "history.csv")[0].items():
        # Of 5 images in batches of 4, Keras takes the parts of the loss for the mean of the two batches' means.
        if column not in ("val_mask_loss", "val_label_loss"):
            assert float(begun[column]) == pytest.approx(float(value), abs=1e-4), column


@needs_jax
@pytest.mark.slow
def test_parts_of_the_validation_loss_sum_up_where_batches_are_filled(jax_runs):
    for row in read_csv(jax_runs / "processes" / "history.csv"):
        parts = float(row["val_mask_loss"]) + float(row["val_label_loss"])
        assert parts == pytest.approx(float(row["val_loss"]), abs=1e-5)


@needs_jax
@pytest.mark.slow
def test_environment_has_the_devices_and_processes(jax_runs):
    found = {
        name: json.loads((jax_runs / name / "environment.json").read_text(encoding="utf-8"))
        for name in ("one", "devices", "processes")
    }
    assert {name: (len(one["devices"]), one["processes"]) for name, one in found.items()} == {
        "one": (1, 1), "devices": (2, 1), "processes": (2, 2),
    }  # fmt: skip


@needs_jax
@pytest.mark.slow
def test_run_of_which_a_process_was_killed_resumes_and_ends_as_one_that_was_not(
    jax_runs, phantom_folder, recipe, tmp_path, wait_for
):
    out = tmp_path / "run"
    splits = jax_runs / "processes/splits.csv"
    command = ["-m", "busseg.cli", "train", phantom_folder, "--out", out, "--recipe", recipe, "--splits", splits]

    def together(name):
        address = free_address()
        more = ["--coordinator", address, "--processes", 2, "--process"]
        return [
            start("jax", *command, "--resume", *more, number, log=tmp_path / f"{name}{number}") for number in (0, 1)
        ]

    first, second = together("killed")
    wait_for((out / "checkpoints/0001.keras").exists, first, tmp_path / "killed0")
    second.send_signal(signal.SIGKILL)
    assert first.wait(300) != 0  # JAX misses the other's heartbeat, and ends it
    second.wait(60)
    assert read_csv(out / "history.csv")[0]["epoch"] == "1"
    keras.models.load_model(out / "model.keras", compile=False)

    again = together("again")
    assert [process.wait(600) for process in again] == [0, 0], (tmp_path / "again0").read_text()
    assert f"The model is in {out / 'model.keras'}" in (tmp_path / "again0").read_text().splitlines()
    rows = read_csv(out / "history.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    whole = keras.models.load_model(jax_runs / "processes/model.keras", compile=False).get_weights()
    assert_close(keras.models.load_model(out / "model.keras", compile=False).get_weights(), whole, atol=1e-4)


CASES = """
from busseg.training.parallel import all_devices
for together in [("127.0.0.1:9", 8, 0), ("127.0.0.1", 2, 0), ("127.0.0.1:9", 2, 2), ("127.0.0.1:9", 2, None)]:
    try:
        all_devices(4, *together)
    except ValueError as error:
        print(error)
try:
    all_devices(3)
except ValueError as error:
    print(error)
"""


@needs_jax
def test_devices_and_processes_that_cannot_train_together_are_refused():
    status, output = finish(start("jax", "-c", CASES, devices=2))
    assert status == 0, output
    assert output.splitlines() == [
        "Expected at most as many processes as images a batch, 4, found 8",
        "Expected HOST:PORT of the coordinator, found '127.0.0.1'",
        "Expected the number of a process of 0 to 1, found 2",
        "Expected all of coordinator, processes and process, found only some",
        "Expected a batch size that 2 devices share evenly, found 3",
    ]


# === TensorFlow ===
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow")
def test_mirrored_devices_of_tensorflow_end_with_the_weights_of_one_where_nothing_is_normalised(
    phantom_folder, tmp_path
):
    recipe = tmp_path / "recipe.toml"
    Recipe(
        image_size=32, width=4, depth=1, dropout=0.0, normalization="none", epochs=2, batch_size=4, learning_rate=1e-2
    ).save(recipe)
    for count in (1, 2):
        status, output = finish(
            start("tensorflow", "-c", TRAIN, phantom_folder, tmp_path / f"run{count}", recipe, count)
        )
        assert status == 0, output
    assert_close(weights(tmp_path / "run2.0.npz"), weights(tmp_path / "run1.0.npz"), atol=1e-4)
    one, two = (read_csv(tmp_path / f"run{count}" / "history.csv") for count in (1, 2))
    assert [float(row["val_loss"]) for row in two] == pytest.approx([float(row["val_loss"]) for row in one], abs=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="what TensorFlow cannot")
def test_processes_are_refused_on_tensorflow():
    with pytest.raises(ValueError, match=r"^Expected JAX to train in several processes, found KERAS_"):
        all_devices(4, "127.0.0.1:9", 2, 0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the devices of this process are TensorFlow's")
def test_one_device_alone_shares_no_batches():
    if len(keras.distribution.list_devices()) > 1:
        pytest.skip("needs a machine of one device")
    with pytest.raises(ValueError, match=r"^Expected several devices to share batches, found one: [cg]pu:0$"):
        all_devices(4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the devices of this process are TensorFlow's")
def test_ordinary_training_is_by_one_device_that_keeps_the_run():
    devices = one_device()
    assert (len(devices.names), devices.shared, devices.keeps) == (1, False, True)
    assert not Devices(devices.names, True, 2, 1).keeps
