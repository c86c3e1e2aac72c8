import re
from dataclasses import replace

import numpy as np
import pytest

from busseg.app.answers import Answer
from busseg.app.clips import ClipAnswer, PooledFrame
from busseg.app.views import view_facts, view_heat, view_image, view_strip, view_table
from busseg.data.sample import CLASSES
from busseg.data.task import Task
from busseg.inference.prediction import Prediction
from busseg.inference.records import fields


def answer(name="scan.png", lesions=2, ood_score=0.5, **more):
    mask = np.zeros((20, 30), np.uint8)
    for number in range(lesions):
        mask[4:8, 10 * number + 2 : 10 * number + 6] = 1
    prediction = Prediction(
        "malignant", np.float32([0.1, 0.275, 0.625]), mask, mask.astype(np.float32), ood_score=ood_score, **more
    )
    return Answer(name, np.full((20, 30), 90, np.uint8), prediction, CLASSES)


def in_clip(*ood_scores):
    """The answer to frame 1 of a clip of 300, of which as many frames are pooled."""
    frames = tuple(
        PooledFrame(100 * number + 1, "malignant", np.float32([0.25, 0.25, 0.5]), score, score <= 1, "data:image/jpeg;")
        for number, score in enumerate(ood_scores)
    )
    return replace(answer(ood_score=ood_scores[0]), frames=300, clip=ClipAnswer(frames, CLASSES))


def headings(text):
    return re.findall(r"<h[23]>(.*?)</h", text)


def batch(*rows):
    """A result of `Endpoints.predict_batch` without images."""
    empty = dict.fromkeys(fields(Task.ULTRASOUND), "")
    return {"rows": [empty | row for row in rows], "thumbnails": [None] * len(rows), "zip": "/results/x"}


def test_facts_show_bars_area_box_and_chance_of_error():
    text = view_facts(answer(uncertainty=0.312, spacing_mm=(0.5, 0.25)))
    assert re.findall(r'width: ([\d.]+)%"', text) == ["10.0", "27.5", "62.5"]
    assert "4.0 mm², 5.3 % of the image, 32 px" in text  # 2 * 4 * 4 pixels of 0.125 mm², of 20 * 30
    # Of each lesion, the first and the last of 4 pixels are 3 apart: 3 * 0.5 mm down, 3 * 0.25 mm across.
    assert f"{(1.5**2 + 0.75**2) ** 0.5:.1f} mm, the largest" in text
    assert "14 px wide, 4 px high; 2 px from the left, 4 px from the top" in text
    assert "31 %: the model's own estimate that the class is wrong" in text
    assert 'download="scan_mask.png"' in text
    assert 'download="scan.json"' in text


def test_facts_show_the_report_of_an_image_that_looks_like_breast_ultrasound():
    report = "Malignant, probability 62.5 % (normal 10.0 %, benign 27.5 %). 2 lesions. Lesion 1: area 16 pixels"
    assert report in view_facts(answer())
    assert "62.5 % (normal" not in view_facts(answer(ood_score=1.01))


def test_facts_of_an_image_without_lesion_say_so():
    text = view_facts(answer(lesions=0, spacing_mm=(1, 1)))
    assert "none seen" in text
    assert "Box" not in text
    assert "Diameter" not in text


@pytest.mark.parametrize(
    ("ood_score", "headline"),
    [(0.99, "Malignant"), (1.01, "This image does not look like breast ultrasound"), (None, "Malignant")],
)
def test_headline_is_the_class_or_that_the_image_is_not_breast_ultrasound(ood_score, headline):
    assert headings(view_facts(answer(ood_score=ood_score))) == [headline]


def test_numbers_and_mask_of_an_image_out_of_distribution_are_folded_away():
    text = view_facts(answer(ood_score=1.01, faint="very dark"))
    folded = text[text.index("<details>") : text.index("</details>")]
    for inside in ('class="bars"', "_mask.png", "Lesion"):
        assert text.count(inside) == folded.count(inside) == 1
    assert "<b>Very dark.</b>" in text
    assert "<details>" not in view_facts(answer())


def test_image_out_of_distribution_is_shown_without_lesion():
    text = view_image(answer(ood_score=1.01))
    assert "<svg" in text
    assert not any(part in text for part in ("<polygon", "<mask", "with its lesion"))


def test_clip_has_one_answer_that_says_how_it_was_pooled_and_one_for_the_frame():
    text = view_facts(in_clip(0.5, 0.6, 0.7))
    assert headings(text) == ["Clip: Malignant", "Frame 1: Malignant"]
    assert re.findall(r'width: ([\d.]+)%"', text) == ["25.0", "25.0", "50.0", "10.0", "27.5", "62.5"]
    words = " ".join(text.split())
    assert "Mean probabilities of 3 frames, spread evenly over the 300 of the clip." in words
    assert "The most suspicious is frame 1, malignant with 50 %." in words
    assert "Left out" not in words


def test_clip_names_the_frames_that_do_not_count():
    words = " ".join(view_facts(in_clip(0.5, 1.2, 0.7, 0.8)).split())
    assert "of 3 frames, spread evenly over the 300 of the clip. Left out, since they do not look like" in words
    assert "breast ultrasound: 101." in words


def test_frame_out_of_distribution_has_no_class_in_a_clip_that_has_one():
    text = view_facts(in_clip(1.5, 0.5, 0.5))
    assert headings(text) == ["Clip: Malignant", "Frame 1 does not look like breast ultrasound"]
    assert "<details>" in text


