import json

import numpy as np
import pytest

from busseg.inference.review import disagreement, means_of_others, review_predictions
from busseg.storage.files import read_csv, write_csv

COLUMNS = ("file", "frame", "label", "p_normal", "p_benign", "p_malignant", "uncertainty", "ood_score",
           "study_instance_uid", "warning", "error")  # fmt: skip


def row(file, normal, benign, malignant, uncertainty=None, **more):
    """A row of `predictions.csv`; without an uncertainty, the model has no such output."""
    p = {"p_normal": normal, "p_benign": benign, "p_malignant": malignant}
    label = max(p, key=p.get).removeprefix("p_")
    return {"file": file, "label": label, **p, "uncertainty": uncertainty, **more}


@pytest.fixture
def predict(tmp_path):
    """Function that writes an output of `busseg predict` with rows, and returns its folder."""

    def write(*rows):
        (tmp_path / "predictions").mkdir()
        write_csv(tmp_path / "predictions/predictions.csv", COLUMNS, [dict.fromkeys(COLUMNS, "") | one for one in rows])
        return tmp_path / "predictions"

    return write


@pytest.fixture
def review(tmp_path, predict):
    """Function that reviews rows, and returns those of the review by file."""

    def run(*rows, **options):
        done = review_predictions(predict(*rows), tmp_path / "out", **options)
        written = read_csv(tmp_path / "out/review.csv")
        assert [one["file"] for one in written] == [one["file"] for one in done.rows]
        assert [one["rank"] for one in written] == [str(place) for place in range(1, len(written) + 1)]
        return {one["file"]: one for one in written}

    return run


# === Rank ===
def test_disagreement_is_half_the_sum_of_absolute_differences_from_the_mean_of_the_others():
    p = np.array([[0.9, 0.1, 0], [0.5, 0.5, 0], [0.1, 0.3, 0.6]])
    others = means_of_others(p)
    np.testing.assert_allclose(others[0], [0.3, 0.4, 0.3])  # (0.5 + 0.1, 0.5 + 0.3, 0 + 0.6) / 2
    np.testing.assert_allclose(disagreement(p, others)[0], (0.6 + 0.3 + 0.3) / 2)
    assert disagreement(np.array([1.0, 0, 0]), np.array([0, 0, 1.0])) == 1


def test_files_without_an_answer_come_first_then_foreign_images_then_by_uncertainty(review):
    foreign = {"warning": "not like breast ultrasound"}
    found = review(
        row("sure.png", 0.9, 0.05, 0.05, 0.1),
        row("unsure.png", 0.4, 0.35, 0.25, 0.6),
        row("foreign.png", 0.9, 0.05, 0.05, 0.1, ood_score=1.2, **foreign),
        row("more-foreign.png", 0.9, 0.05, 0.05, 0.1, ood_score=1.3, **foreign),
        {"file": "broken.png", "error": "Expected an image, found text: broken.png"},
    )
    assert [*found] == ["broken.png", "more-foreign.png", "foreign.png", "unsure.png", "sure.png"]
    assert [float(one["score"]) for one in found.values()] == [1, 1, 1, 0.6, 0.1]
    assert [one["reason"] for one in found.values()] == [
        "not predicted: Expected an image, found text: broken.png",
        "not like breast ultrasound, OOD score 1.30",
        "not like breast ultrasound, OOD score 1.20",
        "class: normal 40%, benign 35%",
        "class: normal 90%, benign 5%",
    ]


def test_views_of_a_group_that_disagree_come_before_uncertain_ones(review, tmp_path):
    (tmp_path / "groups.csv").write_text("file,group\na/1.png,p1\na/2.png,p1\n3.png,p2\n4.png,p2\nelsewhere.png,p1\n")
    found = review(
        row("in/b/4.png", 0, 0.6, 0.4, 0.4),
        row("in/b/3.png", 0, 0.5, 0.5, 0.5),
        row("in/a/1.png", 0, 0.9, 0.1, 0.1),
        row("in/a/2.png", 0, 0.2, 0.8, 0.2),
        groups=tmp_path / "groups.csv",
    )
    # p1: (|0.9 - 0.2| + |0.1 - 0.8|) / 2 = 0.7, of both; p2: 0.1, less than their uncertainties
    assert [(file, float(one["score"])) for file, one in found.items()] == [
        ("in/a/1.png", 0.7), ("in/a/2.png", 0.7), ("in/b/3.png", 0.5), ("in/b/4.png", 0.4),
    ]  # fmt: skip
    assert found["in/a/1.png"]["reason"] == "views disagree: benign 90%, but 20% in the other view"
    assert (found["in/b/4.png"]["disagreement"], found["in/b/4.png"]["group"]) == ("0.100000", "p2")


