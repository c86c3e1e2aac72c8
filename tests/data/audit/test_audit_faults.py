import shutil

import numpy as np
import pytest
from PIL import Image

from busseg.data.audit import audit_dataset
from busseg.data.audit_text import format_audit
from busseg.data.phantom import draw_phantom
from busseg.imaging.images import read_image, write_image


def test_unreadable_files_are_named_with_the_reason(root, found, kinds):
    (root / "benign" / "b0.png").write_bytes(b"")
    (root / "benign" / "b1.png").write_text("not an image")
    whole = (root / "malignant" / "m0_mask.png").read_bytes()
    (root / "malignant" / "m0_mask.png").write_bytes(whole[:-30])
    audit = audit_dataset(root)
    reasons = found(audit, "unreadable")
    assert list(reasons) == ["benign/b0.png", "benign/b1.png", "malignant/m0_mask.png"]
    assert reasons["benign/b0.png"] == "Expected an image, found an empty file (0 bytes)"
    assert reasons["benign/b1.png"] == "Expected a PNG, JPEG, BMP or TIFF image, found something else"
    assert "broken file" in reasons["malignant/m0_mask.png"]
    assert kinds(audit) == {"unreadable"}
    assert audit["images"] == 9
    assert len({file["group"] for file in audit["files"]}) == 9  # the unreadable have a group too


def test_dataset_of_unreadable_images_is_reported_as_such(pair_root, found):
    for path in (pair_root / "images").iterdir():
        path.write_bytes(b"")
    audit = audit_dataset(pair_root)
    assert len(found(audit, "unreadable")) == 3
    assert audit["width_px"] is None
    assert "unreadable files: images/benign.png" in format_audit(audit)


def test_image_without_mask_and_mask_without_image_are_named(root, found, kinds):
    (root / "benign" / "b0_mask.png").unlink()
    (root / "malignant" / "m1.png").unlink()
    audit = audit_dataset(root)
    assert found(audit, "missing_mask") == {
        "benign/b0.png": "Expected b0_mask.png beside the image, found no mask",
    }
    assert list(found(audit, "orphan_mask")) == ["malignant/m1_mask.png"]
    assert kinds(audit) == {"missing_mask", "orphan_mask"}


def test_missing_and_empty_class_folders_are_named(root, found):
    shutil.rmtree(root / "normal")
    for path in (root / "benign").iterdir():
        path.unlink()
    audit = audit_dataset(root)
    assert list(found(audit, "missing_class")) == ["normal", "benign"]
    assert audit["images"] == 3


def test_missing_folder_of_masks_leaves_every_image_without_one(pair_root, found):
    shutil.rmtree(pair_root / "masks")
    audit = audit_dataset(pair_root)
    assert list(found(audit, "missing_folder")) == ["masks"]
    assert len(found(audit, "missing_mask")) == 3


@pytest.mark.parametrize("place", ["images", "masks"])
def test_second_file_of_a_name_is_named(pair_root, place, found):
    shutil.copy(pair_root / place / "benign.png", pair_root / place / "benign.tif")
    audit = audit_dataset(pair_root)
    assert list(found(audit, "name_clash")) == [f"{place}/benign.tif"]
    assert audit["images"] == 3


def test_second_image_of_a_name_is_named_in_busi_too(root, found):
    shutil.copy(root / "benign" / "b0.png", root / "benign" / "b0.tif")
    assert list(found(audit_dataset(root), "name_clash")) == ["benign/b0.tif"]


def test_faults_in_the_labels_are_reported_and_the_images_keep_no_class(pair_root, write_labels):
    write_labels(pair_root, "benign.png,cyst", "malignant.png,malignant", "gone.png,benign")
    audit = audit_dataset(pair_root)
    details = [entry["detail"] for entry in audit["findings"]["bad_label"]]
    assert details == [
        "Expected a label of normal, benign, malignant, found 'cyst' for 'benign.png'",
        "Expected rows for the files in images, found 'gone.png'",
        "Expected a row for every file in images, found none for 'normal.png'",
    ]
    assert {label: row["images"] for label, row in audit["classes"].items()} == {"malignant": 1, "no class": 2}


