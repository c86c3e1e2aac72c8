import shutil
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

import busseg.cli
from busseg.data.sample import CLASSES
from busseg.imaging.images import read_image, write_image


class Done(NamedTuple):
    """How a call of the command line ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capfd):
    """Call the command line in this process; what it writes is caught below Python, as a terminal would see it."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["busseg", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            busseg.cli.main()
        return Done(stop.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def call_apart():
    """Call the command line in a process of its own, by a line of code if it shall begin otherwise."""

    def run(*arguments, code="from busseg.cli import main; main()"):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def fails(call, names):
    """Function that calls, and asserts one line of error with status 2, and no new file in the folder but `new`.

    It returns the line.
    """

    def run(folder, *arguments, new=()):
        before = names(folder)
        done = call(*arguments)
        assert done.status == 2, done
        (line,) = done.err.splitlines()
        assert line.startswith("busseg: error: ")
        assert "Traceback" not in done.out
        assert names(folder) - before <= set(new)
        assert before <= names(folder)
        return line

    return run


@pytest.fixture(scope="session")
def names():
    """Function that returns the set of paths in a folder."""
    return lambda folder: {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def noise(once):
    """A folder shaped like BUSI, five small images of noise a class, to be read or copied."""

    def write(folder):
        random = np.random.default_rng(0)
        for label in CLASSES:
            for number in range(5):
                image = random.integers(0, 256, (24, 32), np.uint8)
                write_image(folder / f"{label}/{number}.png", image)
                write_image(folder / f"{label}/{number}_mask.png", (image > 200) * np.uint8(255))

    return once("noise", write)


@pytest.fixture
def dataset(tmp_path, noise):
    """A folder shaped like BUSI, five small images a class."""
    return shutil.copytree(noise, tmp_path / "data")


@pytest.fixture
def two(dataset):
    """Two folders of five images a class, the second a copy of the first with other grey values."""
    other = dataset.with_name("other")
    for path in dataset.rglob("*.png"):
        pixels = read_image(path)
        write_image(other / path.relative_to(dataset), pixels if "_mask" in path.name else 255 - pixels)
    return dataset, other


@pytest.fixture
def recipe(tmp_path):
    """The path of a recipe that trains a tiny network for one epoch."""
    (tmp_path / "recipe.toml").write_text("image_size = 32\nwidth = 4\ndepth = 1\nepochs = 1\n")
    return tmp_path / "recipe.toml"
