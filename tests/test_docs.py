"""The documentation: links lead somewhere, commands exist, code runs, tables hold the figures of the results."""

import ast
import csv
import dataclasses
import importlib
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w
import typer
from typer.testing import CliRunner

from busseg.cli import app
from busseg.data.phantom import draw_phantom, write_phantoms
from busseg.data.readers.busi import find_samples
from busseg.data.tissue import write_tissue
from busseg.imaging.images import write_image

ROOT = Path(__file__).parents[1]
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "data/README.md", "benchmarks/README.md", "CONTRIBUTING.md", "SECURITY.md")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.M | re.S,
)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
PROGRAMS = {
    "python",
    "python3",
    "pip",
    "pytest",
    "ruff",
    "mkdocs",
    "pre-commit",
    "cyclonedx-py",
    "source",
    ".",
    ".ci/run",
    "curl",
    "docker",
    "npm",
    "tar",
}


@dataclass
class Block:
    """A fenced block of code; `reason` says why it is not run, if it is not."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None


def blocks(name, *languages):
    text = (ROOT / name).read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        code = re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.M)
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(name, line, fence["language"], code, fence["reason"]))
    return [block for block in found if block.language in languages]


def commands(block):
    """The commands of a bash block, as lists of words without assignments before them."""
    found = []
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        words.whitespace_split, words.commenters = True, "#"
        command = []
        for word in [*words, "&&"]:
            if set(word) <= set("&|;<>"):
                found.append(command)
                command = []
            elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                command.append(word)
    return [[re.sub(r"^[.\w]+/bin/", "", command[0]), *command[1:]] for command in found if command]


def ids(chosen):
    return [f"{block.page}:{block.line}" for block in chosen]


BASH = [block for name in NAMES for block in blocks(name, "bash")]
PYTHON = [block for name in NAMES for block in blocks(name, "python")]


# === Text ===
def test_readme_is_short_and_says_once_that_it_is_no_medical_device():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    assert text.count("not a medical device") == 1


def test_first_block_of_the_readme_holds_the_two_commands():
    install, test = blocks("README.md", "bash")[0].code.splitlines()
    assert install == "python3 -m venv .venv && .venv/bin/pip install --quiet . && .venv/bin/busseg demo"
    assert test == 'python3 -m venv .venv && .venv/bin/pip install --quiet -e ".[test]" && .venv/bin/python -m pytest'


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name):
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    for path, anchor in LINK.findall(text):
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{path} in {name}"
        if anchor:
            assert anchor in headings(target), f"{path}#{anchor} in {name}"


def headings(path):
    """The anchors of a page, as a code host and mkdocs make them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# === Commands and code exist ===
@pytest.mark.parametrize("block", BASH, ids=ids(BASH))
def test_every_command_and_option_exists(block):
    for program, *arguments in commands(block):
        if program == "busseg":
            command = typer.main.get_command(app)
            verb, *arguments = arguments
            assert verb in command.commands, f"busseg {verb}"
            if "--help" not in arguments:
                command.commands[verb].make_context(verb, arguments)  # a wrong option or value raises
        else:
            assert program in PROGRAMS, program
            check_scripts_and_extras(program, arguments)


def check_scripts_and_extras(program, arguments):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for argument in arguments:
        if program == "pip" and (extras := re.fullmatch(r"(?:\.|busseg|.*/busseg)\[([\w,]+)\]", argument)):
            assert set(extras[1].split(",")) <= known.keys(), argument
        if program == "python" and argument.endswith(".py"):
            assert (ROOT / argument).is_file(), argument
        if program == "python" and argument.startswith("benchmarks."):
            assert (ROOT / f"{argument.replace('.', '/')}.py").is_file(), argument


@pytest.mark.parametrize("block", PYTHON, ids=ids(PYTHON))
def test_every_python_block_imports_names_that_exist(block):
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("busseg"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


# Code that needs a training, or starts Keras, which takes seconds; the slow test below runs it.
SLOW = re.compile(r"keras|tensorflow|runs/|unet|data/busi|card-raw|clip\.dcm")
QUICK = [block for block in PYTHON if not block.reason and not SLOW.search(block.code)]


@pytest.mark.parametrize("block", QUICK, ids=ids(QUICK))
def test_python_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image("scan.png", draw_phantom("benign", seed=1)[0])
    run_python(block)


def run_python(block):
    code = block.code.replace("epochs=80", "epochs=1")
    exec(compile(code, f"{block.page}, line {block.line}", "exec"), {"__name__": "__main__"})


# === Tables ===
def test_recipes_page_lists_every_setting_with_its_default():
    from busseg.training.recipe import Recipe

    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.M))
    assert tomllib.loads("\n".join(f"{key} = {value}" for key, value in rows.items())) == dataclasses.asdict(Recipe())


def test_recipes_page_lists_every_recipe_of_the_package():
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert {path.stem for path in (ROOT / "busseg/training/recipes").iterdir()} <= set(
        re.findall(r"^\| `(\w+)`", text, re.M)
    )


RECIPES = [block for name in NAMES for block in blocks(name, "toml")]


