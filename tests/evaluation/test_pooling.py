"""Folds and repeats of a cross-validation are pooled."""

import json
from pathlib import Path

import pytest

from busseg.data.protocols import repeat_splits
from busseg.data.sample import Sample
from busseg.data.splits import Split
from busseg.evaluation.compare import compare
from busseg.evaluation.compare_text import format_comparison
from busseg.evaluation.pooling import format_crossval, pool_folds
from busseg.evaluation.report import write_report
from busseg.evaluation.table import fields, read_rows, write_rows
from busseg.storage.run_folder import evaluation_folder, fold_folder

CLASSES = ("benign", "malignant")


def tissue(subtype, slide, number):
    name = f"SOB_{subtype}-{slide}-100-{number:03}.png"
    case, label = slide.rstrip("AB"), "malignant" if subtype.startswith("M") else "benign"
    attributes = {"patient": case, "slide": slide, "magnification": "100"}
    return Sample(name, Path(name), (), label, case, attributes=attributes)


# Two fields of each slide. Of the benign case 14-1 there are two slides, of the others one.
SLIDES = [("B_A", "14-1A"), ("B_A", "14-1B"), ("B_F", "14-2"), ("M_DC", "14-3"), ("M_DC", "14-4")]
SAMPLES = [tissue(*slide, number) for slide in SLIDES for number in (1, 2)]


def pool(out, splits, right, protocol, repeats=1, samples=None):
    """The summary of a cross-validation in which the image `name` of fold `fold` is classified `right(fold, name)`."""
    for fold, split in enumerate(splits):
        rows = []
        for sample in split.test:
            correct = right(fold, sample.name)
            malignant = 0.9 if (sample.label == "malignant") == correct else 0.1
            row = dict.fromkeys(fields(CLASSES)) | {"file": sample.name, "fold": fold, "part": "test", "known": False}
            row |= {"group": sample.group, "patient": sample.attributes["patient"], "label": sample.label}
            row |= {"predicted": CLASSES[malignant > 0.5], "p_benign": 1 - malignant, "p_malignant": malignant}
            rows.append(row)
        place = evaluation_folder(fold_folder(out, fold))
        place.mkdir(parents=True)
        write_rows(place / "per_image.csv", rows)
    about = {"data": "tissue", "protocol": protocol, "seed": 0, "repeats": repeats, "size": None}
    return pool_folds(out, splits, samples or SAMPLES, about)


def by_field(numbers):
    """A fold that tests the fields of these numbers and learns from the others."""
    tested = [sample for sample in SAMPLES if int(sample.name[-7:-4]) in numbers]
    return Split(tuple(sample for sample in SAMPLES if sample not in tested), (), tuple(tested))


def by_slide(*slides):
    tested = tuple(sample for sample in SAMPLES if sample.attributes["slide"] in slides)
    return Split(tuple(sample for sample in SAMPLES if sample not in tested), (), tested)


def test_leak_of_histology_counts_fields_of_the_patient_and_of_the_slide(tmp_path):
    splits = [by_slide("14-1A", "14-3"), by_slide("14-1B", "14-2", "14-4")]
    summary = pool(tmp_path / "slides", splits, lambda *_: True, "random")
    # Slides are whole, but case 14-1 is in both folds with two fields of each of its slides.
    assert summary["leak"] == {"images": 4, "share": 4 / 10, "same_slide": 0}
    assert "40.0% of the scored images have another field of the patient in training" in format_crossval(summary)

    summary = pool(tmp_path / "fields", [by_field({1}), by_field({2})], lambda *_: True, "random")
    assert summary["leak"] == {"images": 10, "share": 1, "same_slide": 10}
    assert "10 of the 10 have one of their slide." in format_crossval(summary)
    assert "by the protocol patient." in format_crossval(summary)
    page = write_report(tmp_path / "fields", []).read_text()
    assert "100.0 % of the scored images (10) have another field of the patient among the images" in page


