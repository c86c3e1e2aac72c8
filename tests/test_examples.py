import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9]*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One working folder for all: the later examples take the model that the first one leaves."""
    return tmp_path_factory.mktemp("examples")


def test_every_example_is_found():
    assert [example.name[:2] for example in EXAMPLES] == ["01", "02", "03", "04", "05"]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=[example.stem for example in EXAMPLES])
def test_example_runs_alone(folder, example):
    done = subprocess.run(
        [sys.executable, example], cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "example.keras").is_file()