@pytest.mark.parametrize("block", RECIPES, ids=ids(RECIPES))
def test_every_recipe_in_the_pages_is_valid(block):
    from busseg.training.recipe import Recipe

    Recipe(**tomllib.loads(block.code))


def test_evidence_tables_hold_the_figures_of_the_results():
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for row in read_evidence("leak.csv"):
        change = "{grouped} -> {random}: {difference} [{low}, {high}]".format(**row)
        assert f"{row['score']} |" in text
        assert change in text
    for row in read_evidence("robustness.csv"):
        assert re.search(
            rf"^\| {re.escape(row['images'])} \| {row['dice']}.*\| {row['accuracy']}.*\| {row['macro_auc']}", text, re.M
        )
    for row in read_evidence("calibration_error.csv"):
        assert re.search(rf"^\| ECE \|.*{row['ece']} \[{row['low']}, {row['high']}\]", text, re.M), row


def read_evidence(name):
    with (ROOT / "docs/evidence" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# === Pages from top to bottom, on phantoms ===
RUN_ELSEWHERE = {"demo": "tests/experiments/test_demo.py", "app": "tests/app/test_server.py"}
TINY = {"image_size": 32, "width": 4, "depth": 2, "epochs": 1, "encoder": "plain", "weights": "none"}
GUIDES = ["predict", "train", "hospitals", "evaluate", "export", "histology", "recipes", "dicom", "faq", "api/index"]
TO_RUN = ["README.md", *(f"docs/{guide}.md" for guide in GUIDES)]


@pytest.fixture
def workplace(tmp_path, monkeypatch, phantom_folder, tiny_run, write_scan):
    """A folder with all that the pages name, on phantoms, where every recipe of the package trains a tiny network."""
    from busseg.experiments.score import score_model
    from busseg.training import recipe

    monkeypatch.chdir(tmp_path)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for path in (ROOT / "busseg/training/recipes").iterdir():
        write_tiny(recipes / path.name, path.read_text(encoding="utf-8"))
    monkeypatch.setattr(recipe, "_PACKAGED", recipes)

    shutil.copytree(phantom_folder, "data/busi")
    for seed, source in enumerate(("data/busbra", "data/breast", "other-scans"), start=1):
        write_phantoms(source, per_class=10, seed=seed)
    write_tissue("data/breakhis", patients=5, images=1)
    write_own_data(find_samples(phantom_folder))
    for label in ("benign", "malignant"):
        for number in range(12):
            write_image(f"my-scans/{label}/{number}.png", draw_phantom(label, seed=100 + number)[0])
    image, _ = draw_phantom("benign", seed=1)
    for path in ("scan.png", "scans/1.png", "more/2.jpg", "card.png"):
        write_image(path, image)
    slide = next(Path("data/breakhis").rglob("*.png"))
    Path("slides").mkdir()
    shutil.copy(slide, "slides")
    write_scan(tmp_path / "clip.dcm", image[None].repeat(2, axis=0), region=(0, 0, image.shape[1], image.shape[0]))
    shutil.copytree(tiny_run, "runs/card")
    score_model("runs/card/model.keras", "data/busi", "runs/other")
    return tmp_path


def write_tiny(path, text):
    values = tomllib.loads(text)
    tiny = TINY | {key: False for key in ("fold_batch_norm", "frozen_depthwise") if key in values}
    path.write_text(
        tomli_w.dumps(values | tiny | {"frozen": 0, "head_epochs": 0, "warmup_epochs": 0}), encoding="utf-8"
    )


def write_own_data(samples):
    """The folder `my-data`, in the layout of one's own images."""
    rows = []
    for number, sample in enumerate(samples):
        for folder, path in (("images", sample.image), ("masks", sample.masks[0])):
            Path("my-data", folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, f"my-data/{folder}/{number}.png")
        rows.append(f"{number}.png,{sample.label}")
    Path("my-data/labels.csv").write_text("\n".join(["file,label", *rows]) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", TO_RUN)
def test_page_runs_from_top_to_bottom(name, workplace):
    if name in ("docs/train.md", "docs/api/index.md"):  # they train it themselves
        shutil.rmtree("runs/card")
    if name == "docs/evaluate.md":
        run_busseg(["crossval", "data/busi", "--recipe", "light", "--out", "runs/light"])
    for block in blocks(name, "bash", "python", "toml"):
        if block.language == "toml":
            write_tiny(Path(re.match(r"# (\S+\.toml)", block.code)[1]), block.code)
        elif block.reason:
            continue
        elif block.language == "python":
            run_python(block)
        else:
            for program, *arguments in commands(block):
                if program == "busseg" and arguments[0] not in RUN_ELSEWHERE:
                    run_busseg(arguments)


def run_busseg(arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"busseg {shlex.join(arguments)}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("test", RUN_ELSEWHERE.values())
def test_what_runs_elsewhere_is_tested_there(test):
    assert (ROOT / test).is_file()


# === Notebooks ===
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_runs_on_phantoms(notebook, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs busseg[docs]")
    nbclient = pytest.importorskip("nbclient", reason="needs busseg[docs]")
    read = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in read.cells)  # small files, without images of anybody
    nbclient.NotebookClient(read, timeout=1800, resources={"metadata": {"path": tmp_path}}).execute()
