from pathlib import Path

from busseg.data.sample import Sample
from busseg.data.split_text import format_splits
from busseg.data.splits import Split


def sample(name, label, group=None):
    return Sample(name, Path(name), (), label, group or name)


BENIGN = [sample(f"b{number}", "benign") for number in range(4)]
NORMAL = [sample(f"n{number}", "normal") for number in range(3)]
COPY = sample("b3 again", "benign", "b3")
UNCLEAR = [sample("x", "benign", "both"), sample("y", "malignant", "both")]


def test_every_image_is_in_a_part_or_left_out():
    split = Split((*BENIGN[:2], NORMAL[0]), (BENIGN[2], NORMAL[1]), (BENIGN[3], NORMAL[2]))
    lines = format_splits([split], [*BENIGN, *NORMAL, COPY, *UNCLEAR]).splitlines()
    assert lines[0] == "10 images"  # 4 + 3 + 1 + 2
    assert [line.split() for line in lines[1:6]] == [
        ["fold", "images", "normal", "benign", "malignant"],
        ["0", "train", "3", "1", "2", "0"],
        ["0", "validation", "2", "1", "1", "0"],
        ["0", "test", "2", "1", "1", "0"],
        ["0", "left", "out", "3", "0", "2", "1"],  # the copy, and the two of an unclear class
    ]
    assert lines[6:] == [
        "Left out of every fold: 2 images in groups with different classes: x, y",
        "Left out of a validation or test part: all copies of an image but the first",
    ]


def test_nothing_is_said_of_images_left_out_where_none_are():
    split = Split(tuple(BENIGN[:2]), (BENIGN[2],), (BENIGN[3],))
    lines = format_splits([split], BENIGN).splitlines()
    assert len(lines) == 2 + 4
    assert lines[-1].split() == ["0", "left", "out", "0", "0"]


def test_copy_that_is_in_no_part_of_any_fold_is_not_called_unclear():
    split = Split(tuple(BENIGN[:2]), (BENIGN[2],), (BENIGN[3],))
    text = format_splits([split], [*BENIGN, COPY])
    assert "Left out of every fold" not in text
    assert text.endswith("all copies of an image but the first")


def test_images_without_a_class_have_a_column():
    unlabelled = sample("u", None)
    lines = format_splits([Split((unlabelled, BENIGN[0]), (BENIGN[1],), ())], [unlabelled, *BENIGN[:2]]).splitlines()
    assert lines[1].split() == ["fold", "images", "benign", "no", "class"]
    assert lines[2].split() == ["0", "train", "2", "1", "1"]
