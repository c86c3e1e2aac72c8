import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # the benchmarks are run from the clone's root
kills = import_module("benchmarks.kills")


@pytest.mark.parametrize(
    ("name", "content", "whole"),
    [
        ("a.csv", b"file,label\na.png,benign\n", True),
        ("a.csv", b"file,label\na.png,ben", False),
        ("a.csv", b"file,label\na.png\n", False),
        ("a.json", b'{"a": 1}\n', True),
        ("a.json", b'{"a": ', False),
        ("a.jsonl", b'{"a": 1}\n{"a"', False),
        ("a.png", b"\x89PNG\r\n\x1a\n", False),
        ("a.keras", b"PK", False),
        ("a.toml", b"a = ", False),
        ("a.html", b"<html>", False),
    ],
)
def test_half_files_are_seen(tmp_path, name, content, whole):
    (tmp_path / name).write_bytes(content)
    assert kills.is_whole(tmp_path / name) == whole


def test_outputs_that_differ_are_seen(tmp_path):
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").write_text("a\n")
    assert kills.equal(tmp_path / "one", tmp_path / "other", [])
    (tmp_path / "one" / "a.csv").write_text("b\n")
    assert not kills.equal(tmp_path / "one", tmp_path / "other", [])
    (tmp_path / "one" / "a.csv").unlink()
    assert not kills.equal(tmp_path / "one", tmp_path / "other", [])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kills_lose_nothing_and_leave_nothing_half_written():
    # In a process of its own, for it forks, and TensorFlow must not have computed before.
    code = "import json\nfrom benchmarks.kills import measure\nprint(json.dumps(measure(kills=20, seed=2)))"
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    assert sum(row["kills"] for row in rows) >= 20
    assert {(row["verb"], name) for row in rows for name in kills.WRONG if row[name]} == set()
