import io
import sys

import pytest

from busseg.storage import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Function that makes streams terminals; it returns `(stdout, stderr)`."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def make(stdout=Terminal, stderr=Terminal):
        streams = stdout(), stderr()
        for name, stream in zip(("stdout", "stderr"), streams):
            monkeypatch.setattr(sys, name, stream)
        return streams

    return make


def test_things_are_passed_on_with_a_bar_on_stderr_alone(terminal):
    out, err = terminal()
    assert list(progress.track("abc", "Reading")) == ["a", "b", "c"]
    assert out.getvalue() == ""
    assert "Reading" in err.getvalue()
    assert "100%" in err.getvalue()


@pytest.mark.parametrize("shown", [True, False])
def test_no_bar_is_drawn_into_a_file_or_where_none_is_wanted(terminal, shown):
    out, err = terminal(stderr=io.StringIO if shown else Terminal)
    assert list(progress.track("abc", "Reading", shown=shown)) == ["a", "b", "c"]
    assert (out.getvalue(), err.getvalue()) == ("", "")


def test_results_go_to_stdout_though_a_bar_is_on_the_terminal(terminal):
    out, err = terminal(stdout=io.StringIO)
    for thing in progress.track("ab", "Reading"):
        print(thing)
    assert out.getvalue() == "a\nb\n"
    assert "Reading" in err.getvalue()


def test_bar_ends_with_an_interrupt(terminal):
    _, err = terminal()

    def interrupted():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(progress.track(interrupted(), "Reading"))
    assert err.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_note_is_a_line_on_stderr(capfd):
    progress.note("fold 0 is done")
    assert capfd.readouterr() == ("", "fold 0 is done\n")
