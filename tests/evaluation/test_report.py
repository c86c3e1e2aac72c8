import dataclasses
import json
import re
import shutil
from html import escape, unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.report import show, show_interval, write_report
from busseg.evaluation.robustness import FIELDS as ROBUSTNESS_FIELDS
from busseg.evaluation.robustness import PERTURBATIONS, STRENGTHS, describe, write_robustness
from busseg.evaluation.scores import mask_scores, point_scores
from busseg.evaluation.summary import summarise, write_scores
from busseg.evaluation.table import fields, read_rows
from busseg.imaging.images import read_image, read_mask, write_image
from busseg.storage.files import write_csv
from busseg.storage.run_folder import PER_IMAGE, ROBUSTNESS, SUMMARY

DASH = "\N{EN DASH}"
MIB = 2**20


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


def unreadable(name="benign/broken.png", error="Expected an image, found an empty file (0 bytes)"):
    return dict.fromkeys(fields(CLASSES)) | {
        "file": name,
        "part": "test",
        "group": name,
        "label": "benign",
        "error": error,
    }


@pytest.fixture(scope="module")
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


def write_run(folder, fold=0, epochs=4, recipe="epochs = 4\n", command="busseg train data/phantoms"):
    """The folder of a run, without its model."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe)
    (folder / "environment.json").write_text(json.dumps({"command": command, "python": "3.12.1"}))
    parts = [("train", "normal")] * 3 + [("train", "benign")] * 2 + [("validation", "benign"), ("test", "malignant")]
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


def report(folder, samples=(), runs=()):
    path = write_report(folder, samples, runs)
    assert path == folder / "report.html"
    assert path.stat().st_size < 5 * MIB
    page = Page(path)
    check_self_contained(page)
    return page


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


PLOTS = [
    "Dice of each lesion by class",
    "Dice against lesion size",
    "Confusion matrix",
    "ROC curves",
    "Precision-recall curves",
    "Reliability diagram",
    "Risk-coverage curve",
]


# === The whole ===
def test_headline_and_scores_are_those_of_the_summary(folder, phantom_samples):
    page = report(folder, phantom_samples)
    summary = json.loads((folder / SUMMARY).read_text())["parts"]["test"]
    tiles = page.source.partition('<div class="tiles">')[2].partition("<nav>")[0]
    for name in ("dice", "accuracy", "macro_auc", "clean_normal_rate"):
        assert f"<b>{show(name, summary['scores'][name])}</b>" in tiles
        assert f"95 %: {show_interval(name, *summary['intervals'][name])}" in tiles
    assert f"<b>{summary['missed']} of 20</b>" in tiles
    assert f"95 %: {show_interval('missed_rate', *summary['intervals']['missed_rate'])}" in tiles
    assert "<b>30</b>images<span>20 with a lesion, 10 without</span>" in tiles
    titles = {"dice": "Dice", "hd95_px": "HD95", "false_alarm_px": "false alarm", "macro_f1": "macro F1", "ece": "ECE"}
    for name, title in titles.items():
        value, interval = show(name, summary["scores"][name]), show_interval(name, *summary["intervals"][name])
        assert page.rows(title)[0][1:3] == [value, interval]


def test_known_images_are_warned_of_and_the_others_scored_apart(scored, tmp_path, phantom_samples):
    folder = shutil.copytree(scored[0], tmp_path / "evaluation")
    write_scores(folder, [row | {"known": number >= 6} for number, row in enumerate(scored[1])])
    page = report(folder, phantom_samples)
    assert "24 of 30 scored images, or copies of them, were used to train or calibrate this model" in page.text
    unseen = json.loads((folder / SUMMARY).read_text())["parts"]["test"]["unseen"]
    ((title, images, dice, *_),) = page.rows("new to the model")
    assert (title, images) == ("new to the model", "6")
    assert dice.startswith(show("dice", unseen["scores"]["dice"]))
    assert "does not say which images" not in page.text


@pytest.mark.parametrize(("known", "expected"), [(False, False), (None, True)])
def test_report_warns_of_nothing_where_nothing_is_known(scored, tmp_path, phantom_samples, known, expected):
    folder = shutil.copytree(scored[0], tmp_path / "evaluation")
    write_scores(folder, [row | {"known": known} for row in scored[1]])
    page = report(folder, phantom_samples)
    assert "scored images, or copies" not in page.text
    assert ("Unknown: this model does not record which images it was trained on." in page.text) == expected


def test_title_and_text_tell_what_was_scored(folder, phantom_samples):
    text = report(folder, phantom_samples).text
    assert "Evaluation of card & co on phantoms" in text
    assert "Model: runs/card & co. Data: data/phantoms. Masks are compared at the images' native size." in text
    assert "Research software, not a medical device." in text


def test_plots_and_cases_are_there(folder, phantom_samples):
    page = report(folder, phantom_samples)
    assert page.plots() == PLOTS
    rows = read_rows(folder / PER_IMAGE)
    missed = {row["file"] for row in rows if row["dice"] == 0}
    alarms = {row["file"] for row in rows if row["clean"] is False}
    found = {row["file"] for row in rows if row["dice"]}
    assert found < set(page.cases())  # eight of each class are found, so all are shown
    assert len(missed & set(page.cases())) == min(3, len(missed)) > 0
    assert len(alarms & set(page.cases())) == min(3, len(alarms)) > 0


def test_images_of_the_wrong_class_are_listed_the_most_confident_first(folder, phantom_samples):
    page = report(folder, phantom_samples)
    wrong = [row for row in read_rows(folder / PER_IMAGE) if row["label"] != row["predicted"]]
    listed = page.source.partition(f"{len(wrong)} images of the wrong class, the most confident first")[2]
    listed = re.findall(r"<tr><td>([^<]+\.png)</td>", listed.partition("</details>")[0])
    assert listed == [row["file"] for row in sorted(wrong, key=lambda row: -row[f"p_{row['predicted']}"])]
    assert len(wrong) > 3


def test_class_table_is_that_of_the_summary(folder):
    page = report(folder)
    classes = json.loads((folder / SUMMARY).read_text())["parts"]["test"]["classes"]
    for label, one in classes.items():
        names = ("precision", "sensitivity", "specificity", "f1", "auc")
        assert [label, "10", *(f"{one[name]:.3f}" for name in names)] in page.rows(label)


def test_decision_is_told_with_its_threshold_and_the_prevalence(folder, scored):
    point = {"sensitivity": 0.9, "threshold": 0.25, "low": 0.8, "high": 0.97}
    write_scores(folder, scored[1], operating_point=point)
    page = report(folder)
    decision = json.loads((folder / SUMMARY).read_text())["parts"]["test"]["decision"]
    assert "Malignant at a probability of 0.250 or more" in page.text
    assert f"found out of fold (95 %: 0.800{DASH}0.970)" in page.text
    assert f"Here it calls {decision['called']} of 30 images malignant; 10 are." in page.text
    assert "PPV and NPV hold where 33.3 % of the images are malignant, as here." in page.text
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        assert f"<td>{show(name, decision['scores'][name])}</td>" in page.source
        assert f"<td>{show_interval(name, *decision['intervals'][name])}</td>" in page.source


def test_without_a_sensitivity_no_decision_is_told(folder):
    assert "Malignant at a probability" not in report(folder).text


# === Partial evaluations ===
def test_dataset_without_classes_has_masks_alone(folder, scored, phantom_samples):
    write_scores(folder, [row | {"label": None} for row in scored[1][::3]])
    page = report(folder, [dataclasses.replace(sample, label=None) for sample in phantom_samples])
    assert page.plots() == PLOTS[:2]
    assert "accuracy" not in page.text.lower()
    assert "Lesions: all that were found, from the worst to the best" in page.text
    assert page.rows("part")[0] == ["part", *CLASSES, "no class", "images", "groups"]
    assert page.rows("test")[0] == ["test", "0", "0", "0", "10", "10", "10"]


def test_normal_images_alone_have_no_dice(folder, scored, phantom_samples):
    write_scores(folder, scored[1][20:])
    page = report(folder, phantom_samples)
    assert page.plots() == ["Confusion matrix", *PLOTS[5:]]
    assert "lesion Dice" not in page.text
    assert "ROC and precision-recall curves need images of at least two classes." in page.text
    assert "False alarms, the largest first" in page.text


def test_lesions_of_one_class_alone(folder, scored, phantom_samples):
    write_scores(folder, scored[1][:10])
    page = report(folder, phantom_samples)
    assert page.plots() == [*PLOTS[:3], *PLOTS[5:]]
    assert "clean normals" not in page.source.partition('<div class="tiles">')[2].partition("<nav>")[0]


@pytest.mark.parametrize("place", [0, 1, 20])  # a lesion missed, a lesion found, a false alarm
def test_one_image_is_enough(folder, scored, phantom_samples, place):
    write_scores(folder, [scored[1][place]])
    page = report(folder, phantom_samples)
    assert page.cases() == [phantom_samples[place].name]
    assert "<b>1</b>images" in page.source


def test_without_samples_no_case_is_drawn(folder):
    page = report(folder)
    assert page.plots() == PLOTS
    assert page.cases() == []
    assert "Cases" not in page.text


def test_files_that_could_not_be_read_are_named(folder, scored):
    write_scores(folder, [*scored[1], unreadable("a & b.png", "Expected <b>, found: a & b.png")])
    page = report(folder)
    assert "1 file could not be read; no score includes it" in page.text
    assert "a &amp; b.png</code>: Expected &lt;b&gt;, found: a &amp; b.png" in page.source
    assert "<b>30</b>images" in page.source


def test_evaluation_of_which_no_file_could_be_read(tmp_path):
    write_scores(tmp_path, [unreadable(), unreadable("other.png")])
    page = report(tmp_path)
    assert "2 files could not be read; no score includes them" in page.text
    assert "<b>0</b>images" in page.source


def test_names_are_text_and_no_markup(folder, scored, tmp_path, phantom_samples):
    name = "<script>alert('x')</script> & \"co\".png"
    rows = list(scored[1])
    samples = [dataclasses.replace(phantom_samples[1], name=name), *phantom_samples]
    rows[1] = rows[1] | {"file": name, "predicted": "normal", "p_normal": 0.9}
    write_scores(folder, rows, model=name, data=name)
    run = write_run(tmp_path / "run", recipe=name, command=name)
    page = report(folder, samples, [run])
    assert name in page.cases()
    assert page.source.count(escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) > 5


# === Parts ===
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["train", "validation", "test"], "test"),
        (["train", "all"], "all"),
        (["validation", "train"], "validation"),
    ],
)
def test_report_is_about_the_test_part_first(folder, scored, parts, expected):
    rows = [row | {"part": part} for count, part in enumerate(parts, 1) for row in scored[1][:: 4 - count]]
    images = {part: len(scored[1][:: 4 - count]) for count, part in enumerate(parts, 1)}
    write_scores(folder, rows)
    page = report(folder)
    assert f"<b>{images[expected]}</b>images" in page.source
    table = page.source.partition("By part")[2].partition("</table>")[0]
    assert re.findall(r"<tr><td>(?:<b>)?(\w+)", table) == parts
    assert f"<td><b>{expected}</b></td>" in table


def test_single_part_is_compared_with_nothing(folder):
    assert "By part" not in report(folder).text


# === Sources and patients ===
def test_sources_and_patients_are_told_side_by_side(folder, scored):
    rows = [
        row | {"source": "here" if n % 3 else "there", "patient": str(n // 2) if n % 3 else None, "pixel_mm": 0.1}
        for n, row in enumerate(scored[1])
    ]
    summary = write_scores(folder, rows, data="here + there")["parts"]["test"]
    page = report(folder)
    assert "Evaluation on here + there" in page.text
    table = page.source.partition('<h2 id="sources">')[2].partition("</table>")[0]
    for source, images in (("here", "20"), ("there", "10")):
        (cells,) = [row for row in page.rows(source) if row[1] == images]
        one = summary["sources"][source]
        dice = f"{show('dice', one['scores']['dice'])} {show_interval('dice', *one['intervals']['dice'])}"
        assert cells[2:4] == [str(one["groups"]), dice]
        assert f"<td>{source}</td>" in table
    (mean,) = page.rows("mean of sources")
    assert mean[3] == show("dice", summary["mean_of_sources"]["dice"])
    (everything,) = [row for row in page.rows("all") if len(row) == 6]
    patients = summary["patients"]
    assert everything[1:3] == [str(patients["patients"]), "20"]
    assert everything[3].startswith(show("accuracy", patients["scores"]["accuracy"]))
    assert "there" not in page.source.partition('<h2 id="patients">')[2].partition("</table>")[0]  # it names no patient
    (distance,) = page.rows("HD95 in mm")
    assert f"for the {summary['scaled']} found lesions" in distance[0]
    assert distance[1] == f"{summary['scores']['hd95_px'] / 10:.2f} mm"


def test_one_source_without_patients_or_scale_is_told_as_ever(folder):
    page = report(folder)
    for heading in ("Sources", "Patients", "mean of sources", "in mm"):
        assert heading not in page.text


# === Cross-validation ===
@pytest.fixture
def crossval(folder, scored):
    """Write a cross-validation of three folds; takes what else its summary says."""

    def write(**about):
        rows = [row | {"fold": fold} for fold in range(3) for row in scored[1][fold::3]]
        each = [[row for row in rows if row["fold"] == fold] for fold in range(3)]
        folds = [{"fold": n, "images": len(mine), "scores": point_scores(mine)} for n, mine in enumerate(each)]
        write_scores(
            folder, rows, protocol="random", seed=7, data="data/phantoms", folds=folds,
            mean_sd={"dice": [0.7125, 0.0312], "missed_rate": [0.21, 0.04]}, **about,
        )  # fmt: skip
        return folder, folds

    return write


def test_cross_validation_shows_each_fold_and_their_spread(crossval, phantom_samples):
    folder, folds = crossval(leak={"images": 0, "share": 0.0}, size=256)
    page = report(folder, phantom_samples)
    assert "Cross-validation on phantoms" in page.text
    assert re.search(r"3 folds by the protocol\s+random\s*, seed 7", page.text)
    assert "256 x 256 pixels" in page.text
    for fold in folds:
        dice, missed = fold["scores"]["dice"], fold["scores"]["missed_rate"]
        (row,) = [row for row in page.rows(str(fold["fold"])) if len(row) == 10]
        assert row[:3] + row[4:5] == [str(fold["fold"]), "10", f"{dice:.3f}", f"{missed:.1%}"]
    (row,) = page.rows("mean ± sd")
    assert row[:5] == ["mean ± sd", "", "0.713 ± 0.031", DASH, "21.0% ± 4.0%"]
    assert ", fold 2" in page.text


def test_fold_of_a_left_out_source_bears_its_name(crossval):
    folder, folds = crossval(leak={"images": 0, "share": 0.0})
    summary = json.loads((folder / SUMMARY).read_text())
    summary["folds"] = [fold | {"source": f"source {fold['fold']}"} for fold in folds]
    (folder / SUMMARY).write_text(json.dumps(summary))
    page = report(folder)
    assert [len(page.rows(f"{fold} source {fold}")) for fold in range(3)] == [1, 1, 1]


def test_leak_is_said_plainly_and_in_red(crossval):
    page = report(crossval(leak={"images": 293, "share": 0.3756})[0])
    warning = page.source.partition('<p class="warning">')[2].partition("</p>")[0]
    assert (
        "37.6 % of the scored images (293) have a copy among the images their model was trained or chosen with."
        in warning
    )
    assert re.search(r"\.warning {[^}]*color: var\(--bad\)", page.source)


def test_no_leak_is_said_too(crossval):
    page = report(crossval(leak={"images": 0, "share": 0.0})[0])
    assert 'class="warning"' not in page.source
    assert "No scored image has a copy among the images its model was trained with." in page.text


# === Runs ===
def test_run_gives_curves_recipe_command_split_and_environment(folder, tmp_path):
    page = report(folder, runs=[write_run(tmp_path / "run")])
    assert page.plots() == [*PLOTS, "Loss over the epochs", "Lesion Dice over the epochs", "Accuracy over the epochs"]
    assert "epochs = 4" in page.text
    assert "busseg train data/phantoms" in page.text
    assert '"python": "3.12.1"' in page.text
    assert page.rows("fold, part") == [["fold, part", *CLASSES, "images", "groups"]]
    assert page.rows("0, ") == [
        ["0, train", "3", "2", "0", "5", "3"],  # groups of two: g0, g1, g2
        ["0, validation", "0", "1", "0", "1", "1"],
        ["0, test", "0", "0", "1", "1", "1"],
    ]


def test_folds_share_what_is_the_same(folder, tmp_path):
    runs = [write_run(tmp_path / f"fold-{fold}", fold, epochs=3 + fold) for fold in range(3)]
    page = report(folder, runs=runs)
    assert page.source.count("<pre>epochs = 4\n</pre>") == 1
    assert page.source.count("<pre>busseg train data/phantoms</pre>") == 1
    assert page.source.count(escape('"python": "3.12.1"').replace("&quot;", "&#34;")) == 1
    assert [row[0] for fold in range(3) for row in page.rows(f"{fold}, ")] == [
        f"{fold}, {part}" for fold in range(3) for part in ("train", "validation", "test")
    ]


def test_recipes_that_differ_are_both_shown(folder, tmp_path):
    runs = [write_run(tmp_path / name, recipe=f"width = {name}\n") for name in ("8", "16")]
    page = report(folder, runs=runs)
    assert {"Recipe 1", "Recipe 2", "width = 8", "width = 16"} <= set(page.lines)


def test_what_a_run_lacks_is_passed_over(folder, tmp_path):
    (tmp_path / "bare").mkdir()
    run = write_run(tmp_path / "begun", epochs=0)  # no epoch done
    (run / "environment.json").unlink()
    page = report(folder, runs=[tmp_path / "bare", tmp_path / "nowhere", run])
    assert page.plots() == PLOTS
    assert "epochs = 4" in page.text


def test_real_run_is_reported(folder, tiny_run, phantom_samples):
    page = report(folder, phantom_samples, [tiny_run])
    assert page.plots()[len(PLOTS) :] == [
        f"{name} over the epochs" for name in ("Loss", "Lesion Dice", "Accuracy", "Normal images left clean")
    ]


# === Robustness ===
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


def test_robustness_shows_scores_and_their_change(folder):
    write_robustness(folder / ROBUSTNESS, robustness_rows())
    page = report(folder)
    assert page.plots()[-2:] == ["Dice by strength of the change", "Accuracy by strength of the change"]
    assert page.rows("as they are") == [["as they are", "0.900", "0.0%", "100.0%", "1.000", DASH]]
    assert page.rows("blur sigma 4 px") == [
        ["blur sigma 4 px", "0.500 -0.400", "0.0% +0.0", "0.0% -100.0", "1.000 +0.000", DASH]  # no malignant: no AUC
    ]
    assert len([row for name in PERTURBATIONS for row in page.rows(name)]) == 6 * 3
    assert re.findall(r'class="change bad">([^<]+)<', page.source) == ["-0.400", "-100.0"]


def test_without_robustness_nothing_is_said_of_it(folder):
    assert "robustness" not in report(folder).source.lower()


# === Folders that are none ===
@pytest.mark.parametrize("missing", [PER_IMAGE, SUMMARY])
def test_folder_without_an_evaluation_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"with {missing}, found none: {re.escape(str(folder))}"):
        write_report(folder, [])


def test_evaluation_of_no_image_is_no_report(tmp_path):
    write_scores(tmp_path, [])
    with pytest.raises(ValueError, match=f"found none: {re.escape(str(tmp_path))}"):
        write_report(tmp_path, [])


# === Numbers as text ===
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dice", 0.71249, "0.712"),
        ("missed_rate", 0.1746, "17.5%"),
        ("false_alarm_fraction", 0.004, "0.4%"),
        ("hd95_px", 72.44, "72.4 px"),
        ("false_alarm_px", 7507.4, "7507 px"),
        ("macro_auc", None, DASH),
    ],
)
def test_scores_are_told_in_their_unit(name, value, expected):
    assert show(name, value) == expected


def test_unit_of_an_interval_is_told_once():
    assert show_interval("missed_rate", 0.101, 0.258) == f"10.1{DASH}25.8%"
    assert show_interval("hd95_px", 9.99, 120.4) == f"10.0{DASH}120 px"


@pytest.mark.usefixtures("full_report")  # so that the plots are drawn
def test_large_evaluation_stays_a_small_page(folder, scored):
    random = np.random.default_rng(0)
    rows = []
    for number, row in enumerate(scored[1] * 300):
        benign = random.random()
        answer = {"p_normal": 0, "p_benign": benign, "p_malignant": 1 - benign, "predicted": row["label"]}
        dice = row["dice"] and random.random()
        rows.append(row | answer | {"file": f"{number}.png", "dice": dice, "true_px": row["true_px"] and number + 1})
    write_csv(folder / PER_IMAGE, fields(CLASSES), rows)
    parts = {"test": summarise(scored[1])}
    (folder / SUMMARY).write_text(json.dumps({"threshold": 0.5, "nsd_tolerance_px": 5, "parts": parts}))
    assert len(report(folder).source) < 2 * MIB


# === In a browser ===
@pytest.fixture(scope="module")
def full_report(tmp_path_factory, scored, phantom_samples):
    """A report with everything in it: folds, leak, mistakes, unreadable files, robustness, runs, long names."""
    folder = shutil.copytree(scored[0], tmp_path_factory.mktemp("full") / "crossval")
    rows = [row | {"fold": 0} for row in scored[1]]
    rows.append(unreadable("a_file_with_a_name_that_no_one_would_ever_want_to_read_on_a_phone_in_full.png"))
    folds = [{"fold": fold, "images": 30, "scores": point_scores(rows)} for fold in range(5)]
    write_scores(
        folder, rows, data="a/folder/deep/in/some/tree/" * 5, protocol="random", seed=0, folds=folds,
        mean_sd={name: [value, 0.1] for name, value in folds[0]["scores"].items() if value is not None},
        leak={"images": 12, "share": 0.4},
    )  # fmt: skip
    write_robustness(folder / ROBUSTNESS, robustness_rows())
    command = "busseg crossval --out " + "a_very_long_path/" * 20
    runs = [write_run(folder / f"fold-{fold}", fold, command=command) for fold in range(5)]
    return write_report(folder, phantom_samples, runs)


def test_plots_are_drawn_the_same_every_time(full_report, phantom_samples):
    folder = full_report.parent
    first = full_report.read_bytes()
    write_report(folder, phantom_samples, sorted(folder.glob("fold-*")))
    assert full_report.read_bytes() == first
    assert len(first) < 5 * MIB
    check_self_contained(Page(full_report))


@pytest.mark.parametrize(("medium", "width"), [("screen", 1280), ("screen", 390), ("print", 720)])
def test_browser_shows_all_of_it_and_asks_for_nothing(browser, full_report, width, medium):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.emulate_media(media=medium)
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.goto(full_report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    assert [url for url in requests if not url.startswith("data:")] == [full_report.as_uri()]
    assert messages == []
    sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.clientWidth])")
    assert len(sizes) > 15
    assert min(min(size) for size in sizes) > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
