import base64
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from busseg.data import find_samples
from busseg.data.audit import audit_dataset
from busseg.data.findings import FINDINGS
from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.data.splits import read_groups
from busseg.evaluation import audit_page
from busseg.evaluation.audit_page import write_audit
from busseg.imaging.images import write_image
from busseg.storage.files import read_csv

LABELS = ("benign", "benign", "malignant", "normal")


def add(root, name, image, mask):
    write_image(root / "images" / f"{name}.png", image)
    write_image(root / "masks" / f"{name}.png", mask)


def draw_dataset(root, names="abcd"):
    """A folder of four phantoms with labels, without a fault."""
    for seed, (name, label) in enumerate(zip(names, LABELS)):
        image, mask = draw_phantom(label, seed, 120, 160)
        add(root, name, image, mask * 255)
    rows = [f"{name}.png,{label}" for name, label in zip(names, LABELS)]
    (root / "labels.csv").write_text("\n".join(("file,label", *rows)) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A folder with a scan under two classes, colour, strokes, a mask of another size and an unreadable mask."""
    root = draw_dataset(tmp_path_factory.mktemp("data") / "faulty")
    shutil.copy(root / "images" / "a.png", root / "images" / "c.png")
    pixels = np.repeat(draw_phantom("benign", 1, 240, 320)[0][..., None], 3, axis=2)
    pixels[100:116:4, 60:120] = (255, 255, 0)
    pixels[101:116:4, 60:120] = 0
    Image.fromarray(pixels).save(root / "images" / "b.png")
    write_image(root / "masks" / "b.png", np.full((60, 80), 255, np.uint8))
    (root / "masks" / "d.png").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def written(faulty, tmp_path_factory):
    """The folder of an audit, to be read only, and the audit."""
    out = tmp_path_factory.mktemp("audits") / "faulty"
    audit = audit_dataset(faulty)
    write_audit(audit, out)
    return out, audit


def page(out):
    return (out / "audit.html").read_text(encoding="utf-8")


def images(text):
    """The bytes of every image on a page."""
    sources = re.findall(r'<img [^>]*src="([^"]*)"', text)
    assert len(sources) == text.count("<img")
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/svg+xml;base64,")) for source in sources)
    return [base64.b64decode(source.partition(",")[2], validate=True) for source in sources]


# === The folder ===
def test_folder_holds_what_is_promised(written):
    out, _ = written
    assert sorted(path.name for path in out.iterdir()) == ["audit.html", "audit.json", "groups.csv"]


def test_json_is_the_audit(written):
    out, audit = written
    assert json.loads((out / "audit.json").read_text(encoding="utf-8")) == audit


def test_groups_are_those_by_content_and_fit_for_a_split(written, tmp_path):
    out, _ = written
    groups = {row["file"]: row["group"] for row in read_csv(out / "groups.csv")}
    assert groups.keys() == {"a.png", "b.png", "c.png", "d.png"}
    assert groups["a.png"] == groups["c.png"]
    assert len(set(groups.values())) == 3
    samples = read_groups(out / "groups.csv", find_samples(draw_dataset(tmp_path / "data")))
    assert {sample.name: sample.group for sample in samples} == groups


def test_former_audit_is_replaced_and_other_files_are_left_alone(written, tmp_path):
    _, audit = written
    write_audit(audit, tmp_path / "out")
    write_audit(audit, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"audit\.json, found other files"):
        write_audit(audit, tmp_path / "mine")


# === The page ===
def test_page_loads_nothing_from_elsewhere(written):
    text = page(written[0])
    assert not [
        word for word in ("http:", "https:", "url(", "@import", "<script", '<link rel="stylesheet') if word in text
    ]
    for content in images(text):
        assert content.startswith((b"\xff\xd8", b"<?xml"))


def test_every_finding_is_named_with_its_count(written):
    text = page(written[0])
    entries = re.findall(r'<div class="finding"><b(?: class="bad")?>(\d+)</b><div>\s*(.*?)\s*<', text)
    assert [(int(number), title) for number, title in entries] == [
        (1, FINDINGS["unreadable"].title),
        (1, FINDINGS["misaligned_mask"].title),
        (1, FINDINGS["label_conflict"].title),
        (1, f"{FINDINGS['copies'].title}, 2 images in all"),
        (1, FINDINGS["colour_overlay"].title),
        (1, FINDINGS["burned_in"].title),
    ]
    assert "masks/d.png" in text
    assert "80 x 60 px, the image 320 x 240 px" in text


def test_copies_under_two_classes_are_shown_side_by_side_in_red(written):
    (sheet,) = re.findall(r'<div class="sheet conflict">(.*?)</div>', page(written[0]), re.DOTALL)
    captions = re.findall(r'<figcaption>(.*?)<br><b class="bad">(.*?)</b></figcaption>', sheet)
    assert captions == [("a.png", "benign"), ("c.png", "malignant")]
    for content in images(sheet):
        assert Image.open(io.BytesIO(content)).size == (160, 120)


def test_copies_of_one_class_are_not_red(tmp_path):
    root = draw_dataset(tmp_path / "data")
    shutil.copy(root / "images" / "a.png", root / "images" / "b.png")
    write_audit(audit_dataset(root), tmp_path / "out")
    assert len(re.findall(r'<div class="sheet">', page(tmp_path / "out"))) == 1
    assert "sheet conflict" not in page(tmp_path / "out")


def test_thumbnail_of_a_tall_image_is_no_higher_than_of_a_wide_one_is_wide():
    for shape, expected in (((400, 200), (80, 160)), ((200, 400), (160, 80)), ((30, 40), (40, 30))):
        content = base64.b64decode(audit_page._thumbnail(np.zeros(shape, np.uint8)).partition(",")[2])
        assert Image.open(io.BytesIO(content)).size == expected


def test_example_of_colour_is_in_colour_and_misaligned_mask_stands_beside_its_image(written, monkeypatch):
    _, audit = written
    assert (audit_page._colour(audit, audit["findings"]["colour_overlay"][0])[100, 60] == (255, 255, 0)).all()
    beside = audit_page._beside_image(audit, audit["findings"]["misaligned_mask"][0])
    assert beside.shape == (240, 320 + 8 + 80)
    assert (beside[:60, 328:] == 255).all()  # the mask is all lesion


def test_examples_are_spread_over_all_that_were_found():
    assert audit_page._few(list(range(15))) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert audit_page._few(["one"]) == ["one"]


def test_large_groups_and_many_groups_are_cut_short(written, tmp_path, monkeypatch):
    _, audit = written
    monkeypatch.setattr(audit_page, "SHEETS", 1)
    monkeypatch.setattr(audit_page, "MEMBERS", 1)
    one = {"files": ["d.png", "b.png"], "labels": ["normal", "normal"]}
    write_audit(audit | {"groups": [one, *audit["groups"]]}, tmp_path / "out")
    text = page(tmp_path / "out")
    (sheet,) = re.findall(r'<div class="sheet conflict">(.*?)</div>', text, re.DOTALL)  # conflicts come first
    assert len(images(sheet)) == 1
    assert "and 1 more</p>" in sheet
    assert "1 more groups are in audit.json" in text


def test_faultless_dataset_is_told_so(tmp_path):
    write_audit(audit_dataset(draw_dataset(tmp_path / "data")), tmp_path / "out")
    text = page(tmp_path / "out")
    assert "No problem was found." in text
    assert "<b>0</b>kinds of problem<span>none found</span>" in text
    assert 'id="copies"' not in text
    assert len(images(text)) == 2  # the plots of lesions and of sizes


def test_dataset_without_classes_or_a_readable_image_has_a_page(tmp_path):
    root = draw_dataset(tmp_path / "data")
    (root / "labels.csv").unlink()
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    write_audit(audit_dataset(root), tmp_path / "out")
    text = page(tmp_path / "out")
    assert "no class" in text
    assert images(text) == []


@pytest.mark.skipif(os.name != "posix", reason="not a name on this system")
def test_names_are_escaped(tmp_path):
    names = ("<script>alert(1)<", 'b"&amp;', "<b>c", "d&d")
    root = draw_dataset(tmp_path / "<i>data", names)
    shutil.copy(root / "images" / "<b>c.png", root / "images" / f"{names[0]}.png")
    (root / "masks" / "d&d.png").write_bytes(b"")
    write_audit(audit_dataset(root), tmp_path / "out")
    text = page(tmp_path / "out")
    assert not [word for word in ("<script", "<b>c", "<i>data", 'b"&amp;') if word in text]
    assert "&lt;script&gt;alert(1)&lt;.png" in text
    assert "d&amp;d.png" in text


# === Plots ===
def one_file(label, fraction, width=160, height=120):
    return {"label": label, "lesion_fraction": fraction, "width_px": width, "height_px": height}


def test_lesion_plot_has_a_dot_a_lesion_and_tells_the_median():
    files = [one_file("benign", share) for share in (0.01, 0.02, 0.06)] + [one_file("normal", 0.0), one_file(None, 0.5)]
    axis = audit_page.plot_lesions(files).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [
        "benign, 3\nmedian 2.0%",
        "no class, 1\nmedian 50.0%",
    ]
    assert axis.lines[0].get_ydata().tolist() == [0.01, 0.02, 0.06]


def test_size_plot_has_a_dot_an_image_and_passes_over_the_unreadable():
    files = [one_file(label, None, 100 + number, 90) for number, label in enumerate(CLASSES)]
    axis = audit_page.plot_sizes([*files, one_file("benign", None, None, None)]).axes[0]
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[100, 90]], [[101, 90]], [[102, 90]]]