def test_files_of_a_study_are_compared_and_foreign_ones_count_for_no_one(review):
    study = {"study_instance_uid": "1.2.3"}
    foreign = {"warning": "not like breast ultrasound", "ood_score": 2}
    found = review(
        row("1.dcm", 0, 0.9, 0.1, 0.1, **study),
        row("2.dcm", 0, 0.8, 0.2, 0.2, **study),
        row("foreign.dcm", 0, 0, 1, 0, **study, **foreign),
        row("other.png", 0, 0.9, 0.1, 0.1),
    )
    disagreements = {file: one["disagreement"] for file, one in found.items()}
    assert disagreements == {"1.dcm": "0.100000", "2.dcm": "0.100000", "foreign.dcm": "", "other.png": ""}


def test_clip_is_one_row_by_its_mean_and_medians_with_its_most_uncertain_frame(review):
    found = review(
        row("clip.mp4", 0.8, 0.2, 0, 0.2, frame=1, ood_score=0.5),
        row("clip.mp4", 0.2, 0.8, 0, 0.9, frame=2, ood_score=0.7),
        row("clip.mp4", 0.2, 0.5, 0.3, 0.5, frame=3, ood_score=0.6),
    )
    one = found["clip.mp4"]
    assert (one["label"], one["frame"]) == ("benign", "2")
    assert (float(one["p_normal"]), float(one["p_benign"])) == (0.4, 0.5)  # (0.8 + 0.2 + 0.2, 0.2 + 0.8 + 0.5) / 3
    assert (float(one["uncertainty"]), float(one["ood_score"])) == (0.5, 0.6)


def test_frames_out_of_distribution_do_not_count_for_the_class_of_a_clip(review):
    found = review(
        row("clip.mp4", 0.9, 0.1, 0, 0.1, frame=1, ood_score=0.5),
        row("clip.mp4", 0.7, 0.3, 0, 0.3, frame=2, ood_score=0.5),
        row("clip.mp4", 0, 0, 1, 0, frame=3, ood_score=2, warning="not like breast ultrasound"),
    )
    one = found["clip.mp4"]
    assert (float(one["p_normal"]), float(one["p_malignant"]), one["reason"]) == (
        0.8,
        0,
        "class: normal 80%, benign 20%",
    )


def test_model_without_uncertainty_is_ranked_by_its_class(review):
    found = review(row("a.png", 0.3, 0.7, 0), row("b.png", 0.6, 0.4, 0))
    assert [(file, float(one["score"])) for file, one in found.items()] == [("b.png", 0.4), ("a.png", 0.3)]


def test_uncertain_outline_is_told_from_an_uncertain_class(review):
    found = review(row("a.png", 0, 0.9, 0.1, 0.3), row("b.png", 0, 0.9, 0.1, 1))
    assert [one["reason"] for one in found.values()] == [
        "outline: benign 90%, but no pixel is lesion",
        "outline: mean lesion probability 70% inside the mask",
    ]


# === What fails ===
def test_folder_without_predictions_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected an output of busseg predict, with predictions.csv, found "):
        review_predictions(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("file,group\n1.png,p1\n", r"one path, found that of 2, '1.png': "),
        ("file,group\na/1.png,p1\nb/1.png,p1\na/1.png,p2\n", r"one group a file, found two for 'a/1.png': "),
        ("file,group\na/1.png,p1\n", r"a group for every predicted file, found none for 'b/1.png': "),
        ("name,group\na/1.png,p1\n", r"the column 'file', found name, group: "),
    ],
)
def test_groups_that_name_no_file_or_several_are_refused(predict, tmp_path, text, found):
    (tmp_path / "groups.csv").write_text(text)
    rows = (row("a/1.png", 1, 0, 0), row("b/1.png", 1, 0, 0))
    with pytest.raises(ValueError, match=f"^Expected .*{found}"):
        review_predictions(predict(*rows), tmp_path / "out", groups=tmp_path / "groups.csv")
    assert not (tmp_path / "out").exists()


def test_broken_table_is_named(predict, tmp_path):
    folder = predict(row("a.png", 1, 0, 0, "high"))
    with pytest.raises(ValueError, match=r"^Expected predictions, found something else .*predictions.csv$"):
        review_predictions(folder, tmp_path / "out")


def test_export_needs_json_lines_and_nothing_is_left_without(predict, tmp_path):
    with pytest.raises(FileNotFoundError, match="run busseg predict with --json-lines"):
        review_predictions(predict(row("a.png", 1, 0, 0)), tmp_path / "out", to="coco")
    assert not (tmp_path / "out").exists()


def test_former_export_is_not_replaced(predict, tmp_path):
    folder = predict(row("a.png", 1, 0, 0))
    (tmp_path / "out/coco").mkdir(parents=True)
    (tmp_path / "out/coco/corrected.json").write_text(json.dumps({"mine": 1}))
    (tmp_path / "out/review.csv").write_text("rank,file,reason,score\n")
    with pytest.raises(FileExistsError, match=r"^Expected a new or empty folder for the dataset, found other files: "):
        review_predictions(folder, tmp_path / "out", to="coco")
    assert (tmp_path / "out/review.csv").read_text() == "rank,file,reason,score\n"
    assert [path.name for path in (tmp_path / "out/coco").iterdir()] == ["corrected.json"]