def test_repeats_are_scored_each_and_together(tmp_path):
    splits = repeat_splits("patient", SAMPLES_OF_MANY, folds=2, seed=3, repeats=2)
    wrong = SAMPLES_OF_MANY[0].name
    summary = pool(tmp_path, splits, lambda fold, name: fold < 2 or name != wrong, "patient", 2, SAMPLES_OF_MANY)
    rows = read_rows(tmp_path / "per_image.csv")
    assert [row["repeat"] for row in rows] == [fold // 2 for fold in range(4) for _ in splits[fold].test]
    for number in (0, 1):
        names = [row["file"] for row in rows if row["repeat"] == number]
        assert sorted(names) == sorted(sample.name for sample in SAMPLES_OF_MANY)
    accuracies = [one["scores"]["accuracy"] for one in summary["of_repeats"]]
    assert accuracies == [1, pytest.approx(15 / 16)]
    assert summary["parts"]["test"]["scores"]["accuracy"] == pytest.approx(31 / 32)
    assert summary["parts"]["test"]["groups"] == summary["parts"]["test"]["patients"]["patients"] == 8
    text = format_crossval(summary)
    assert "in each of 2 repeats, with the seeds 0, 1" in text
    assert "accuracy              0.969 ± 0.044     1.000  0.938" in text  # sd (1/16) / sqrt(2)
    assert "each of which scores every image" in write_report(tmp_path, []).read_text()


# Four patients a class, two fields each.
SAMPLES_OF_MANY = [
    tissue(subtype, f"14-{10 * place + patient}", number)
    for place, subtype in enumerate(("B_A", "M_DC"), 1)
    for patient in range(4)
    for number in (1, 2)
]


def test_repeats_have_other_folds():
    splits = repeat_splits("patient", SAMPLES_OF_MANY, folds=4, repeats=3)
    tested = [{sample.group for sample in split.test} for split in splits]
    assert len(splits) == 12
    assert tested[:4] != tested[4:8] != tested[8:]
    assert splits[4:8] == repeat_splits("patient", SAMPLES_OF_MANY, folds=4, seed=1)


def test_protocol_whose_folds_are_fixed_is_not_repeated():
    with pytest.raises(ValueError, match=r"^Expected a protocol of grouped, .* to repeat, found 'given'$"):
        repeat_splits("given", SAMPLES_OF_MANY, repeats=2)


def test_comparison_of_repeats_has_no_p_value(tmp_path):
    twice = [by_field({1}), by_field({2})] * 2
    pool(tmp_path / "a", twice, lambda *_: True, "random", repeats=2)
    pool(tmp_path / "b", twice, lambda fold, _: fold % 2, "random", repeats=2)
    one = compare([tmp_path / "a", tmp_path / "b"])["differences"][0]
    assert one["images"] == 20
    assert one["differences"]["accuracy"]["difference"] == pytest.approx(-1 / 2)
    assert one["differences"]["accuracy"]["p"] is None
    pool(tmp_path / "c", twice[:2], lambda fold, _: fold % 2, "random")
    assert compare([tmp_path / "a", tmp_path / "c"])["differences"][0]["differences"]["accuracy"]["p"] is not None


def test_random_and_patient_are_compared_on_the_images_of_equal_repeats(tmp_path):
    def right(fold, name):
        return fold > 0

    twice = [by_field({1}), by_field({2})] * 2
    summary = pool(tmp_path / "random", twice, lambda *_: True, "random", repeats=2)
    assert summary["leak"]["images"] == 20
    pool(tmp_path / "patient", [by_slide("14-1A", "14-1B", "14-3"), by_slide("14-2", "14-4")], right, "patient")
    comparison = compare([tmp_path / "patient", tmp_path / "random"])
    one = comparison["differences"][0]
    assert (one["images"], one["only_a"], one["only_b"]) == (10, 0, 10)  # the second repeat has no partner
    assert one["differences"]["accuracy"]["difference"] == pytest.approx(6 / 10)
    assert one["patients"]["patients"] == 4
    note = "random was trained or chosen with another field of the patient of 100.0% of its test images"
    assert any(note in line for line in comparison["notes"])
    assert "The same on the" not in format_comparison(comparison)  # all of them are leaked
    json.dumps(comparison)
