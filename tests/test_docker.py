"""The container image of `examples/docker`. The tests run its steps in a plain environment, without Docker."""

import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples/docker"
STEPS = [
    line.split(maxsplit=1) for line in (FOLDER / "Dockerfile").read_text().splitlines() if re.match(r"[A-Z]+ ", line)
]


def arguments(instruction):
    return [rest for name, rest in STEPS if name == instruction]


def project_name(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower()


def test_image_runs_as_a_user_without_rights_and_is_watched():
    assert arguments("USER") == ["1000"]
    assert [name for name, _ in STEPS].index("USER") < [name for name, _ in STEPS].index("ENTRYPOINT")
    assert len(arguments("HEALTHCHECK")) == 1


def test_every_file_that_is_copied_exists_and_is_sent_to_the_builder():
    sent = re.findall(r"^!(.+)$", (FOLDER / "Dockerfile.dockerignore").read_text(), re.M)
    for copied in arguments("COPY"):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == name or source.startswith(f"{name}/") for name in sent), source


def test_list_is_of_the_project_s_own_dependencies_without_a_framework():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = [*project["dependencies"], *extras["app"], *extras["dicom"], *extras["pacs"]]
    listed = [line for line in (FOLDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert set(listed) <= set(map(project_name, known)) - {"busseg", "keras", "tensorflow"}
    # Whole extras, so that a new dependency of the page or the node is not forgotten.
    whole = {project_name(one) for extra in ("app", "dicom", "pacs") for one in extras[extra]} - {"busseg"}
    assert whole <= set(listed)


def test_healthcheck_fails_where_nothing_listens_and_names_the_ports():
    done = subprocess.run([sys.executable, FOLDER / "healthcheck.py", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Expected a server on one of the ports [1], found none\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of programs of an environment made by the Dockerfile's own copies and pip calls."""
    build = tmp_path_factory.mktemp("build")
    programs = build / "venv/bin"
    subprocess.run([sys.executable, "-m", "venv", build / "venv"], check=True)
    for name, rest in STEPS:
        if name == "COPY" and not rest.split()[-1].startswith("/"):
            *sources, target = rest.split()
            for source in sources:
                place = build / target / Path(source).name if target.endswith("/") else build / target
                place.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
                copy(ROOT / source, place)
        elif name == "RUN" and rest.startswith("pip "):
            done = subprocess.run(
                [programs / "python", "-m", *shlex.split(rest)], cwd=build, capture_output=True, text=True, check=False
            )
            if "NewConnectionError" in done.stderr:
                pytest.skip("needs the package index")
            assert done.returncode == 0, done.stderr
    return programs


@pytest.mark.slow
def test_image_predicts_a_sample_and_holds_no_framework(installed, tmp_path):
    code = "import busseg; print(busseg.samples()[1].path)"
    sample = subprocess.run(
        [installed / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    done = subprocess.run(
        [installed / "busseg", "predict", sample.stdout.strip(), "--out", tmp_path / "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "malignant" in done.stdout
    assert (tmp_path / "out/bus_0124-r_mask.png").is_file()
    packages = {path.name.split("-")[0].lower() for path in installed.parent.glob("lib/*/site-packages/*.dist-info")}
    assert "onnxruntime" in packages
    assert not packages & {"tensorflow", "keras", "jax", "torch"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", [["app"], ["listen", "--out", "queue", "--send-to", "PACS@127.0.0.1:104"]], ids=["app", "listen"]
)
def test_image_serves_and_its_healthcheck_finds_it(installed, tmp_path, call):
    with subprocess.Popen(
        [installed / "busseg", *call, "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        patience = threading.Timer(300, process.kill)
        patience.start()
        port = re.search(r":(\d+)$", process.stdout.readline().strip())[1]
        done = subprocess.run([installed / "python", FOLDER / "healthcheck.py", port], check=False)
        patience.cancel()
        process.kill()
    assert done.returncode == 0
