import shutil

import pytest

from busseg.data import audit as module
from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.imaging.images import write_image


@pytest.fixture(scope="session")
def drawn(once):
    """A folder of three phantoms a class, to be copied."""

    def draw(folder):
        for label in CLASSES:
            for seed in range(3):
                image, mask = draw_phantom(label, seed, 120, 160)
                write_image(folder / label / f"{label[0]}{seed}.png", image)
                write_image(folder / label / f"{label[0]}{seed}_mask.png", mask * 255)

    return once("audited", draw)


@pytest.fixture
def root(tmp_path, drawn):
    """A faultless folder shaped like BUSI with three phantoms a class, `benign/b0.png` and so on, 160 x 120 px."""
    return shutil.copytree(drawn, tmp_path / "data")


@pytest.fixture(autouse=True)
def _no_search_for_copies(request, monkeypatch):
    """The search takes a second, and has its own tests; those here that are about copies ask for it."""
    if "search" not in request.fixturenames:
        monkeypatch.setattr(module, "find_copies", lambda paths, progress: [])


@pytest.fixture
def search():
    """Marks a test in which copies are searched for."""


@pytest.fixture
def pair_root(write_labels, tmp_path):
    """A faultless folder of pairs with labels: `images/benign.png` and so on."""
    root = tmp_path / "pairs"
    for label in CLASSES:
        image, mask = draw_phantom(label, 7, 120, 160)
        write_image(root / "images" / f"{label}.png", image)
        write_image(root / "masks" / f"{label}.png", mask * 255)
    write_labels(root, *(f"{label}.png,{label}" for label in CLASSES))
    return root


@pytest.fixture(scope="session")
def write_labels():
    """Function that writes the table of labels of a folder."""

    def write(root, *rows, header="file,label"):
        (root / "labels.csv").write_text("\n".join((header, *rows)) + "\n")

    return write


@pytest.fixture(scope="session")
def found():
    """Function that returns `{file: detail}` of one kind of finding."""
    return lambda audit, kind: {entry["file"]: entry["detail"] for entry in audit["findings"][kind]}


@pytest.fixture(scope="session")
def kinds():
    """Function that returns the kinds of findings that an audit has."""
    return lambda audit: {kind for kind, entries in audit["findings"].items() if entries}
