from collections import Counter, defaultdict

from busseg.data.duplicates import published_busi_groups


def test_every_busi_image_has_a_group():
    expected = {
        f"{c} ({n})" for c, count in (("benign", 437), ("malignant", 210), ("normal", 133)) for n in range(1, count + 1)
    }
    assert published_busi_groups().keys() == expected


def test_counts_are_the_published_ones():
    groups = published_busi_groups()
    sizes = Counter(groups.values())
    assert len(sizes) == 587
    copied = [size for size in sizes.values() if size > 1]
    assert len(copied) == 153
    assert sum(copied) == 346  # 587 - 153 + 346 = 780
    assert len(groups) == 780


def test_eight_groups_cross_the_classes():
    classes_of = defaultdict(set)
    for stem, group in published_busi_groups().items():
        classes_of[group].add(stem.split()[0])
    assert sum(len(classes) > 1 for classes in classes_of.values()) == 8


def test_known_copies_share_a_group_and_others_do_not():
    groups = published_busi_groups()
    assert groups["benign (433)"] == groups["malignant (145)"]
    assert groups["benign (1)"] != groups["benign (2)"]


def test_group_names_do_not_meet_those_of_other_datasets():
    assert all(group.startswith("busi-") for group in published_busi_groups().values())