def test_labels_without_their_columns_are_one_fault(pair_root, found, write_labels):
    write_labels(pair_root, "benign.png,benign", header="name,class")
    details = found(audit_dataset(pair_root), "bad_label")
    assert details == {"labels.csv": "Expected the column 'file', found name, class"}


def test_mask_of_another_size_is_named_and_kept_out_of_the_statistics(root, found, kinds):
    write_image(root / "benign" / "b0_mask.png", np.full((60, 80), 255, np.uint8))
    audit = audit_dataset(root)
    assert found(audit, "misaligned_mask") == {"benign/b0_mask.png": "80 x 60 px, the image 160 x 120 px"}
    assert audit["classes"]["benign"]["lesion"]["images"] == 2
    assert kinds(audit) == {"misaligned_mask"}


def test_empty_mask_of_a_lesion_and_lesion_on_a_normal_image_are_named(root, found):
    empty, full = np.zeros((120, 160), np.uint8), np.full((120, 160), 255, np.uint8)
    write_image(root / "malignant" / "m2_mask.png", empty)
    write_image(root / "normal" / "n1_mask.png", full)
    audit = audit_dataset(root)
    assert list(found(audit, "empty_mask")) == ["malignant/m2.png"]
    assert list(found(audit, "lesion_on_normal")) == ["normal/n1.png"]


def test_image_with_one_empty_mask_of_two_has_a_lesion(root, kinds):
    write_image(root / "benign" / "b0_mask_1.png", np.zeros((120, 160), np.uint8))
    assert kinds(audit_dataset(root)) == {"several_masks"}


def test_soft_mask_is_noted_with_its_share(root, found):
    mask = np.full((120, 160), 255, np.uint8)
    mask[60:] = 0
    mask[:60:10] = 200  # thin, as a soft edge is
    write_image(root / "benign" / "b1_mask.png", mask)
    audit = audit_dataset(root)
    assert found(audit, "soft_mask") == {"benign/b1_mask.png": "5.00% of the pixels"}  # 6 of 120 rows
    assert "No problem found" in format_audit(audit)


def test_mask_of_zeros_and_ones_is_not_soft(root, kinds):
    path = root / "benign" / "b1_mask.png"
    write_image(path, (read_image(path) > 0).astype(np.uint8))
    assert kinds(audit_dataset(root)) == set()


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_coloured_marks_are_found_and_grey_in_three_channels_is_not(root, mode, found):
    for name in ("b0", "b1"):
        path = root / "benign" / f"{name}.png"
        pixels = np.repeat(read_image(path)[..., None], 3, axis=2)
        if name == "b0":
            pixels[60:66, 20:52] = (255, 255, 0)
        Image.fromarray(pixels).convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    details = found(audit_dataset(root), "colour_overlay")
    assert details == {"benign/b0.png": "1.00% of the pixels"}  # 6 * 32 of 120 * 160


def test_burned_in_marks_are_found_and_counted_by_class(root, found):
    for number in range(2):  # the third stays as small as all others
        image, mask = draw_phantom("malignant", number, 240, 320)
        if number == 1:
            image[100:116:4, 60:100] = 255  # four strokes over
            image[101:116:4, 60:100] = 0  # dark gaps
        write_image(root / "malignant" / f"m{number}.png", image)
        write_image(root / "malignant" / f"m{number}_mask.png", mask)
    audit = audit_dataset(root)
    assert list(found(audit, "burned_in")) == ["malignant/m1.png"]
    assert {label: (row["marked"], row["judged"]) for label, row in audit["classes"].items()} == {
        "normal": (0, 0),
        "benign": (0, 0),
        "malignant": (1, 2),
    }
    text = format_audit(audit)
    assert "malignant         3   33.3%   50.0%" in text
    assert "7 images are too small to distinguish marks from echoes" in text
