import json
import shutil

import numpy as np
import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.report import write_report
from busseg.evaluation.robustness import write_robustness
from busseg.evaluation.scores import point_scores
from busseg.evaluation.summary import summarise, write_scores
from busseg.evaluation.table import fields
from busseg.storage.files import write_csv
from busseg.storage.run_folder import PER_IMAGE, ROBUSTNESS, SUMMARY


@pytest.fixture(scope="module")
def full_report(tmp_path_factory, scored, phantom_samples, robustness_rows, unreadable, write_run):
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
    write_robustness(folder / ROBUSTNESS, robustness_rows)
    command = "busseg crossval --out " + "a_very_long_path/" * 20
    runs = [write_run(folder / f"fold-{fold}", fold, command=command) for fold in range(5)]
    return write_report(folder, phantom_samples, runs)


@pytest.mark.usefixtures("full_report")  # so that the plots are drawn
def test_large_evaluation_stays_a_small_page(folder, scored, report):
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
    assert len(report(folder).source) < 2 * 2**20


def test_plots_are_drawn_the_same_every_time(full_report, phantom_samples, read_page):
    folder = full_report.parent
    first = full_report.read_bytes()
    write_report(folder, phantom_samples, sorted(folder.glob("fold-*")))
    assert full_report.read_bytes() == first
    read_page(full_report)


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
