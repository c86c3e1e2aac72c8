import os
import subprocess
import sys

import pytest

from busseg.cli import program
from busseg.data.phantom import draw_phantom
from busseg.imaging.images import write_image
from busseg.storage.files import read_csv


def predict(folder, out, **environment):
    """Start `busseg predict` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "busseg.cli", "predict", folder, "--model", "small", "--out", out],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


def put(folder, *names):
    """Write a phantom under names of any kind."""
    image, _ = draw_phantom("benign", seed=1)
    for name in names:
        write_image(folder / "a.png", image)
        os.rename(folder / "a.png", os.path.join(os.fsencode(folder), name))  # noqa: PTH104, PTH118 - of bytes


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
def test_what_the_code_page_lacks_ends_no_run(tmp_path, encoding):
    put(tmp_path / "scans", "病例.png".encode(), "größer ².png".encode())
    process = predict(tmp_path / "scans", tmp_path / "out", PYTHONIOENCODING=encoding)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    lines = out.decode(encoding).splitlines()
    assert len([line for line in lines if ".png: " in line]) == 2
    assert any("\\u75c5\\u4f8b.png: " in line for line in lines) == (encoding != "gbk")


def test_names_do_not_drive_the_terminal(tmp_path):
    names = [b"\x1b[2J\x1b]0;owned\x07.png", b"two\nlines.png", b"\xc8\xe9.png", "gnp.\u202e.png".encode()]
    put(tmp_path / "scans", *names)
    (tmp_path / "scans" / "\x1b[31mbroken\r.png").write_text("no image")
    process = predict(tmp_path / "scans", tmp_path / "out")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    out, err = out.decode("utf-8"), err.decode("utf-8")
    assert not set("\x1b\x07\r\u202e") & set(out + err)
    for name in ("\\x1b[2J\\x1b]0;owned\\x07.png: ", "two\\nlines.png: ", "\\udcc8\\udce9.png: ", "gnp.\\u202e.png: "):
        assert name in out
    assert err.splitlines()[0].endswith("\\x1b[31mbroken\\r.png")
    assert len(err.splitlines()) == 2


def test_reader_that_leaves_ends_no_run_and_nothing_is_said_of_it(tmp_path):
    put(tmp_path / "scans", *(f"{number}.png".encode() for number in range(30)))
    process = predict(tmp_path / "scans", tmp_path / "out", PYTHONUNBUFFERED="1")
    process.stdout.readline()  # as `head -1`
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert len(read_csv(tmp_path / "out/predictions.csv")) == 30


class ResourceExhaustedError(Exception):
    """TensorFlow's is named so."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor with shape[64,512,512,64]\nand a long trace"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_too_little_memory_is_one_line(monkeypatch, capfd, error):
    def fail():
        raise error

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(SystemExit) as stop:
        program.main()
    assert stop.value.code == 2
    line = "busseg: error: Expected more memory, found too little; a smaller image_size or batch_size takes less\n"
    assert capfd.readouterr().err == line


def test_fault_of_busseg_itself_shows_its_trace(monkeypatch):
    def fail():
        raise KeyError("a fault")

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(KeyError):
        program.main()