def test_clip_out_of_distribution_has_no_class_for_any_frame():
    text = view_facts(in_clip(0.5, 1.5, 1.5))
    assert headings(text) == ["This clip does not look like breast ultrasound"]
    assert "<details>" in text


def test_strip_has_a_button_for_each_pooled_frame_and_marks_the_one_that_is_shown():
    text = view_strip(in_clip(0.5, 1.5, 0.5))
    assert re.findall(r'data-frame="(\d+)" aria-label="(.*?)"( aria-current="true")?', text) == [
        ("1", "Frame 1: Malignant", ' aria-current="true"'),
        ("101", "Frame 101: Unlike ultrasound", ""),
        ("201", "Frame 201: Malignant", ""),
    ]
    assert view_strip(answer()) == view_strip(None) == ""


def test_very_dark_image_has_its_class_with_a_warning():
    text = view_facts(answer(faint="very dark"))
    assert "<b>Very dark.</b>" in text
    assert headings(text) == ["Malignant"]


HEAT = {
    "file": "scan.png", "frame": 12, "frames": 1, "label": "benign", "probability": 0.87,
    "drop": 0.254, "least": -0.031, "heat": "data:image/png;base64,",
}  # fmt: skip


def test_explanation_has_its_class_a_colour_bar_and_its_values():
    text = view_heat(HEAT)
    assert "<b>Evidence for the class benign</b> (87 %)" in text
    # From blue to yellow, as `draw_heat` draws: rgb(0, 34, 78) to rgb(254, 232, 56).
    assert re.search(r"to right, rgb\(0 34 78\), .*, rgb\(254 232 56\)\)", text)
    assert re.findall(r"<span>(.*?)</span>", text) == ["+3.1", "\N{MINUS SIGN}25.4"]
    assert "no single place decides" not in text
    assert "frame" not in text.partition("<img")[0]
    assert "frame 12)" in view_heat(HEAT | {"frames": 300})


def test_explanation_of_small_changes_says_so():
    assert "All changes are small: no single place decides." in view_heat(HEAT | {"drop": 0.049})


def test_nothing_is_shown_without_an_answer():
    assert view_facts(None) == ""
    assert "<svg" not in view_image(None)


def test_view_has_the_size_of_the_image_and_an_outline_a_lesion():
    text = view_image(answer(lesions=3))
    assert 'viewBox="0 0 30 20"' in text
    assert text.count("<polygon") == 3


def test_views_refer_to_nothing_outside():
    clip = in_clip(0.5, 0.5)
    for text in (view_image(answer()), view_facts(answer()), view_strip(clip), view_heat(HEAT)):
        addresses = re.findall(r'(?:href|src)="([^"]*)"', text)
        assert addresses
        assert all(address.startswith("data:") for address in addresses)


def test_names_of_files_are_escaped():
    foul = answer('"><script>.png')
    table = view_table(batch({"file": foul.name, "error": "<b>"}))
    for text in (view_image(foul), view_facts(foul), table):
        assert "<script>" not in text
        assert "<b>" not in text


def test_table_has_columns_a_clinician_reads_and_leaves_empty_ones_out():
    text = view_table(
        batch(
            {"file": "a.png", "label": "benign", "p_benign": "0.98765", "lesion_fraction": "0.15911", "lesion_px": 99},
            {"file": "b.png", "error": "Expected an image"},
        )
    )
    assert re.findall(r'<th scope="col">(.*?)</th>', text) == ["Image", "Class", "Benign, %", "Lesion, % of image"]
    assert re.findall(r'<td data-title="(.*?)">(.*?)</td>', text) == [
        ("Class", "Benign"), ("Benign, %", "99"), ("Lesion, % of image", "15.9"),
        ("Class", ""), ("Benign, %", ""), ("Lesion, % of image", ""),
    ]  # fmt: skip
    assert re.findall(r"<span>(.*?)</span>", text) == ["a.png", "b.png<small>Expected an image</small>"]


def test_table_shows_lengths_in_mm_and_the_frame():
    row = {"file": "c.dcm", "frame": 3, "lesion_mm2": "268.81", "lesion_mm": "22.96", "uncertainty": "0.114"}
    assert re.findall(r'<td data-title="(.*?)">(.*?)</td>', view_table(batch(row))) == [
        ("Frame", "3"), ("Lesion, mm²", "269"), ("Diameter, mm", "23.0"), ("Chance of error, %", "11"),
    ]  # fmt: skip


def test_table_shows_no_result_out_of_distribution():
    row = {"file": "a.png", "frame": 2, "label": "benign", "p_benign": "0.9"}
    text = view_table(batch(row, row | {"warning": "not like breast ultrasound"}))
    assert re.findall(r"<td.*?>(.*?)</td>", text) == ["2", "Benign", "90", "2", "", ""]
    assert "a.png<small>not like breast ultrasound</small>" in text


def test_table_shows_the_thumbnails_it_is_given():
    images = batch({"file": "a.png"}, {"file": "b.png", "error": "Why"}) | {"thumbnails": ["data:image/jpeg;", None]}
    assert re.findall(r'<img src="(.*?)"', view_table(images)) == ["data:image/jpeg;"]


def test_table_counts_what_could_not_be_read():
    text = view_table(batch({"file": "a"}, {"file": "b", "error": "Why"}))
    assert "2 images or frames, 1 of them could not be read" in text
