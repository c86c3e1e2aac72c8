"""The rooms of busseg: who may import whom, and what each may load. Reads the sources, imports nothing of them."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "busseg"
MAX_LINES = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
FRAMEWORKS = {"keras", "tensorflow", "torch", "jax"}
HEAVY = {*FRAMEWORKS, "albumentations", "cv2"}

# What each room may import beside itself.
FILES = {"storage", "imaging", "data"}
MAY_IMPORT = {
    "storage": set(),
    "imaging": {"storage"},
    "data": {"storage", "imaging"},
    "models": set(),
    "training": {*FILES, "models"},
    "inference": FILES,
    "evaluation": {*FILES, "inference"},
    "explain": {*FILES, "models", "inference"},
    "export": {*FILES, "models", "inference"},
    "experiments": {*FILES, "models", "training", "inference", "evaluation", "export"},
    "app": {*FILES, "inference", "explain"},
    "pacs": {*FILES, "inference"},
}
MAY_IMPORT |= {"": set(), "cli": set(MAY_IMPORT)}
# Packages that a room's files may not import, not even inside a function.
MAY_NOT_NAME = {
    **dict.fromkeys(("storage", "imaging", "data", "evaluation"), FRAMEWORKS),
    "models": FRAMEWORKS - {"keras"},
}
# Packages that may come along when a file of these rooms is loaded.
MAY_LOAD = {"": set(), "cli": {"typer", "rich"}, "models": {"keras", "numpy"}}
WITHOUT_KERAS = ("storage", "imaging", "data", "evaluation", "inference", "pacs")


@dataclass
class Module:
    """What one file imports, as dotted names: `always` when it is loaded, `running` also inside its functions, and
    `ever` also for types alone.
    """

    name: str
    lines: int
    always: set[str]
    running: set[str]
    ever: set[str]

    @property
    def room(self):
        part = (*self.name.split("."), "")[1]
        return "cli" if part == "__main__" else part


def read_package():
    """The sources of busseg: a dict from path, such as `busseg/data/readers/busi.py`, to text."""
    return {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def parse(sources):
    """Dict from dotted name to `Module`."""
    paths = {_dotted(path): path for path in sources}
    return {
        name: Module(
            name=name,
            lines=len(sources[path].splitlines()),
            always=_imports(_at_load(ast.parse(sources[path])), name, path, paths),
            running=_imports(_at_run(ast.parse(sources[path])), name, path, paths),
            ever=_imports(ast.walk(ast.parse(sources[path])), name, path, paths),
        )
        for name, path in paths.items()
    }


def _dotted(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _at_load(node):
    """The nodes that run when the file is loaded: all but the bodies of its functions and of `if TYPE_CHECKING:`."""
    return _at_run(node, without=ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _at_run(node, without=()):
    """The nodes that ever run, which are all but the bodies of `if TYPE_CHECKING:`; without those of some kinds."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(child, without):
            yield child
            yield from _at_run(child, without)


def _imports(nodes, name, path, names):
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *filter(None, [node.module])]) if node.level else node.module
            # `from busseg.data import busi` means the file busi; `from busseg.data import find_samples` the package.
            dotted = [f"{base}.{alias.name}" for alias in node.names]
            found |= {full if full in names else base for full in dotted}
    return found


def third_party(imports):
    """The packages among dotted names that are neither ours nor Python's own."""
    return {name.split(".")[0] for name in imports} - {"busseg"} - sys.stdlib_module_names


def loaded(modules, name):
    """The third-party packages that loading a module of ours loads through any of our files."""
    seen, waiting, packages = set(), [name], set()
    while waiting:
        current = waiting.pop()
        if current in modules and current not in seen:
            seen.add(current)
            packages |= third_party(modules[current].always)
            parents = [current.rsplit(".", depth)[0] for depth in range(1, current.count(".") + 1)]
            waiting += [*modules[current].always, *parents]
    return packages


def violations(sources):
    """What in the sources breaks the rules, one line each."""
    modules = parse(sources)
    found = []
    for module in modules.values():
        rules = (wrong_rooms, wrong_packages, wrong_loads, wrong_shape)
        found += [f"{module.name}: {line}" for rule in rules for line in rule(module, modules)]
    return found + [f"import cycle: {' -> '.join(cycle)}" for cycle in cycles(modules)]


