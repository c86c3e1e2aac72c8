"""Tables broken at random, the same way every time: each is read, or refused by its name, and nothing else happens."""

import random

import pytest

from busseg.data import find_samples
from busseg.data.phantom import draw_phantom
from busseg.data.splits import grouped_splits, read_groups, read_split, write_splits
from busseg.imaging.images import write_image

JUNK = (
    b"\0",
    b"\xff\xfe",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"=",
    b"\xef\xbb\xbf",
    b"1e999",
    b"-1",
    b"9" * 40,
    b"nan",
    b"a" * 140_000,
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Twelve samples of a folder of pairs, with `labels.csv`."""
    root = tmp_path_factory.mktemp("pairs")
    rows = []
    for number in range(12):
        label = ("normal", "benign", "malignant")[number % 3]
        image, mask = draw_phantom(label, number, 32, 40)
        write_image(root / f"images/{number}.png", image)
        write_image(root / f"masks/{number}.png", mask * 255)
        rows.append(f"{number}.png,{label},{number}\n")
    (root / "labels.csv").write_text("file,label,group\n" + "".join(rows))
    return find_samples(root)


def break_table(content, dice):
    content = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        start = dice.randrange(len(content) + 1)
        end = start + dice.randrange(30)
        content[start : dice.choice((start, end))] = dice.choice((b"", *JUNK))
    return bytes(content)


@pytest.mark.parametrize("name", ["splits.csv", "groups.csv", "labels.csv"])
def test_broken_table_is_read_or_refused_by_its_name(samples, tmp_path, name):
    root = samples[0].image.parents[1]
    path = root / name if name == "labels.csv" else tmp_path / name
    if name == "splits.csv":
        write_splits(path, grouped_splits(samples, 2))
    elif name == "groups.csv":
        path.write_text("file,group\n" + "".join(f"{sample.name},{sample.group}\n" for sample in samples))
    read = {
        "splits.csv": lambda: read_split(path, samples, 0),
        "groups.csv": lambda: read_groups(path, samples),
        "labels.csv": lambda: find_samples(root),
    }[name]
    whole, dice, lines = path.read_bytes(), random.Random(0), []
    read()
    for _ in range(300):
        path.write_bytes(break_table(whole, dice))
        try:
            read()
        except ValueError as error:
            lines.append(str(error))
    path.write_bytes(whole)
    assert 100 < len(lines) < 300
    assert [line for line in lines if not (line.startswith("Expected ") and line.endswith(f": {path}"))] == []
