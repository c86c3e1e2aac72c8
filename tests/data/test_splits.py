from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from busseg.data.readers.busi import find_samples
from busseg.data.sample import CLASSES, Sample
from busseg.data.splits import (
    PARTS,
    Split,
    by_source,
    grouped_splits,
    leaked,
    leave_one_source_out,
    random_splits,
    read_groups,
    read_split,
    train_on_all,
    write_splits,
)


def sample(name, label="benign", group=None):
    return Sample(name, Path("images") / name, (), label, group or name)


def dataset(groups=25, copies=2, labels=CLASSES):
    """`groups` groups of `copies` images for each label."""
    return [
        sample(f"{label} {number}{'abcdef'[copy]}.png", label, f"{label} {number}")
        for label in labels
        for number in range(groups)
        for copy in range(copies)
    ]


def groups_of(samples):
    return {sample.group for sample in samples}


# === Folds ===
@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("copies", [1, 3])
def test_no_group_is_parted_and_none_is_lost(folds, copies):
    samples = dataset(copies=copies)
    splits = grouped_splits(samples, folds)
    assert len(splits) == folds
    for split in splits:
        train, validation, test = (groups_of(getattr(split, part)) for part in PARTS)
        assert len(train) + len(validation) + len(test) == len(groups_of(samples))
        assert train | validation | test == groups_of(samples)


@pytest.mark.parametrize("folds", [2, 5])
def test_every_group_is_tested_exactly_once(folds):
    tested = [sample.group for split in grouped_splits(dataset(), folds) for sample in split.test]
    assert len(tested) == len(set(tested)) == 3 * 25


def test_parts_hold_every_class_in_its_share():
    for split in grouped_splits(dataset(groups=25, copies=2)):
        # Of 25 groups a class, 5 are tested; of the 20 others a fifth validates; training has both copies of the rest.
        assert Counter(sample.label for sample in split.test) == dict.fromkeys(CLASSES, 5)
        assert Counter(sample.label for sample in split.validation) == dict.fromkeys(CLASSES, 4)
        assert Counter(sample.label for sample in split.train) == dict.fromkeys(CLASSES, 2 * 16)


def test_rare_class_keeps_its_share():
    samples = dataset(groups=50, copies=1, labels=("benign",)) + dataset(groups=10, copies=1, labels=("malignant",))
    for split in grouped_splits(samples):
        assert Counter(sample.label for sample in split.test) == {"benign": 10, "malignant": 2}


def test_training_keeps_all_copies_and_other_parts_the_first():
    samples = dataset(copies=3)
    for split in grouped_splits(samples):
        trained = groups_of(split.train)
        assert sorted(s.name for s in split.train) == sorted(s.name for s in samples if s.group in trained)
        for part in (split.validation, split.test):
            assert len(part) == len(groups_of(part))
            assert all(sample.name.endswith("a.png") for sample in part)


def test_groups_of_several_classes_are_left_out():
    samples = dataset()
    crossing = [
        sample("x.png", "benign", "both"),
        sample("y.png", "malignant", "both"),
        sample("z.png", "benign", "both"),
    ]
    for split, without in zip(grouped_splits(samples + crossing), grouped_splits(samples), strict=True):
        assert split == without


def test_same_seed_gives_the_same_folds_and_another_seed_others():
    assert grouped_splits(dataset(), seed=3) == grouped_splits(dataset(), seed=3)
    assert grouped_splits(dataset(), seed=3)[0].test != grouped_splits(dataset(), seed=4)[0].test


def test_samples_without_labels_are_split_too():
    samples = [sample(f"{number}.png", None) for number in range(25)]
    for split in grouped_splits(samples):
        assert (len(split.train), len(split.validation), len(split.test)) == (16, 4, 5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("groups", "folds"), [(4, 2), (4, 3), (4, 4), (5, 5), (6, 5), (7, 5), (9, 2)])
def test_fewest_groups_allowed_fill_every_part_with_every_class(groups, folds):
    for split in grouped_splits(dataset(groups=groups, copies=1), folds):
        for part in PARTS:
            assert {sample.label for sample in getattr(split, part)} == set(CLASSES)


@pytest.mark.parametrize(("groups", "folds", "least"), [(4, 5, 5), (3, 2, 4), (9, 10, 10)])
def test_too_few_groups_of_a_class_are_refused(groups, folds, least):
    samples = dataset(groups=20) + dataset(groups=groups, labels=("rare",))
    with pytest.raises(
        ValueError, match=f"^Expected at least {least} groups of images a class, found {groups} of rare$"
    ):
        grouped_splits(samples, folds)


