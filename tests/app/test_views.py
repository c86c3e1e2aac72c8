import re
from dataclasses import replace

import numpy as np
import pytest

from busseg.app.answers import Answer
from busseg.app.views import view_facts, view_heat, view_image, view_table
from busseg.data.sample import CLASSES
from busseg.inference.prediction import Prediction


def answer(name="scan.png", lesions=2, ood_score=0.5, **more):
    mask = np.zeros((20, 30), np.uint8)
    for number in range(lesions):
        mask[4:8, 10 * number + 2 : 10 * number + 6] = 1
    prediction = Prediction(
        "malignant", np.float32([0.1, 0.275, 0.625]), mask, mask.astype(np.float32), ood_score=ood_score, **more
    )
    return Answer(name, np.full((20, 30), 90, np.uint8), prediction, CLASSES)


def test_facts_show_bars_area_box_and_uncertainty():
    text = view_facts(answer(uncertainty=0.312, spacing_mm=(0.5, 0.25)))
    assert re.findall(r'width: ([\d.]+)%"', text) == ["10.0", "27.5", "62.5"]
    assert "4.0 mm², 32 px, 5.3 % of the image" in text  # 2 * 4 * 4 pixels of 0.125 mm², of 20 * 30
    assert re.search(r"14 . 4 px, from 2, 4", text)
    assert "31 %" in text
    assert 'download="scan_mask.png"' in text
    assert 'download="scan.json"' in text


def test_facts_of_an_image_without_lesion_say_so():
    text = view_facts(answer(lesions=0))
    assert "none seen" in text
    assert "Box" not in text


@pytest.mark.parametrize(
    ("ood_score", "headline"), [(0.99, "Malignant"), (1.01, "Not like breast ultrasound"), (None, "Malignant")]
)
def test_headline_is_the_class_or_that_the_model_cannot_read_the_image(ood_score, headline):
    (found,) = re.findall(r'<p class="label"[^>]*>(.*?)</p>', view_facts(answer(ood_score=ood_score)))
    assert found == headline


def test_numbers_of_an_image_that_the_model_cannot_read_are_folded_away():
    text = view_facts(answer(ood_score=1.01, faint="very dark"))
    assert text.index("<details>") < text.index('class="bars"') < text.index("</details>")
    assert "<b>Very dark.</b>" in text
    assert "<details>" not in view_facts(answer())


def test_clip_out_of_distribution_has_no_class_for_any_frame():
    text = view_facts(replace(answer(), frames=3, clip_in_distribution=False))
    assert re.findall(r'<p class="label"[^>]*>(.*?)</p>', text) == ["Not like breast ultrasound"]
    assert "nothing like this clip" in text


def test_very_dark_image_has_its_class_with_a_warning():
    text = view_facts(answer(faint="very dark"))
    assert "<b>Very dark.</b>" in text
    assert '<p class="label">Malignant</p>' in text


def test_nothing_is_shown_without_an_answer():
    assert view_facts(None) == ""
    assert "<svg" not in view_image(None)


def test_view_has_the_size_of_the_image_and_an_outline_a_lesion():
    text = view_image(answer(lesions=3))
    assert 'viewBox="0 0 30 20"' in text
    assert text.count("<polygon") == 3


def test_views_refer_to_nothing_outside():
    heat = {"file": "scan.png", "label": "benign", "drop": 0.1, "heat": "data:image/png;base64,"}
    for text in (view_image(answer()), view_facts(answer()), view_heat(heat)):
        addresses = re.findall(r'(?:href|src)="([^"]*)"', text)
        assert addresses
        assert all(address.startswith("data:") for address in addresses)


def test_names_of_files_are_escaped():
    foul = answer('"><script>.png')
    rows = [{"file": foul.name, "label": "", "warning": "", "error": "<b>"}]
    for text in (view_image(foul), view_facts(foul), view_table({"rows": rows, "zip": "/results/x"})):
        assert "<script>" not in text
        assert "<b>" not in text


def test_table_shows_errors_by_the_name_and_leaves_empty_columns_out():
    rows = [
        {"file": "a.png", "frame": "", "label": "benign", "p_benign": "0.98765", "warning": "", "error": ""},
        {"file": "b.png", "frame": "", "label": "", "p_benign": "", "warning": "", "error": "Expected an image"},
    ]
    text = view_table({"rows": rows, "zip": "/results/x"})
    assert re.findall(r'<th scope="col">(\w+)', text) == ["file", "label", "p_benign"]
    assert re.findall(r"<tr><td>(.*?)</td>", text) == ["a.png", "b.png<small>Expected an image</small>"]
    assert "<td>0.988</td>" in text


def test_table_shows_no_class_out_of_distribution():
    warnings = ("", "not like breast ultrasound")
    rows = [{"file": "a.png", "label": "benign", "warning": warning, "error": ""} for warning in warnings]
    text = view_table({"rows": rows, "zip": "/results/x"})
    assert re.findall(r"<td>(.*?)</td>", text) == [
        "a.png", "benign", "a.png<small>not like breast ultrasound</small>", "",
    ]  # fmt: skip


def test_table_counts_what_could_not_be_read():
    rows = [{"file": name, "label": "", "warning": "", "error": error} for name, error in (("a", ""), ("b", "Why"))]
    text = view_table({"rows": rows, "zip": "/results/x"})
    assert "2 images, 1 of them could not be read" in text
