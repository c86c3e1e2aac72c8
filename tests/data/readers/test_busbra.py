from collections import Counter

import pytest

from busseg.data import find_reader, find_samples
from busseg.data.readers import busbra

HEADER = "ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"
ROWS = (
    'bus_0001-l,1,invasive ductal carcinoma,malignant,4,GE Logiq 7 @10-14MHz,6,4,left,"[1,1,2,2]"',
    'bus_0001-r,1,invasive ductal carcinoma,malignant,4,GE Logiq 7 @10-14MHz,6,4,right,"[1,1,2,2]"',
    'bus_0006-s,6,fibroadenoma,benign,2,Toshiba Aplio 300 @12-14 MHz,6,4,single,"[1,1,2,2]"',
)


@pytest.fixture
def root(tmp_path):
    """A folder of BUS-BRA's shape: three images of two patients. The files are empty; pairing reads no pixels."""
    for folder, kind in (("Images", "bus"), ("Masks", "mask")):
        (tmp_path / "BUSBRA" / folder).mkdir(parents=True)
        for row in ROWS:
            (tmp_path / "BUSBRA" / folder / f"{row[:10].replace('bus', kind)}.png").touch()
    (tmp_path / "BUSBRA" / "bus_data.csv").write_text("\n".join((HEADER, *ROWS)) + "\n")
    return tmp_path / "BUSBRA"


def test_table_gives_class_patient_and_what_else_it_knows(root):
    first, second, third = busbra.find_samples(root)
    assert [first.name, second.name, third.name] == ["bus_0001-l.png", "bus_0001-r.png", "bus_0006-s.png"]
    assert first.image == root / "Images" / "bus_0001-l.png"
    assert first.masks == (root / "Masks" / "mask_0001-l.png",)
    assert [first.label, third.label] == ["malignant", "benign"]
    assert first.attributes == {
        "patient": "1",
        "birads": "4",
        "histology": "invasive ductal carcinoma",
        "device": "GE Logiq 7 @10-14MHz",
        "side": "left",
    }
    assert first.pixel_mm is None


def test_views_of_a_patient_share_a_group(root):
    assert [sample.group for sample in busbra.find_samples(root)] == ["1", "1", "6"]


@pytest.mark.parametrize("parent", [False, True])
def test_folder_is_recognised_by_its_table(root, parent):
    assert find_reader(root.parent if parent else root) == (busbra, root)
    assert len(find_samples(root.parent if parent else root)) == 3


def test_image_without_a_mask_is_refused_by_name(root):
    (root / "Masks" / "mask_0006-s.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^Expected mask_0006-s\.png in .*, found no mask: .*bus_0006-s\.png$"):
        busbra.find_samples(root)
    samples, faults = busbra.list_samples(root)
    assert [len(sample.masks) for sample in samples] == [1, 1, 0]
    assert [kind for kind, _, _ in faults] == ["missing_mask"]


def test_real_busbra_has_its_counts(busbra_folder):
    """1,875 images of 1,064 patients when whole (1,268 benign, 607 malignant), or a part of its patients."""
    samples = find_samples(busbra_folder)
    labels = Counter(sample.label for sample in samples)
    patients = {sample.attributes["patient"] for sample in samples}
    assert (len(patients), labels) in [
        (1064, {"benign": 1268, "malignant": 607}),
        (620, {"benign": 742, "malignant": 347}),
    ]
    # Cases 853 and 854 show one lesion.
    assert {sample.group for sample in samples} == patients - {"854"}
    assert {s.group for s in samples if s.attributes["patient"] in ("853", "854")} == {"853"}
    assert {sample.attributes["side"] for sample in samples} == {"left", "right", "single"}
    assert all(len(sample.masks) == 1 and len(sample.attributes) == 5 for sample in samples)