@pytest.mark.parametrize("folds", [1, 0, -1])
def test_fewer_than_two_folds_are_refused(folds):
    with pytest.raises(ValueError, match=f"at least 2 folds, found {folds}"):
        grouped_splits(dataset(), folds)


@pytest.mark.parametrize("samples", [[], [sample("x.png", "benign", "both"), sample("y.png", "malignant", "both")]])
def test_nothing_to_split_is_refused(samples):
    with pytest.raises(ValueError, match="found none whose group has a single class"):
        grouped_splits(samples)


def test_busi_is_split_without_its_cross_class_groups(busi_folder):
    splits = grouped_splits(find_samples(busi_folder))
    tested = [sample for split in splits for sample in split.test]
    assert len(tested) == len(groups_of(tested)) == 587 - 8
    for split in splits:
        assert len(split.test) == pytest.approx(579 / 5, abs=8)
        assert {sample.label for sample in split.test} == set(CLASSES)
        assert not groups_of(split.train) & groups_of(split.test)


def test_groups_of_several_classes_are_kept_when_wished():
    crossing = [sample("x.png", "benign", "both"), sample("y.png", "malignant", "both")]
    tested = [s for split in grouped_splits(dataset() + crossing, keep_conflicts=True) for s in split.test]
    assert [s.name for s in tested if s.group == "both"] == ["x.png"]  # one image a group, as of every other


def test_all_is_trained_with_but_groups_of_several_classes():
    crossing = [sample("x.png", "benign", "both"), sample("y.png", "malignant", "both")]
    assert train_on_all(dataset() + crossing) == Split(tuple(dataset()), (), ())


# === Several sources ===
def several(**sources):
    """The samples of datasets by their names, as `find_samples` makes them of several folders."""
    return [
        replace(one, name=f"{name}/{one.name}", group=f"{name}/{one.group}", source=name)
        for name, mine in sources.items()
        for one in mine
    ]


def test_folds_of_a_source_are_those_that_it_has_alone():
    alone = {"a": dataset(groups=25, labels=("benign", "malignant")), "b": dataset(groups=11, copies=3)}
    splits = grouped_splits(several(**alone), seed=2)
    for name, samples in alone.items():
        for split, expected in zip(splits, grouped_splits(samples, seed=2), strict=True):
            for part in PARTS:
                mine = [one.name for one in getattr(split, part) if one.source == name]
                assert mine == [f"{name}/{one.name}" for one in getattr(expected, part)]


def test_source_among_several_may_have_fewer_groups_of_a_class_than_folds():
    rare = dataset(groups=20, copies=1, labels=("benign",)) + dataset(groups=3, copies=1, labels=("normal",))
    tested = [one for split in grouped_splits(several(a=dataset(), b=rare)) for one in split.test]
    assert Counter(one.label for one in tested if one.source == "b") == {"benign": 20, "normal": 3}


def test_group_that_crosses_sources_stays_in_one_part():
    samples = several(a=dataset(), b=dataset())
    copies = {f"{source}/benign {number}a.png": f"copy {number}" for source in "ab" for number in range(25)}
    samples = [replace(one, group=copies.get(one.name, one.group)) for one in samples]
    for split in grouped_splits(samples):
        train, validation, test = (groups_of(getattr(split, part)) for part in PARTS)
        assert len(train) + len(validation) + len(test) == len(train | validation | test) == len(groups_of(samples))


def test_left_out_source_is_tested_by_what_has_seen_none_of_it():
    samples = several(a=dataset(groups=25), b=dataset(groups=10), c=dataset(groups=15))
    splits = leave_one_source_out(samples)
    assert len(splits) == 3
    for name, count, split in zip("abc", (25, 10, 15), splits, strict=True):
        assert {one.source for one in split.test} == {name}
        assert len(split.test) == 3 * count  # of two copies the first one
        assert {one.source for one in (*split.train, *split.validation)} == set("abc") - {name}
        train, validation = groups_of(split.train), groups_of(split.validation)
        assert not train & validation
        assert len(train | validation) == 3 * (50 - count)
        assert len(validation) == 3 * (50 - count) // 5
        assert len(split.train) == 2 * len(train)  # training has both copies


def test_copies_of_the_left_out_source_are_not_trained_with():
    samples = several(a=dataset(), b=dataset())
    copy = next(one for one in samples if one.name == "b/benign 0a.png")
    samples = [replace(one, group=copy.group) if one.name == "a/benign 3a.png" else one for one in samples]
    for split in leave_one_source_out(samples):
        assert copy.group in groups_of(split.test)
        assert copy.group not in groups_of(split.train) | groups_of(split.validation)


def test_one_source_cannot_be_left_out():
    with pytest.raises(ValueError, match=r"^Expected at least two sources to leave one out, found 1$"):
        leave_one_source_out(dataset())


