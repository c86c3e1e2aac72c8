import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.report import write_report
from busseg.evaluation.robustness import FIELDS as ROBUSTNESS_FIELDS
from busseg.evaluation.robustness import PERTURBATIONS, STRENGTHS, describe
from busseg.evaluation.scores import mask_scores
from busseg.evaluation.summary import write_scores
from busseg.evaluation.table import fields
from busseg.imaging.images import read_image, read_mask, write_image
from busseg.storage.files import write_csv


# === Evaluations made by hand ===
def score(folder, samples):
    """Rows for `per_image.csv`, and masks: the true ones, each moved further, but every fifth empty."""
    random = np.random.default_rng(0)
    rows = []
    for number, sample in enumerate(samples):
        truth = read_mask(sample.masks, read_image(sample.image).shape)
        predicted = np.roll(truth, 3 * number, axis=1) if number % 5 else np.zeros_like(truth)
        if sample.label == "normal" and number % 4 == 0:
            predicted[50:100, 50:90] = 1
        probabilities = random.dirichlet(np.where(np.array(CLASSES) == sample.label, 3, 1)).tolist()
        name = f"masks/{sample.name}"
        write_image(folder / name, predicted * 255)
        row = dict.fromkeys(fields(CLASSES)) | {"file": sample.name, "part": "test", "group": sample.group}
        row |= {"label": sample.label, "predicted": CLASSES[int(np.argmax(probabilities))], "mask": name}
        row |= {f"p_{label}": p for label, p in zip(CLASSES, probabilities)}
        row |= {"height_px": truth.shape[0], "width_px": truth.shape[1], **mask_scores(truth, predicted)}
        rows.append(row)
    return rows


@pytest.fixture(scope="session")
def unreadable():
    """Function that returns the row of an image that could not be read."""

    def row(name="benign/broken.png", error="Expected an image, found an empty file (0 bytes)"):
        about = {"file": name, "part": "test", "group": name, "label": "benign", "error": error}
        return dict.fromkeys(fields(CLASSES)) | about

    return row


@pytest.fixture(scope="session")
def scored(phantom_samples, tmp_path_factory):
    """An evaluation of thirty phantoms, to be read only: `(folder, rows)`."""
    folder = tmp_path_factory.mktemp("scored")
    rows = score(folder, phantom_samples)
    write_scores(folder, rows, model="runs/card & co", data="data/phantoms")
    return folder, rows


@pytest.fixture(autouse=True)
def sketches(monkeypatch, request):
    """Plots are made but not drawn, which would take a second a report; but for the tests of what is drawn."""
    if "full_report" not in request.fixturenames:
        monkeypatch.setattr("busseg.evaluation.report.embed_figure", lambda figure: "data:image/svg+xml;base64,")


@pytest.fixture
def folder(scored, tmp_path):
    """A copy of that evaluation."""
    return shutil.copytree(scored[0], tmp_path / "evaluation")


@pytest.fixture(scope="session")
def write_run():
    """Function that writes the folder of a run, without its model, and returns it."""

    def write(folder, fold=0, epochs=4, recipe="epochs = 4\n", command="busseg train data/phantoms"):
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(recipe)
        (folder / "environment.json").write_text(json.dumps({"command": command, "python": "3.12.1"}))
        parts = (
            [("train", "normal")] * 3 + [("train", "benign")] * 2 + [("validation", "benign"), ("test", "malignant")]
        )
        write_csv(
            folder / "splits.csv",
            ("fold", "file", "label", "group", "part"),
            [
                {"fold": fold, "file": f"{number}.png", "label": label, "group": f"g{number // 2}", "part": part}
                for number, (part, label) in enumerate(parts)
            ],
        )
        names = [prefix + name for prefix in ("", "val_") for name in ("loss", "mask_lesion_dice", "label_accuracy")]
        write_csv(
            folder / "history.csv",
            ("epoch", *names),
            [{"epoch": epoch, **dict.fromkeys(names, 1 / epoch)} for epoch in range(1, epochs + 1)],
        )
        return folder

    return write


@pytest.fixture(scope="session")
def robustness_rows():
    """Two images, a lesion and a normal one, under everything; all is well but for the strongest blur."""
    cases = [("none", 0), *((name, strength) for name in PERTURBATIONS for strength in STRENGTHS)]
    rows = []
    for name, strength in cases:
        bad = (name, strength) == ("blur", 3)
        row = dict.fromkeys(ROBUSTNESS_FIELDS)
        row |= {"perturbation": name, "strength": strength, "level": describe(name, strength) if strength else None}
        row |= {"p_normal": 0.1, "p_benign": 0.8, "p_malignant": 0.1, "predicted": "benign"}
        lesion = {"file": "a", "group": "a", "label": "benign", "dice": 0.5 if bad else 0.9}
        normal = {"file": "b", "group": "b", "label": "normal", "clean": not bad}
        rows.append(row | lesion | {"true_px": 10, "predicted_px": 10})
        rows.append(row | normal | {"true_px": 0, "predicted_px": 9 * bad, "p_normal": 0.8, "p_benign": 0.1})
    return rows


# === The page as a browser reads it ===
class Page(HTMLParser):
    """What a page holds: its tags, and its text in lines."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.lines = [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.lines += [text.strip()] if text.strip() else []

    @property
    def text(self):
        return "\n".join(self.lines[self.lines.index("}") + 1 :] if "}" in self.lines else self.lines)

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]

    def plots(self):
        """The `alt` texts of all plots."""
        return [image["alt"] for image in self.images() if image["src"].startswith("data:image/svg+xml;base64,")]

    def cases(self):
        """The names of the images that were drawn."""
        return [image["alt"] for image in self.images() if image["src"].startswith("data:image/jpeg;base64,")]

    def rows(self, first):
        """The table rows, as lists of cells, whose first cell starts so."""
        found = []
        for text in re.findall(r"<tr.*?</tr>", self.source, re.DOTALL):
            cells = [re.sub(r"<[^>]+>", " ", cell) for cell in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", text, re.DOTALL)]
            cells = [" ".join(unescape(cell).split()) for cell in cells]
            found += [cells] if cells[0].startswith(first) else []
        return found


@pytest.fixture(scope="session")
def read_page():
    """Function that returns the `Page` of a report, which is below 5 MiB and needs nothing beside it."""

    def read(path):
        assert path.stat().st_size < 5 * 2**20
        page = Page(path)
        check_self_contained(page)
        return page

    return read


def check_self_contained(page):
    assert not [word for word in ("http:", "https:", "url(", "@import", "<script", "srcset") if word in page.source]
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["src"].startswith("data:image/")
            assert attributes["alt"]
        assert tag in ("img", "link", "a") or not {"src", "href"} & attributes.keys()
        assert tag != "a" or f'id="{attributes["href"].removeprefix("#")}"' in page.source
        assert tag != "link" or attributes["href"] == "data:,"
        assert not [name for name in attributes if name.startswith("on")]


@pytest.fixture(scope="session")
def report(read_page):
    """Function that writes the report of an evaluation, and returns its `Page`."""

    def write(folder, samples=(), runs=()):
        path = write_report(folder, samples, runs)
        assert path == folder / "report.html"
        return read_page(path)

    return write


@pytest.fixture(scope="session")
def plots():
    """The titles of the plots of every report of all classes, in order."""
    return [
        "Dice of each lesion by class",
        "Dice against lesion size",
        "Confusion matrix",
        "ROC curves",
        "Precision-recall curves",
        "Reliability diagram",
        "Risk-coverage curve",
    ]
