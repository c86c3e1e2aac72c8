import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busseg.imaging.images import write_image
from busseg.inference import inputs as finding
from busseg.inference.inputs import find_inputs, format_passed, survey_inputs


def put(folder, *names, shape=(32, 32)):
    """Write an image to each of the names; the n-th is all grey value n."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, np.full(shape, number, np.uint8))


def found(folder, *inputs):
    """What `find_inputs` says, with paths relative to the folder."""
    targets = find_inputs([folder / name for name in inputs])
    return {path.relative_to(folder).as_posix(): target.as_posix() for path, target in targets.items()}


@pytest.mark.parametrize(
    ("files", "inputs", "expected"),
    [
        (("a.png",), ("a.png",), {"a.png": "a"}),
        (("s/b.png", "s/a.JPG"), ("s",), {"s/a.JPG": "a", "s/b.png": "b"}),
        (("s/deep/er/c.tif",), ("s",), {"s/deep/er/c.tif": "deep/er/c"}),
        (("s/a.png", "b.png"), ("s", "b.png"), {"s/a.png": "a", "b.png": "b"}),
        (("s/a.png", "s/deep/a.png"), ("s",), {"s/a.png": "a", "s/deep/a.png": "deep/a"}),
        (("s/v1.2.png", "s/v1.3.png"), ("s",), {"s/v1.2.png": "v1.2", "s/v1.3.png": "v1.3"}),
        # Two of one name keep their suffixes, the others do not.
        (("x.png", "x.jpg", "y.png"), ("x.png", "x.jpg", "y.png"), {"x.png": "x.png", "x.jpg": "x.jpg", "y.png": "y"}),
        (("s/x.png", "s/x.bmp"), ("s",), {"s/x.bmp": "x.bmp", "s/x.png": "x.png"}),
        # Masks beside their image are passed over; what is only named like one is not.
        (("s/a.png", "s/a_mask.png", "s/a_mask_1.png"), ("s",), {"s/a.png": "a"}),
        (("s/a.png", "s/a_mask.bmp"), ("s",), {"s/a.png": "a"}),
        (("s/a_mask.png",), ("s",), {"s/a_mask.png": "a_mask"}),
        (("s/a.png", "s/deep/a_mask.png"), ("s",), {"s/a.png": "a", "s/deep/a_mask.png": "deep/a_mask"}),
        (("s/a.png", "s/a_masked.png"), ("s",), {"s/a.png": "a", "s/a_masked.png": "a_masked"}),
        (("s/a.png", "s/a_mask_left.png"), ("s",), {"s/a.png": "a", "s/a_mask_left.png": "a_mask_left"}),
        (("a.png", "a_mask.png"), ("a_mask.png",), {"a_mask.png": "a_mask"}),  # asked for by name
        # Hidden files are no scans.
        (("s/a.png", "s/.a.png"), ("s",), {"s/a.png": "a"}),
        # The same file named twice is one.
        (("s/a.png",), ("s", "s/a.png"), {"s/a.png": "a"}),
        (("s/a.png", "s/ab.png", "s/c.png"), ("s/a*.png",), {"s/a.png": "a", "s/ab.png": "ab"}),
        (("s/x/a.png", "s/y/a.png", "s/y/b.jpg"), ("s/**/a.*",), {"s/x/a.png": "x/a", "s/y/a.png": "y/a"}),
        (("s/a.png", "s/a_mask.png"), ("s/*",), {"s/a.png": "a"}),
        (("s/a [1].png", "s/a 1.png"), ("s/a [1].png",), {"s/a [1].png": "a [1]"}),  # a file that is called so
        (("a.png",), ("a.png", "a.png"), {"a.png": "a"}),
    ],
)  # fmt: skip
def test_inputs_are_found_with_the_place_of_their_results(tmp_path, files, inputs, expected):
    put(tmp_path, *files)
    assert found(tmp_path, *inputs) == expected


def test_files_of_a_folder_that_are_no_images_are_passed_over(tmp_path):
    put(tmp_path, "s/a.png")
    (tmp_path / "s/notes.txt").touch()
    (tmp_path / "s/folder.png").mkdir()
    assert found(tmp_path, "s") == {"s/a.png": "a"}


def test_skipped_files_are_named_with_their_kind(tmp_path):
    put(tmp_path, "s/a.png", "s/a_mask.png", "s/.hidden.png")
    for name, content in (("v.nii", b"n"), ("deep/z.zip", b"PK\x03\x04"), ("n.txt", b"hello"), ("x", b"\xff\0")):
        (tmp_path / "s" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "s" / name).write_bytes(content)
    inputs, passed = survey_inputs([tmp_path / "s"])
    assert [path.name for path in inputs] == ["a.png"]
    assert {path.name: kind for path, kind in passed.items()} == {
        "v.nii": "NIfTI", "z.zip": "ZIP", "n.txt": "text", "x": "of an unknown kind",
    }  # fmt: skip
    del passed[tmp_path / "s/deep/z.zip"]
    assert survey_inputs([tmp_path / "s/*"])[1] == passed
    # What is named itself is not passed over, though its folder is given, too.
    inputs, passed = survey_inputs([tmp_path / "s", tmp_path / "s/v.nii"])
    assert tmp_path / "s/v.nii" in inputs
    assert len(passed) == 3


def test_line_counts_what_is_passed_over_and_names_some_of_each_kind_those_to_convert_first():
    passed = {Path(f"s/{letter}.txt"): "text" for letter in "abcd"}
    passed |= {Path("s/v.nii"): "NIfTI", Path("s/seg"): "DICOM of Segmentation Storage"}
    line = format_passed(passed)
    assert line == (
        "passed over 6 files that are not read: 1 DICOM of Segmentation Storage (seg), 1 NIfTI (v.nii), "
        "4 text (a.txt, b.txt, c.txt, ...)"
    )


def test_folder_of_other_files_alone_says_what_they_are(tmp_path):
    (tmp_path / "v.nrrd").write_bytes(b"NRRD0004")
    for named, where in ((tmp_path, "in the folder"), (tmp_path / "*.nrrd", "that match the pattern")):
        with pytest.raises(FileNotFoundError, match=rf"^Expected images {where}, found 1 NRRD \(v\.nrrd\): "):
            find_inputs([named])


@pytest.mark.parametrize("url", ["https://example.org/a.png", "s3://bucket/a?.png"])
def test_url_is_refused_with_what_to_do(url):
    with pytest.raises(FileNotFoundError, match=rf"^Expected a file .* a URL; download it first: {re.escape(url)}$"):
        find_inputs([url])


def test_image_that_is_called_like_the_frame_of_a_moving_one_is_refused(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 100, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    put(tmp_path, "still_frame002.png")
    assert len(find_inputs([tmp_path])) == 3
    put(tmp_path, "a_frame002.png")
    with pytest.raises(ValueError, match=r"one like its frame: .*a\.gif, .*a_frame002\.png$"):
        find_inputs([tmp_path])


def test_file_of_any_kind_is_an_input_if_the_user_names_it(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert found(tmp_path, "notes.txt") == {"notes.txt": "notes"}


@pytest.mark.parametrize(
    ("files", "inputs", "name"),
    [
        (("a/x.png", "b/x.png"), ("a", "b"), "x.png"),
        (("a/x.png", "b/x.png"), ("a/x.png", "b/x.png"), "x.png"),
        (("s/x.png", "s/x.jpg", "s/x.png.png"), ("s",), "x.png"),
    ],
)
def test_results_of_one_name_are_refused(tmp_path, files, inputs, name):
    put(tmp_path, *files)
    with pytest.raises(ValueError, match=rf"^Expected .* names, found two named {name}: .*png, .*png$"):
        found(tmp_path, *inputs)


@pytest.mark.parametrize("name", ["gone", "gone.png"])
def test_missing_input_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"^Expected an image or a folder of images, found nothing: .*{name}$"):
        find_inputs([tmp_path / name])


def test_pattern_without_images_is_named(tmp_path):
    put(tmp_path, "a.png")
    with pytest.raises(FileNotFoundError, match=r"^Expected images that match the pattern, found none: .*b\*\.png$"):
        find_inputs([tmp_path / "b*.png"])


def test_folder_without_images_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"^Expected images in the folder, found none: .*empty$"):
        find_inputs([tmp_path / "empty"])


def test_long_name_is_shortened_for_its_results_and_stays_unlike_another(tmp_path):
    names = [f"{'ä' * 120}{end}.png" for end in "bc"]  # 241 bytes each, without the suffix
    put(tmp_path, *names)
    targets = [target.name for target in find_inputs([tmp_path]).values()]
    assert len(set(targets)) == 2
    for target in targets:
        assert re.fullmatch(r"ä{85}~[0-9a-f]{8}", target)  # 171 bytes: 85 letters of two, and no half one


@pytest.mark.parametrize("name", ["a" * 180, "ä" * 90])
def test_name_that_leaves_room_is_kept(tmp_path, name):
    put(tmp_path, f"{name}.png")
    assert [target.name for target in find_inputs([tmp_path]).values()] == [name]


def scandir_but(closed):
    """`os.scandir` for one who may not read a folder. (root may read all.)"""
    scandir = os.scandir

    def scan(path):
        if Path(path).name == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    return scan


def test_subfolder_that_may_not_be_read_is_an_input_with_an_error(tmp_path, monkeypatch):
    put(tmp_path, "a.png", "closed/b.png", "open/c.png")
    monkeypatch.setattr(finding.os, "scandir", scandir_but("closed"))
    assert found(tmp_path, ".") == {"a.png": "a", "open/c.png": "open/c", "closed": "closed"}


def test_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    put(tmp_path, "closed/b.png")
    monkeypatch.setattr(finding.os, "scandir", scandir_but("closed"))
    with pytest.raises(PermissionError, match="closed"):
        find_inputs([tmp_path / "closed"])
