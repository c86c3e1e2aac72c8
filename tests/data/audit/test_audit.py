import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from busseg.data import audit as module
from busseg.data.audit import audit_dataset
from busseg.data.audit_text import format_audit
from busseg.data.duplicates import Copy
from busseg.data.findings import FINDINGS
from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.imaging.images import write_image


# === What is there ===
def test_faultless_folder_has_no_finding(root, search, kinds):
    audit = audit_dataset(root)
    assert kinds(audit) == set()
    assert list(audit["findings"]) == list(FINDINGS)
    assert audit["copies"] == audit["groups"] == []
    assert "No problem found" in format_audit(audit)


def test_classes_are_counted(root):
    (root / "normal" / "n2.png").unlink()
    (root / "normal" / "n2_mask.png").unlink()
    audit = audit_dataset(root)
    assert (audit["images"], audit["masks"]) == (8, 8)
    assert {label: row["images"] for label, row in audit["classes"].items()} == {
        "normal": 2,
        "benign": 3,
        "malignant": 3,
    }
    assert audit["classes"]["normal"]["share"] == 2 / 8


def test_sizes_and_formats_are_counted(root):
    for number, (size, mode) in enumerate([((100, 90), "RGB"), ((300, 200), "RGBA"), ((160, 150), "1")]):
        path = root / "benign" / f"b{number}.png"
        mask = root / "benign" / f"b{number}_mask.png"
        Image.open(path).resize(size).convert(mode).save(path)
        Image.open(mask).resize(size, Image.Resampling.NEAREST).convert("1").save(mask)
    audit = audit_dataset(root)
    assert audit["width_px"] == {"min": 100, "median": 160, "max": 300}
    assert audit["height_px"] == {"min": 90, "median": 120, "max": 200}
    assert audit["image_formats"] == {"PNG grey": 6, "PNG RGB": 1, "PNG RGBA": 1, "PNG 1 bit": 1}
    assert audit["mask_formats"] == {"PNG grey": 6, "PNG 1 bit": 3}


def test_lesion_sizes_are_fractions_of_the_image(root):
    for number, rows in enumerate((12, 24, 60)):
        mask = np.zeros((120, 160), np.uint8)
        mask[:rows] = 255
        write_image(root / "benign" / f"b{number}_mask.png", mask)
    audit = audit_dataset(root)
    assert audit["classes"]["benign"]["lesion"] == pytest.approx(
        {"images": 3, "min": 0.1, "q1": 0.15, "median": 0.2, "q3": 0.35, "max": 0.5}  # 12, 24 and 60 of 120 rows
    )
    assert audit["classes"]["normal"]["lesion"] is None


def test_several_masks_are_one_lesion_and_no_problem(root, found, kinds):
    mask = np.zeros((120, 160), np.uint8)
    mask[:30] = 255
    write_image(root / "benign" / "b0_mask.png", mask)
    write_image(root / "benign" / "b0_mask_1.png", mask[::-1])
    audit = audit_dataset(root)
    assert found(audit, "several_masks") == {"benign/b0.png": "2 masks"}
    assert next(f["lesion_fraction"] for f in audit["files"] if f["file"] == "benign/b0.png") == 0.5  # 30 + 30 of 120
    assert kinds(audit) <= {kind for kind, one in FINDINGS.items() if one.note}
    assert "No problem found" in format_audit(audit)


# === Several folders ===
def test_folders_are_looked_over_together(root, pair_root, found):
    (pair_root / "images" / "benign.png").write_bytes(b"")
    audit = audit_dataset([root, pair_root])
    assert audit["sources"] == {
        "data": {"images": 9, "normal": 3, "benign": 3, "malignant": 3},
        "pairs": {"images": 3, "normal": 1, "benign": 1, "malignant": 1},
    }
    assert (audit["images"], audit["classes"]["benign"]["images"]) == (12, 4)
    assert audit["data"] == str(root.parent)
    names = {file["file"]: (file["source"], file["path"]) for file in audit["files"]}
    assert names["data/benign/b0.png"] == ("data", "data/benign/b0.png")
    assert names["pairs/benign.png"] == ("pairs", "pairs/images/benign.png")
    assert list(found(audit, "unreadable")) == ["pairs/images/benign.png"]
    lines = [line.split() for line in format_audit(audit).splitlines()]
    assert ["source", "images", "normal", "benign", "malignant"] in lines
    assert ["pairs", "3", "1", "1", "1"] in lines
    assert "scans in several sources: 0" in format_audit(audit)


