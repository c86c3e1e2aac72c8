from collections import Counter
from dataclasses import replace

import pytest

from busseg.data import find_samples as find_any
from busseg.data.protocols import PUBLISHED, busbra_splits, curated_splits, make_splits, tang_splits
from busseg.data.readers.busi import find_samples
from busseg.data.sample import Sample
from busseg.data.splits import (
    PARTS,
    grouped_splits,
    leaked,
    leave_one_source_out,
    random_splits,
    read_split,
    write_splits,
)

OF_BUSI = ("grouped", "random", "tang", "curated")


def samples_like_busi():
    """Samples with BUSI's names and no files: 437 benign, 210 malignant, 133 normal, each a group of its own."""
    counts = {"benign": 437, "malignant": 210, "normal": 133}
    names = [(label, f"{label} ({number})") for label, count in counts.items() for number in range(1, count + 1)]
    return [Sample(f"{label}/{stem}.png", PUBLISHED / label / f"{stem}.png", (), label, stem) for label, stem in names]


def test_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"a protocol of grouped, leave-one-source-out, random, .*, found 'holdout'"):
        make_splits("holdout", samples_like_busi())


def test_leave_one_source_out_has_a_fold_a_source():
    samples = [
        replace(sample, name=f"{source}/{sample.name}", group=f"{source}/{sample.group}", source=source)
        for source in ("here", "there")
        for sample in samples_like_busi()[::10]
    ]
    splits = make_splits("leave-one-source-out", samples, folds=7)
    assert splits == leave_one_source_out(samples)
    assert [{sample.source for sample in split.test} for split in splits] == [{"here"}, {"there"}]


def test_protocols_of_one_s_own_data_are_the_functions_of_their_name():
    samples = samples_like_busi()
    assert make_splits("grouped", samples, folds=3, seed=1) == grouped_splits(samples, folds=3, seed=1)
    assert make_splits("random", samples, folds=3, seed=1) == random_splits(samples, folds=3, seed=1)


def test_tang_s_splits_are_three_of_452_and_195_lesion_images():
    splits = make_splits("tang", samples_like_busi())
    assert [(len(split.train), len(split.validation), len(split.test)) for split in splits] == [(452, 195, 0)] * 3
    for split in splits:
        parts = split.train + split.validation
        assert len({sample.name for sample in parts}) == 452 + 195
        assert {sample.label for sample in parts} == {"benign", "malignant"}


@pytest.mark.parametrize("protocol", OF_BUSI)
def test_folds_with_copies_are_read_back_as_they_were_written(tmp_path, protocol):
    """A fold that is resumed, or scored again, is read from its file."""
    samples = [replace(sample, group=f"group {number // 2}") for number, sample in enumerate(samples_like_busi())]
    splits = make_splits(protocol, samples)
    write_splits(tmp_path / "splits.csv", splits)
    for fold, split in enumerate(splits):
        read = read_split(tmp_path / "splits.csv", samples, fold)
        assert names(read) == names(split)


def names(split):
    return [[sample.name for sample in getattr(split, part)] for part in PARTS]


def test_tang_s_files_are_read_in_their_order(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"train{number}.txt").write_text("malignant (2)\r\nbenign (1)\r\n")
        (tmp_path / f"val{number}.txt").write_text("benign (3)\n\n")
    split = tang_splits(samples_like_busi(), tmp_path)[2]
    assert [sample.name for sample in split.train] == ["malignant/malignant (2).png", "benign/benign (1).png"]
    assert [sample.name for sample in split.validation] == ["benign/benign (3).png"]


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ("benign (438)", "found none named 'benign .438.'"),
        ("benign (1)", "benign .1..png in one part, found it in both"),
    ],
)
def test_tang_s_files_that_do_not_fit_are_named(tmp_path, validation, message):
    for number in (1, 2, 3):
        (tmp_path / f"train{number}.txt").write_text("benign (1)\n")
        (tmp_path / f"val{number}.txt").write_text(validation)
    with pytest.raises(ValueError, match=rf"^Expected .*{message}.*val1\.txt$"):
        tang_splits(samples_like_busi(), tmp_path)


def test_curated_folds_are_four_of_450_images():
    splits = make_splits("curated", samples_like_busi())
    assert len(splits) == 4
    tested = Counter(sample.label for split in splits for sample in split.test)
    assert tested == {"benign": 222, "malignant": 164, "normal": 64}
    assert curated_splits(samples_like_busi(), seed=1) != splits


def test_published_protocols_refuse_another_dataset(phantom_samples):
    for protocol in ("tang", "curated"):
        with pytest.raises(ValueError, match="Expected the images of BUSI, found none named"):
            make_splits(protocol, phantom_samples)


