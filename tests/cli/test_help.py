import re

import pytest

import busseg.cli

VERBS = (
    "app",
    "audit",
    "calibrate",
    "compare",
    "convert",
    "crossval",
    "demo",
    "dicomweb",
    "download",
    "evaluate",
    "explain",
    "export",
    "listen",
    "predict",
    "release",
    "review",
    "split",
    "train",
)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(call, verb):
    done = call(verb, "--help")
    assert (done.status, done.err) == (0, "")
    assert re.search(rf"Example: busseg {verb}\b", done.out)
    assert call(verb, "-h").out == done.out


def test_help_lists_every_verb(call):
    done = call("--help")
    assert set(re.findall(r"^[│ ]+(\w+)  ", done.out, re.MULTILINE)) >= set(VERBS)
    assert {command.name or command.callback.__name__ for command in busseg.cli.app.registered_commands} == set(VERBS)


def test_help_of_every_verb_and_of_the_package_loads_no_framework(call_apart):
    code = (
        "import sys, busseg\n"
        "from busseg.cli import main\n"
        f"for verb in {['', *VERBS]}:\n"
        "    sys.argv = ['busseg', *verb.split(), '--help']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "print('loaded:', sorted({'keras', 'tensorflow', 'cv2', 'sklearn', 'matplotlib'} & sys.modules.keys()))"
    )
    done = call_apart(code=code)
    assert done.out.endswith("loaded: []\n")
    assert done.out.count("Usage:") == len(VERBS) + 1


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["train"], ["train", "data"], ["split", "data", "--folds", "1"], ["predict", "a.png", "--fast"]],
)
def test_wrong_use_ends_with_2_and_tells_how(call, arguments):
    done = call(*arguments)
    assert done.status == 2
    assert done.err.startswith("Usage: ")
    assert done.out == ""