def test_copies_across_sources_are_reported(root, pair_root, search, found):
    shutil.copy(root / "benign" / "b1.png", pair_root / "images" / "benign.png")
    shutil.copy(root / "benign" / "b1.png", root / "benign" / "b2.png")
    shutil.copy(root / "normal" / "n1.png", root / "normal" / "n2.png")
    audit = audit_dataset([root, pair_root])
    across = {"data/benign/b1.png": "and data/benign/b2.png, pairs/benign.png"}
    assert found(audit, "copies_across") == across
    assert found(audit, "copies") == across | {"data/normal/n1.png": "and data/normal/n2.png"}
    assert "scans in several sources: 1" in format_audit(audit)
    group_of = {file["file"]: file["group"] for file in audit["files"]}
    assert group_of["data/benign/b1.png"] == group_of["pairs/benign.png"]


def test_relative_folders_are_looked_over_together(root, pair_root, monkeypatch):
    monkeypatch.chdir(root)
    audit = audit_dataset([".", "../pairs"])
    assert audit["data"] == str(root.parent)
    assert {file["path"] for file in audit["files"]} >= {"data/benign/b0.png", "pairs/images/benign.png"}


def test_one_folder_is_reported_without_sources(root):
    audit = audit_dataset([root])
    assert audit == audit_dataset(root)
    assert "source" not in format_audit(audit)
    assert audit["findings"]["copies_across"] == []


def test_folder_that_is_given_twice_is_refused(root):
    with pytest.raises(ValueError, match=r"^Expected each dataset folder once"):
        audit_dataset([root, root])


# === Copies ===
def test_copies_are_grouped_and_a_scan_under_two_classes_is_named(root, search, found):
    shutil.copy(root / "benign" / "b0.png", root / "malignant" / "m0.png")
    shutil.copy(root / "benign" / "b1.png", root / "benign" / "b2.png")
    audit = audit_dataset(root)
    assert {(copy["first"], copy["second"], copy["exact"]) for copy in audit["copies"]} >= {
        ("benign/b0.png", "malignant/m0.png", True),
        ("benign/b1.png", "benign/b2.png", True),
    }
    assert found(audit, "copies") == {"benign/b0.png": "and malignant/m0.png", "benign/b1.png": "and benign/b2.png"}
    assert found(audit, "label_conflict") == {"benign/b0.png": "benign/b0.png is benign, malignant/m0.png is malignant"}
    groups = {file["file"]: file["group"] for file in audit["files"]}
    assert groups["benign/b0.png"] == groups["malignant/m0.png"] != groups["benign/b1.png"] == groups["benign/b2.png"]
    assert len(set(groups.values())) == 7  # of 9 images
    assert "2 scans with several copies, 4 images in all: benign/b0.png, benign/b1.png" in format_audit(audit)


def test_published_groups_of_busi_are_compared_with_those_by_content(root, monkeypatch):
    for old, new in (("benign/b0", "benign/benign (433)"), ("malignant/m0", "malignant/malignant (145)")):
        for end in (".png", "_mask.png"):
            (root / f"{old}{end}").rename(root / f"{new}{end}")
    # Listed as copies: benign (433) and malignant (145). Found: b1 and b2.
    copies = [Copy(root / "benign" / "b1.png", root / "benign" / "b2.png", 0.9, False)]
    monkeypatch.setattr(module, "find_copies", lambda paths, progress: copies)
    assert audit_dataset(root)["published"] == {
        "groups": 1,
        "images": 2,
        "conflicts": 1,
        "pairs": 1,
        "content_pairs": 1,
        "shared_pairs": 0,
        "only_published_pairs": 1,
        "only_content_pairs": 1,
    }


def test_other_datasets_have_no_published_groups(root, pair_root):
    assert audit_dataset(root)["published"] is None
    assert audit_dataset(pair_root)["published"] is None


# === Shapes of folders ===
def test_pairs_without_labels_have_no_class(pair_root, kinds):
    (pair_root / "labels.csv").unlink()
    (pair_root / "masks" / "normal.png").unlink()
    (pair_root / "images" / "normal.png").unlink()
    audit = audit_dataset(pair_root)
    assert list(audit["classes"]) == ["no class"]
    assert audit["classes"]["no class"]["lesion"]["images"] == 2
    assert kinds(audit) == set()


def test_folder_that_only_holds_the_dataset_is_looked_into(root):
    audit = audit_dataset(root.parent)
    assert audit["images"] == 9
    assert {file["path"] for file in audit["files"]} >= {"data/benign/b0.png"}
    assert {file["file"] for file in audit["files"]} >= {"benign/b0.png"}  # as every other verb names it


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected a dataset folder, found nothing: .*gone$"):
        audit_dataset(tmp_path / "gone")


def test_folder_of_no_known_shape_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected the folders .*, found none: "):
        audit_dataset(tmp_path)