def wrong_rooms(module, modules):
    if module.room not in MAY_IMPORT:
        return [f"stands in no known room; known are {', '.join(filter(None, MAY_IMPORT))}"]
    allowed = {module.room, ""} | MAY_IMPORT[module.room]
    ours = sorted(name for name in module.ever if name in modules)
    return [f"may not import {name}" for name in ours if modules[name].room not in allowed]


def wrong_packages(module, modules):
    """Packages that a file may not name, not even inside a function."""
    packages = third_party(module.ever)
    if "albumentations" in packages and module.name != "busseg.data.augmentation":
        yield "imports albumentations; only busseg.data.augmentation may"
    if "tensorflow" in third_party(module.always):
        yield "imports tensorflow when loaded; import it inside the function that needs it"
    for package in sorted(MAY_NOT_NAME.get(module.room, set()) & packages):
        yield f"imports {package}, which {module.room} may not"


def wrong_loads(module, modules):
    """Packages that may not come along when a file is loaded, by whichever of our files they come."""
    packages = loaded(modules, module.name)
    if module.room in MAY_LOAD:
        extra = packages - MAY_LOAD[module.room]
    else:
        extra = packages & (FRAMEWORKS if module.room in WITHOUT_KERAS else {"tensorflow"})
    return [f"loads {package}; import what needs it inside a function" for package in sorted(extra)]


def wrong_shape(module, modules):
    if module.lines > MAX_LINES:
        yield f"has {module.lines} lines, more than {MAX_LINES}; it wants to be two"
    for part in module.name.split("."):
        if VAGUE_NAMES & set(part.split("_")):
            yield f"is named {part!r}, which does not say what it holds"


def cycles(modules):
    """Import circles among our modules, each once; an import inside a function counts, one for types alone does not."""
    done, found = set(), []

    def visit(name, trail):
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for other in sorted(modules[name].running & modules.keys()):
                visit(other, [*trail, name])
            done.add(name)

    for name in modules:
        visit(name, [])
    return found


# === The package ===


def test_busseg_keeps_to_its_rooms():
    assert violations(read_package()) == []


def test_every_file_of_the_package_is_read():
    assert {"busseg/__init__.py", "busseg/cli/program.py", "busseg/data/readers/busi.py"} <= read_package().keys()


RUN_HELP = (
    "import sys; from busseg.cli import main; sys.argv = ['busseg', *{arguments}]\ntry: main()\nexcept SystemExit: pass"
)


@pytest.mark.parametrize(
    "code",
    [
        "import busseg",
        "import busseg.cli",
        RUN_HELP.format(arguments=["--help"]),
        RUN_HELP.format(arguments=["train", "--help"]),
    ],
)
def test_help_loads_nothing_heavy(code):
    report = f"{code}\nimport sys; print('heavy:', sorted(sys.modules.keys() & {HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-c", report], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("heavy: []\n")


# === The rules themselves: each must be able to fail ===

CLEAN = {
    "busseg/__init__.py": '__version__ = "0"',
    "busseg/cli/__init__.py": "from busseg.cli import training",
    "busseg/cli/training.py": "import typer\ndef train():\n    from busseg.training import fit",
    "busseg/data/__init__.py": "def find():\n    from busseg.data.readers import busi",
    "busseg/data/readers/busi.py": "import numpy\nfrom busseg.data.sample import Sample",
    "busseg/data/sample.py": "from dataclasses import dataclass",
    "busseg/data/augmentation.py": "import albumentations",
    "busseg/training/batches.py": "import keras\nfrom busseg.data.augmentation import A",
    "busseg/models/unet.py": "import keras, numpy",
    "busseg/training/fit.py": "import keras\nfrom busseg.training import batches\nfrom busseg.models.unet import build",
    "busseg/inference/predictor.py": "import numpy\nif TYPE_CHECKING:\n    import keras\ndef load():\n    import keras",
    "busseg/export/formats.py": "import keras\nfrom busseg.models import unet\ndef f():\n    import tensorflow",
    "busseg/evaluation/report.py": "import matplotlib\nfrom busseg.inference.predictor import Predictor",
    "busseg/app/page.py": "from busseg.inference import predictor",
}


def test_clean_sources_break_no_rule():
    assert violations(CLEAN) == []


def test_import_for_types_alone_is_not_loaded():
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy"
    assert violations({**CLEAN, "busseg/cli/training.py": source}) == []