def test_sources_are_in_the_order_of_their_names():
    found = by_source(several(b=dataset(groups=1), a=dataset(groups=2)))
    assert [(name, len(mine)) for name, mine in found.items()] == [("a", 2 * 2 * 3), ("b", 1 * 2 * 3)]


def test_groups_and_folds_of_several_sources_come_from_files(tmp_path):
    samples = several(a=dataset(), b=dataset())
    rows = [f"{one.name},{'both' if one.name[2:] == 'benign 0a.png' else one.name}" for one in samples]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *rows]) + "\n")
    grouped = read_groups(tmp_path / "groups.csv", samples)
    assert [one.name for one in grouped if one.group == "both"] == ["a/benign 0a.png", "b/benign 0a.png"]
    splits = grouped_splits(grouped)
    write_splits(tmp_path / "splits.csv", splits)
    assert [read_split(tmp_path / "splits.csv", grouped, fold) for fold in range(5)] == splits


# === Random folds, and what they leak ===
def test_random_folds_test_every_image_once_and_hold_every_class_in_its_share():
    samples = dataset(groups=25, copies=2)
    splits = random_splits(samples)
    assert sorted(s.name for split in splits for s in split.test) == sorted(s.name for s in samples)
    for split in splits:
        # Of 50 images a class, 10 are tested; of the 40 others a fifth validates.
        assert Counter(s.label for s in split.test) == dict.fromkeys(CLASSES, 10)
        assert Counter(s.label for s in split.validation) == dict.fromkeys(CLASSES, 8)
        assert Counter(s.label for s in split.train) == dict.fromkeys(CLASSES, 32)


def test_random_folds_part_copies_and_grouped_folds_do_not():
    samples = dataset(copies=2)
    # A copy is in the same fifth by a chance of about one in five.
    share = sum(len(leaked(split, samples)) for split in random_splits(samples)) / len(samples)
    assert share == pytest.approx(0.8, abs=0.1)
    assert sum(len(leaked(split, samples)) for split in grouped_splits(samples)) == 0


def test_leak_counts_scored_images_with_a_copy_among_those_used():
    a, b, c, d = (sample(f"{name}.png", group=group) for name, group in zip("abcd", ("1", "1", "2", "2")))
    assert leaked(Split(train=(a,), validation=(), test=(b, c)), [a, b, c, d]) == [b]
    assert leaked(Split(train=(a,), validation=(c,), test=(b, d)), [a, b, c, d]) == [b, d]
    # Without a test part the validation part is what is scored.
    assert leaked(Split(train=(a,), validation=(b, c, d), test=()), [a, b, c, d]) == [b]


def test_random_folds_of_busi_leak_more_than_a_third(busi_folder):
    samples = find_samples(busi_folder)
    assert sum(len(leaked(split, samples)) for split in random_splits(samples)) == 291  # of 780, 37.3 %


# === Groups from a file ===
def test_groups_come_from_a_file(tmp_path):
    (tmp_path / "groups.csv").write_text("file,group\nb.png,patient 1\na.png,patient 1\n")
    samples = read_groups(tmp_path / "groups.csv", [sample("a.png"), sample("b.png", "malignant")])
    assert samples == [sample("a.png", group="patient 1"), sample("b.png", "malignant", "patient 1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,group\na.png,1\n", "a group for every image, found none for 'b.png'"),
        ("file,group\na.png,1\nb.png,\n", "a group for every image, found none for 'b.png'"),
        ("file,group\na.png,1\na.png,2\nb.png,2\n", "one group a file, found two for 'a.png'"),
        ("file\na.png\n", "the column 'group', found file"),
    ],
)
def test_bad_file_of_groups_is_named(tmp_path, text, message):
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"^Expected {message}.*groups\.csv$"):
        read_groups(tmp_path / "groups.csv", [sample("a.png"), sample("b.png")])


# === CSV ===
@pytest.mark.parametrize("labels", [CLASSES, (None,)])
def test_folds_come_back_from_their_file(tmp_path, labels):
    samples = dataset(labels=labels)
    splits = grouped_splits(samples)
    write_splits(tmp_path / "splits.csv", splits)
    assert [read_split(tmp_path / "splits.csv", samples, fold) for fold in range(5)] == splits


def test_file_has_a_row_for_every_image_of_every_fold(tmp_path):
    split = Split((sample("a, b.png"),), (sample("c.png", None),), (sample("d.png", "normal", "patient 7"),))
    write_splits(tmp_path / "splits.csv", [split, split], first_fold=3)
    rows = ["a, b.png", "c.png", "d.png"]
    assert (tmp_path / "splits.csv").read_text().splitlines() == [
        "fold,file,label,group,part",
        *(
            row
            for fold in (3, 4)
            for row in (
                f'{fold},"{rows[0]}",benign,"{rows[0]}",train',
                f"{fold},{rows[1]},,{rows[1]},validation",
                f"{fold},{rows[2]},normal,patient 7,test",
            )
        ),
    ]