def test_folder_without_any_image_is_refused(tmp_path):
    for label in CLASSES:
        (tmp_path / label).mkdir()
    with pytest.raises(FileNotFoundError, match=r"^Expected images in the class folder, found none: .*normal$"):
        audit_dataset(tmp_path)


# === The result ===
def test_audit_survives_json(root):
    (root / "benign" / "b0.png").write_bytes(b"")
    write_image(root / "benign" / "b1_mask.png", np.full((60, 80), 255, np.uint8))
    audit = audit_dataset(root)
    assert json.loads(json.dumps(audit, allow_nan=False)) == audit


def test_same_folder_gives_the_same_audit(root):
    assert audit_dataset(root) == audit_dataset(str(root))


def test_progress_sees_every_image(root, search):
    seen = []
    audit_dataset(root, progress=lambda images: seen.append(len(images)) or images)
    assert seen[:2] == [9, 9]  # to look at them, and to search for copies


def test_text_counts_the_problems_and_names_the_first_few(root):
    for label in ("benign", "malignant"):
        for path in (root / label).glob("*_mask.png"):
            path.unlink()
    text = format_audit(audit_dataset(root))
    assert "9 images, 3 masks: " in text
    assert "Problems\n      6 images without a mask: benign/b0.png, benign/b1.png, benign/b2.png and 3 more" in text


# === The real BUSI ===
@pytest.mark.slow
def test_busi_is_as_it_is_known_to_be(busi_folder, search, found, kinds):
    audit = audit_dataset(busi_folder)
    assert {label: row["images"] for label, row in audit["classes"].items()} == {
        "normal": 133,
        "benign": 437,
        "malignant": 210,
    }
    assert audit["masks"] == 798
    assert audit["width_px"]["min"] == 190
    assert audit["width_px"]["max"] == 1048
    assert audit["height_px"]["min"] == 310
    assert audit["height_px"]["max"] == 719
    assert audit["mask_formats"] == {"PNG 1 bit": 663, "PNG RGB": 133, "PNG RGBA": 2}
    assert audit["classes"]["benign"]["lesion"]["median"] == pytest.approx(0.038, abs=5e-4)
    assert audit["classes"]["malignant"]["lesion"]["median"] == pytest.approx(0.121, abs=5e-4)
    assert len(found(audit, "several_masks")) == 17
    known = {f"benign/benign ({number}).png" for number in (6, 234, 240, 255, 261, 277, 323)}
    # A Doppler spot, and the thin yellow frame of a Doppler window on both copies of one scan.
    further = {"malignant/malignant (196).png", "benign/benign (13).png", "benign/benign (330).png"}
    assert set(found(audit, "colour_overlay")) == known | further
    flawless = ("unreadable", "missing_mask", "orphan_mask", "misaligned_mask", "empty_mask", "lesion_on_normal")
    assert kinds(audit).isdisjoint(flawless)
    assert found(audit, "label_conflict")
    assert (audit["published"]["groups"], audit["published"]["images"]) == (153, 346)
    assert (audit["published"]["pairs"], audit["published"]["conflicts"]) == (254, 8)


# === Datasets with a table ===
def test_mask_in_red_is_a_lesion_and_a_missing_row_a_fault(found, kinds, tmp_path):
    image, mask = draw_phantom("malignant", 7, 120, 160)
    red = np.stack([mask * 255, mask * 0, mask * 0], axis=-1)
    for name in ("AAAA_000.png", "BBBB_000.png"):
        write_image(tmp_path / "images" / name, image)
        write_image(tmp_path / "masks" / name, red)
    (tmp_path / "INFO.csv").write_text("Image;Label\nAAAA_000.png;Malignant\n")
    audit = audit_dataset(tmp_path)
    assert kinds(audit) == {"bad_label", "orphan_mask"}
    assert found(audit, "bad_label") == {"INFO.csv": "Expected a row for every image, found none for 'BBBB_000.png'"}
    assert audit["classes"]["malignant"]["lesion"]["median"] == pytest.approx(mask.mean())
    assert audit["mask_formats"] == {"PNG RGB": 1}


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_names_of_all_sorts_are_printed_without_driving_the_terminal(root, search):
    image, mask = draw_phantom("benign", 9, 120, 160)
    for name in ("\x1b[2J", "two\nlines", b"\xc8\xe9".decode("utf-8", "surrogateescape")):
        write_image(root / "benign" / f"{name}.png", image)
        write_image(root / "benign" / f"{name}_mask.png", mask * 0)
    audit = audit_dataset(root)
    text = format_audit(audit)
    assert "\x1b" not in text
    assert "benign/\\x1b[2J.png, benign/two\\nlines.png, benign/\\udcc8\\udce9.png" in text
    assert "\x1b[2J" in audit["findings"]["empty_mask"][0]["file"]