def test_import_for_types_alone_makes_no_cycle_but_keeps_to_the_rooms():
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from busseg.{} import {}"
    allowed = {"busseg/data/sample.py": source.format("data.readers", "busi")}
    assert violations({**CLEAN, **allowed}) == []
    assert (
        "may not import busseg.models.unet"
        in violations({**CLEAN, "busseg/data/new.py": source.format("models", "unet")})[0]
    )


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        # Rooms
        ("busseg/data/new.py", "from busseg.models import unet", "data.new: may not import busseg.models.unet"),
        ("busseg/data/new.py", "import busseg.models.unet", "data.new: may not import busseg.models.unet"),
        ("busseg/data/new.py", "from ..models.unet import build", "data.new: may not import busseg.models.unet"),
        ("busseg/data/new.py", "def f():\n    from busseg import cli", "data.new: may not import busseg.cli"),
        ("busseg/models/new.py", "from busseg.data.sample import A", "models.new: may not import busseg.data.sample"),
        ("busseg/training/new.py", "from busseg.inference import predictor", "may not import busseg.inference"),
        ("busseg/inference/new.py", "from busseg.models import unet", "may not import busseg.models.unet"),
        ("busseg/inference/new.py", "from busseg.training import fit", "may not import busseg.training.fit"),
        ("busseg/evaluation/new.py", "from busseg.training import fit", "may not import busseg.training.fit"),
        ("busseg/plugins/new.py", "", "stands in no known room"),
        # Packages
        ("busseg/data/new.py", "def f():\n    import albumentations as A", "imports albumentations; only"),
        ("busseg/data/new.py", "def f():\n    import keras", "imports keras, which data may not"),
        ("busseg/models/new.py", "def f():\n    import tensorflow", "imports tensorflow, which models may not"),
        ("busseg/models/new.py", "def f():\n    import torch", "imports torch, which models may not"),
        ("busseg/models/new.py", "import cv2", "models.new: loads cv2"),
        ("busseg/evaluation/new.py", "def f():\n    import keras", "imports keras, which evaluation may not"),
        ("busseg/training/new.py", "import tensorflow as tf", "imports tensorflow when loaded"),
        ("busseg/training/new.py", "try:\n    import tensorflow\nexcept ImportError:\n    pass", "when loaded"),
        ("busseg/training/new.py", "class A:\n    import tensorflow", "imports tensorflow when loaded"),
        ("busseg/export/formats.py", "import tensorflow", "export.formats: imports tensorflow when loaded"),
        ("busseg/inference/new.py", "from keras import ops", "inference.new: loads keras"),
        ("busseg/evaluation/new.py", "from busseg.training.batches import Batches", "may not import busseg.training"),
        ("busseg/data/__init__.py", "from keras import ops", "data.readers.busi: loads keras"),
        ("busseg/cli/training.py", "import numpy", "cli: loads numpy"),
        ("busseg/cli/data.py", "import typer\nfrom busseg.data.readers import busi", "cli.data: loads numpy"),
        ("busseg/__init__.py", "from busseg.models.unet import build", "busseg: loads keras"),
        # Shape
        (
            "busseg/data/sample.py",
            "from busseg.data.readers import busi",
            "busseg.data.readers.busi -> busseg.data.sample -> busseg",
        ),
        ("busseg/data/sample.py", "def f():\n    import busseg.data.readers.busi", "import cycle"),
        ("busseg/data/utils.py", "", "is named 'utils'"),
        ("busseg/data/image_helpers.py", "", "is named 'image_helpers'"),
        ("busseg/common/new.py", "", "is named 'common'"),
        ("busseg/data/new.py", "a = 1\n" * 401, "has 401 lines"),
    ],
)
def test_offending_source_is_caught(path, source, expected):
    assert expected in "\n".join(violations({**CLEAN, path: source}))


def test_file_of_400_lines_is_allowed():
    assert violations({**CLEAN, "busseg/data/new.py": "a = 1\n" * 400}) == []


# === The walks of CONTRIBUTING.md ===
def test_every_hop_of_the_walks_is_a_function_of_its_file():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    hops = re.findall(r"^\d+\. `(busseg/[\w/]+\.py)`: `(\w+)`", text, re.MULTILINE)
    sources = read_package()
    missing = [
        f"{path}: {name}"
        for path, name in hops
        if name not in {n.name for n in ast.walk(ast.parse(sources[path])) if isinstance(n, ast.FunctionDef)}
    ]
    assert (len(hops), missing) == (16 + 15, [])
