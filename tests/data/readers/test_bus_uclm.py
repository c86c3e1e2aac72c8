import numpy as np
import pytest

from busseg.data import find_reader, find_samples
from busseg.data.readers import bus_uclm
from busseg.imaging.images import read_mask, write_image

BLACK, GREEN, RED = (0, 0, 0), (0, 255, 0), (255, 0, 0)


@pytest.fixture
def root(tmp_path):
    """A folder of BUS-UCLM's shape: three images of two patients, each 6 x 4 px, the lesions 2 x 2."""
    folder = tmp_path / "BUS-UCLM"
    rows = ["Image;Doppler;Marks;Label"]
    for name, label, colour in (
        ("ALWI_000.png", "Benign", GREEN),
        ("ALWI_001.png", "Normal", BLACK),
        ("ANAT_000.png", "Malignant", RED),
    ):
        mask = np.zeros((4, 6, 3), np.uint8)
        mask[1:3, 1:3] = colour
        write_image(folder / "images" / name, np.full((4, 6), 90, np.uint8))
        write_image(folder / "masks" / name, mask)
        rows.append(f"{name};No;No;{label}")
    (folder / "INFO.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return folder


def test_table_gives_class_and_name_gives_patient(root):
    samples = bus_uclm.find_samples(root)
    assert [(sample.name, sample.label, sample.group) for sample in samples] == [
        ("ALWI_000.png", "benign", "ALWI"),
        ("ALWI_001.png", "normal", "ALWI"),
        ("ANAT_000.png", "malignant", "ANAT"),
    ]
    assert samples[2].attributes == {"patient": "ANAT"}


def test_green_and_red_are_lesion_alike_and_black_is_none(root):
    areas = [int(read_mask(sample.masks, (4, 6)).sum()) for sample in bus_uclm.find_samples(root)]
    assert areas == [2 * 2, 0, 2 * 2]


@pytest.mark.parametrize("parent", [False, True])
def test_folder_is_recognised_by_its_table_not_as_a_folder_of_pairs(root, parent):
    assert find_reader(root.parent if parent else root) == (bus_uclm, root)
    assert len(find_samples(root)) == 3


def test_image_without_a_mask_is_refused_by_name(root):
    (root / "masks" / "ALWI_001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^Expected ALWI_001\.png in .*masks, found no mask: "):
        bus_uclm.find_samples(root)
