import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from busseg.storage import claims
from busseg.storage.claims import claim, claim_folder
from busseg.storage.files import HIDDEN, names_in, write_csv, write_text
from busseg.storage.run_folder import PREDICTION, RUN

OURS = dict.fromkeys(RUN.names)


@pytest.fixture
def hold():
    """Start processes that claim a place, by a line of code, and hold it until they are killed."""
    started = []

    def start(code, *arguments):
        modules = ("claims", "files", "run_folder")
        imports = "".join(f"from busseg.storage.{module} import *\n" for module in modules)
        script = f"import sys, time\n{imports}with {code}:\n    print()\n    time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-uc", script, *map(str, arguments)], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


# === Folders ===
def test_new_folder_is_made_with_its_parents(names, tmp_path):
    with claim_folder(str(tmp_path / "runs" / "one"), RUN) as folder:
        (folder / "a.txt").touch()
    assert folder == tmp_path / "runs" / "one"
    assert names(folder) == ["a.txt"]


def test_new_folder_that_stays_empty_is_removed(names, tmp_path):
    with pytest.raises(RuntimeError), claim_folder(tmp_path / "run", RUN):
        raise RuntimeError
    assert names(tmp_path) == []


def test_empty_folder_is_taken_and_stays(names, tmp_path):
    (tmp_path / ".DS_Store").touch()
    with claim_folder(tmp_path, RUN):
        pass
    assert names(tmp_path) == [".DS_Store"]


def test_folder_of_an_earlier_output_is_taken_as_it_is(names, tmp_path):
    write_text(tmp_path / RUN.marker, json.dumps(OURS))
    (tmp_path / "notes.txt").touch()
    with claim_folder(tmp_path, RUN):
        pass
    assert names(tmp_path) == [RUN.marker, "notes.txt"]


def test_folder_with_other_files_is_refused_and_untouched(names, tmp_path):
    (tmp_path / "thesis.tex").touch()
    found = rf"^Expected .*environment\.json, found other files: {re.escape(str(tmp_path))}$"
    with pytest.raises(FileExistsError, match=found), claim_folder(tmp_path, RUN):
        pass
    assert names(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("kind", "content"),
    [(RUN, '{"name": "conda"}'), (RUN, "{"), (PREDICTION, "file,label\na.png,benign\n"), (PREDICTION, "")],
)
def test_file_of_another_program_marks_nothing(tmp_path, kind, content):
    (tmp_path / kind.marker).write_text(content)
    found = rf"^Expected {kind.marker} as busseg writes it, found another file: .*{kind.marker}$"
    with pytest.raises(FileExistsError, match=found), claim_folder(tmp_path, kind):
        pass
    assert (tmp_path / kind.marker).read_text() == content


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("gone")])
def test_file_in_place_of_a_folder_is_refused(tmp_path, make):
    make(tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"^Expected a folder .*found a file: .*run$"):  # noqa: SIM117
        with claim_folder(tmp_path / "run", RUN):
            pass


def test_what_a_killed_process_left_is_cleared(names, tmp_path, hold):
    killed = hold("claim_folder(sys.argv[1], RUN) as out, replacing(out / 'deep' / 'a')", tmp_path)
    (tmp_path / "deep" / "b.png").touch()
    write_text(tmp_path / RUN.marker, json.dumps(OURS))
    killed.kill()
    killed.wait()
    assert [name[: len(HIDDEN)] for name in names(tmp_path / "deep")] == [HIDDEN, "b.png"]
    with claim_folder(tmp_path, RUN):
        assert names(tmp_path / "deep") == ["b.png"]
    assert names(tmp_path) == ["deep", RUN.marker]


# === Names ===
def is_table(path):
    return names_in(path) == ["file"]


@pytest.fixture
def table(tmp_path):
    write_csv(tmp_path / "a.csv", ["file"], [])
    return tmp_path / "a.csv"


def test_own_file_and_a_new_name_may_be_written(table, names):
    for path in (table, table.parent / "new" / "b.csv"):
        with claim(path, "a table", is_table) as claimed:
            write_csv(claimed, ["file"], [{"file": "a.png"}])
    assert names(table.parent) == ["a.csv", "new"]


def test_another_file_is_refused_unless_forced(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("name\n")
    found = r"^Expected .* a table of busseg to replace, found something else \(--force replaces it\): .*a\.csv$"
    with pytest.raises(FileExistsError, match=found), claim(path, "a table", is_table, force=False):
        pass
    assert path.read_text() == "name\n"
    with claim(path, "a table", is_table, force=True):
        write_csv(path, ["file"], [])
    assert path.read_text() == "file\n"


@pytest.mark.parametrize("force", [False, True])
def test_folder_in_place_of_a_file_is_refused_even_if_forced(tmp_path, force):
    with pytest.raises(FileExistsError, match=r"found a folder: "), claim(tmp_path, "a table", is_table, force):
        pass


@pytest.mark.skipif(os.name != "posix", reason="needs pipes with a name")
def test_pipe_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(FileExistsError), claim(tmp_path / "a.csv", "a table", is_table, force=True):
        pass


# === Two processes ===
HOLDERS = {
    "folder": "claim_folder(sys.argv[1], RUN)",
    "name": "claim(sys.argv[1], 'a table', bool)",
}
CLAIMS = {"folder": lambda path: claim_folder(path, RUN), "name": lambda path: claim(path, "a table", is_table)}


@pytest.mark.parametrize("what", HOLDERS)
def test_second_process_is_refused_until_the_first_ends(tmp_path, hold, monkeypatch, what):
    path = tmp_path / "a.csv"
    first = hold(HOLDERS[what], path)
    message = r"^Expected no other process that writes there, found one: .*a\.csv$"
    with monkeypatch.context() as hasty:
        hasty.setattr(claims, "PATIENCE_S", 0.1)
        with pytest.raises(BlockingIOError, match=message):  # noqa: SIM117
            with CLAIMS[what](path):
                pass
    first.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)  # the system drops what it held
    with CLAIMS[what](path):
        pass
    assert not list(tmp_path.rglob(f"{HIDDEN}*"))


def test_second_process_waits_for_one_that_is_about_to_end(tmp_path, hold):
    first = hold(HOLDERS["folder"], tmp_path)
    began = time.monotonic()
    subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.5); os.kill({first.pid}, 9)"])
    with claim_folder(tmp_path, RUN):
        assert time.monotonic() - began < 2


def test_a_process_may_claim_again_what_it_has(names, tmp_path):
    with claim_folder(tmp_path, RUN), claim_folder(tmp_path / ".." / tmp_path.name, RUN):
        pass
    assert names(tmp_path) == []


def test_names_beside_each_other_are_claimed_each(tmp_path, hold):
    hold(HOLDERS["name"], tmp_path / "a.csv")
    with claim(tmp_path / "b.csv", "a table", is_table):
        pass