def test_single_fold_needs_no_number(tmp_path):
    split = grouped_splits(dataset())[2]
    write_splits(tmp_path / "splits.csv", [split], first_fold=2)
    assert read_split(tmp_path / "splits.csv", dataset()) == split
    assert read_split(tmp_path / "splits.csv", dataset(), fold=2) == split


SAMPLES = [
    sample("a.png", group="1"),
    sample("b.png", group="1"),
    sample("c.png", group="2"),
    sample("d.png", group="3"),
]
GOOD = "fold,file,part\n0,a.png,train\n0,b.png,train\n0,c.png,validation\n0,d.png,test\n"


def read(folder, text, fold=None):
    (folder / "splits.csv").write_text(text)
    return read_split(folder / "splits.csv", SAMPLES, fold)


def test_hand_written_file_needs_three_columns_only(tmp_path):
    assert read(tmp_path, GOOD) == Split(tuple(SAMPLES[:2]), (SAMPLES[2],), (SAMPLES[3],))


def test_validation_and_test_parts_may_be_empty(tmp_path):
    assert read(tmp_path, "part,file,fold\ntrain,d.png,0\n") == Split((SAMPLES[3],), (), ())


def test_group_column_goes_before_the_groups_of_the_dataset(tmp_path):
    text = "fold,file,part,group\n0,a.png,train,x\n0,b.png,test,y\n"  # a and b share a group in the dataset
    assert read(tmp_path, text) == Split((SAMPLES[0],), (), (SAMPLES[1],))


@pytest.mark.parametrize(
    ("text", "fold", "message"),
    [
        (GOOD, 1, "fold 1, found the folds 0"),
        (GOOD + "1,a.png,train\n", None, "one fold, or its number, found the folds 0, 1"),
        (GOOD + "1,a.png,train\n", 2, "fold 2, found the folds 0, 1"),
        ("fold,file,part\n", None, "found the folds of no row"),
        (GOOD + "0,e.png,train\n", None, "found 'e.png', which it lacks"),
        (GOOD.replace("validation", "val"), None, "train, validation, test, found 'val' for 'c.png'"),
        ("file,part,fold\na.png,train,0\nc.png\n", 1, "fold 1, found the folds , 0"),
        ("file,fold,part\na.png,0,train\nc.png,0\n", 0, "found '' for 'c.png'"),
        (GOOD + "0,a.png,train\n", None, "one row a file in fold 0, found two for 'a.png'"),
        ("fold,file,part,group\n0,a.png,train,x\n0,a.png,test,y\n", 0, "two for 'a.png'"),
        (GOOD.replace("b.png,train", "b.png,test"), None, "group 1 in one part, found it in train and test"),
        ("fold,file,part,group\n0,a.png,train,x\n0,d.png,validation,x\n", 0, "group x .* in train and validation"),
        ("fold,file,part\n0,a.png,test\n", 0, "a train part in fold 0, found none"),
        ("fold,file\n0,a.png\n", 0, "the column 'part', found fold, file"),
        ("", 0, "the column 'fold', found no header"),
    ],
)  # fmt: skip
def test_bad_file_is_named_with_what_was_found(tmp_path, text, fold, message):
    with pytest.raises(ValueError, match=rf"^Expected .*({message}).*: .*splits\.csv$"):
        read(tmp_path, text, fold)


def test_bad_rows_of_other_folds_do_not_matter(tmp_path):
    assert read(tmp_path, GOOD + "1,e.png,never\n", fold=0) == read(tmp_path, GOOD)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        read_split(tmp_path / "gone.csv", SAMPLES)


# === Names with accents ===
def test_groups_and_folds_typed_with_composed_accents_fit_files_of_macos(tmp_path):
    on_disk = [sample(f"cafe\u0301 {number}.png") for number in range(2)]  # the letter and its accent
    write_splits(tmp_path / "splits.csv", [Split((sample("caf\xe9 0.png"),), (), (sample("caf\xe9 1.png"),))])
    assert read_split(tmp_path / "splits.csv", on_disk) == Split((on_disk[0],), (), (on_disk[1],))
    (tmp_path / "groups.csv").write_text("file,group\ncaf\xe9 0.png,a\ncaf\xe9 1.png,b\n", encoding="utf-8")
    assert [one.group for one in read_groups(tmp_path / "groups.csv", on_disk)] == ["a", "b"]