def test_leaks_of_the_protocols_on_busi(busi_folder):
    samples = find_samples(busi_folder)
    share = {}
    for protocol in OF_BUSI:
        splits = make_splits(protocol, samples)
        scored = sum(len(split.test or split.validation) for split in splits)
        share[protocol] = sum(len(leaked(split, samples)) for split in splits) / scored
    assert share["grouped"] == share["curated"] == 0
    assert share["random"] == pytest.approx(291 / 780)
    assert share["tang"] == pytest.approx((55 + 58 + 57) / (3 * 195))


def test_published_files_are_those_of_their_authors(busi_folder):
    theirs = busi_folder.parent / "splits"
    if not theirs.is_dir():
        pytest.skip("needs the published split files beside BUSI")
    for path in sorted(PUBLISHED.rglob("*.[ct][sx][vt]")):
        assert path.read_text().splitlines() == (theirs / path.relative_to(PUBLISHED)).read_text().splitlines()


# === BUS-BRA ===
@pytest.fixture
def busbra(tmp_path):
    """Forty patients of two views, every fourth malignant, as samples whose files are not there.

    The authors' fold of patient n is n % 5 + 1.
    """
    ids = [(f"bus_{number:04}-{side}", number) for number in range(40) for side in "lr"]
    rows = [f"{name},{number % 5 + 1}" for name, number in ids]
    (tmp_path / "5-fold-cv.csv").write_text("\n".join(("ID,kFold", *rows, "bus_9999-s,1")) + "\n")
    return [
        Sample(
            f"{name}.png", tmp_path / "Images" / f"{name}.png", (), "benign" if number % 4 else "malignant", str(number)
        )
        for name, number in ids
    ]


def test_busbra_s_folds_test_the_authors_patients_with_all_their_views(busbra):
    splits = make_splits("busbra5", busbra)
    assert len(splits) == 5
    for fold, split in enumerate(splits):
        assert sorted(int(sample.group) for sample in split.test) == sorted([*range(fold, 40, 5)] * 2)


def test_busbra_s_folds_keep_patients_whole_and_validate_with_a_fifth_of_the_rest(busbra):
    for split in make_splits("busbra5", busbra):
        groups = [{sample.group for sample in getattr(split, part)} for part in PARTS]
        assert [len(part) for part in groups[1:]] == [pytest.approx(32 / 5, abs=1), 8]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 40
        assert sum(len(getattr(split, part)) for part in PARTS) == 80
        assert {sample.label for sample in split.validation} == {"benign", "malignant"}


def test_busbra_s_folds_train_with_no_image_whose_group_is_tested(busbra):
    # Patients 6 and 7, whom the authors test in folds 2 and 3, show one lesion.
    samples = [replace(sample, group="6") if sample.group == "7" else sample for sample in busbra]
    for fold, split in enumerate(make_splits("busbra5", samples)):
        used, tested = {s.group for s in split.train + split.validation}, {s.group for s in split.test}
        assert not used & tested
        assert len(split.train + split.validation) == 64 - 2 * (fold in (1, 2))


def test_busbra_s_folds_of_some_patients_are_their_part_of_the_whole_ones(busbra):
    some = [sample for sample in busbra if int(sample.group) < 30]
    for part, whole in zip(make_splits("busbra5", some), make_splits("busbra5", busbra)):
        assert set(part.test) == set(whole.test) & set(some)


def test_busbra_s_folds_that_do_not_fit_are_refused(busbra, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected the folds of BUS-BRA .*10-fold-cv\.csv$"):
        make_splits("busbra10", busbra)
    with pytest.raises(ValueError, match=r"^Expected images of all 5 folds of BUS-BRA, found none of fold 3$"):
        busbra_splits([sample for sample in busbra if int(sample.group) % 5 != 2])
    strange = replace(busbra[0], image=tmp_path / "Images" / "scan.png")
    with pytest.raises(ValueError, match=r"^Expected a fold for every image in 5-fold-cv\.csv, .*scan\.png$"):
        busbra_splits([*busbra, strange])


@pytest.mark.slow
@pytest.mark.parametrize("folds", [5, 10])
def test_real_busbra_is_tested_once_and_never_parts_a_patient(busbra_folder, folds):
    samples = find_any(busbra_folder)
    splits = make_splits(f"busbra{folds}", samples)
    assert sorted(sample.name for split in splits for sample in split.test) == sorted(s.name for s in samples)
    for split in splits:
        groups = [{sample.group for sample in getattr(split, part)} for part in PARTS]
        assert sum(map(len, groups)) == len(set.union(*groups)) == len({sample.group for sample in samples})
