from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from busseg.data.duplicates import SIMILARITY, Copy, content_groups, find_copies, published_busi_groups
from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.imaging.images import write_image

# === The published groups of BUSI ===


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


# === Copies by content ===
def cropped(image):
    """0.85 * 0.8 = 68 % of the image."""
    height, width = image.shape
    return image[: int(0.85 * height), int(0.1 * width) : int(0.9 * width)]


def marked(image):
    image = image.copy()
    cv2.putText(image, "RT BREAST 9 O'CLOCK", (20, 330), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
    for corner in ((150, 120), (280, 210)):
        cv2.drawMarker(image, corner, 255, cv2.MARKER_CROSS, 15, 2)
    cv2.line(image, (150, 120), (280, 210), 255, 1)
    return image


def recompressed(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)


CHANGES = {
    "cropped": cropped,
    "mirrored": lambda image: image[:, ::-1],
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.2, beta=25),
    "fainter": lambda image: cv2.convertScaleAbs(image, alpha=0.6),
    "gamma": lambda image: (255 * (image / 255.0) ** 1.5).astype(np.uint8),
    "marked": marked,
    "smaller": lambda image: cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, None, fx=1.7, fy=1.7),
    "recompressed": recompressed,
    "framed": lambda image: cv2.copyMakeBorder(image, 40, 60, 0, 90, cv2.BORDER_CONSTANT, value=0),
    "all at once": lambda image: recompressed(cropped(marked(image))[:, ::-1] // 2 + 40),
}


def write(folder, images):
    """Write a dict of name to pixels; the paths, in its order."""
    paths = [folder / f"{name}.png" for name in images]
    for path, pixels in zip(paths, images.values()):
        write_image(path, pixels)
    return paths


@pytest.fixture(scope="module")
def changed_phantom(tmp_path_factory):
    """Paths of a phantom, of its changed copies, and of five other phantoms, and the copies found among them."""
    phantom, _ = draw_phantom("benign", seed=0)
    images = {"phantom": phantom, **{name: change(phantom) for name, change in CHANGES.items()}}
    others = {f"other {seed}": draw_phantom(CLASSES[seed % 3], seed)[0] for seed in range(1, 6)}
    paths = write(tmp_path_factory.mktemp("changed"), {**images, **others})
    return paths, find_copies(paths)


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copy_is_found(changed_phantom, name):
    _, copies = changed_phantom
    (found,) = [copy for copy in copies if (copy.first.stem, copy.second.stem) == ("phantom", name)]
    assert SIMILARITY <= found.similarity < 1
    assert not found.exact


def test_different_phantoms_are_no_copies(changed_phantom):
    paths, copies = changed_phantom
    assert not [c for c in copies if c.first.stem.startswith("other") or c.second.stem.startswith("other")]
    groups = content_groups(paths, copies)
    assert {groups[path] for path in paths[: 1 + len(CHANGES)]} == {"phantom.png"}
    assert all(groups[path] == path.name for path in paths[1 + len(CHANGES) :])


def test_different_phantoms_of_each_class_are_no_copies(phantom_samples):
    assert find_copies([sample.image for sample in phantom_samples]) == []


def test_identical_pixels_are_exact(tmp_path):
    phantom, _ = draw_phantom("malignant", seed=3)
    colour = np.repeat(phantom[..., None], 3, axis=2)
    one_off = phantom.copy()
    one_off[100, 100] ^= 1
    paths = write(tmp_path, {"a": phantom, "b": colour, "c": one_off})
    found = {(copy.first.stem, copy.second.stem): copy for copy in find_copies(paths)}
    assert found.keys() == {("a", "b"), ("a", "c"), ("b", "c")}
    assert (found["a", "b"].exact, found["a", "b"].similarity) == (True, 1)
    assert (found["a", "c"].exact, found["a", "c"].similarity) == (False, pytest.approx(1, abs=0.01))


def test_the_same_copies_are_found_again(changed_phantom):
    paths, copies = changed_phantom
    assert find_copies(paths) == copies


def test_images_without_texture_have_exact_copies_alone(tmp_path):
    grey = np.full((50, 60), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    images = {"grey": grey, "grey again": grey, "grey, wider": np.full((50, 61), 128, np.uint8), "dot": grey[:1, :1]}
    images |= {"black": grey * 0, "line": grey[:1], "noise": noise}
    copies = find_copies(write(tmp_path, images))
    assert [(copy.first.stem, copy.second.stem, copy.exact) for copy in copies] == [("grey", "grey again", True)]


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (3, 5000), (5, 5), (16, 16)])
def test_line_of_pixels_has_exact_copies_alone(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path, image in zip(paths, (pixels, pixels, 255 - pixels)):
        write_image(path, image)
    assert find_copies(paths) == [Copy(paths[0], paths[1], 1.0, True)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_have_few_copies(tmp_path, count):
    phantom, _ = draw_phantom("benign", seed=1)
    copies = find_copies(write(tmp_path, {str(i): cropped(phantom) if i else phantom for i in range(count)}))
    assert len(copies) == (1 if count == 2 else 0)


def test_progress_wraps_the_images_read_and_then_the_pairs_compared(phantom_samples):
    seen = []
    paths = [sample.image for sample in phantom_samples[:3]]
    find_copies(paths, progress=lambda items: seen.append(list(items)) or items)
    assert seen[0] == paths
    assert len(seen[1]) == 3 * 2  # each two of three, as they are and mirrored


def test_unreadable_image_is_named(tmp_path, phantom_samples):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        find_copies([phantom_samples[0].image, broken])


def pair(first, second):
    return Copy(Path(first), Path(second), similarity=0.5, exact=False)


def test_groups_are_copies_of_copies():
    paths = [Path(name) for name in ("x/d.png", "x/a.png", "x/b.png", "y/c.png", "y/a.png")]
    copies = [pair("y/c.png", "x/b.png"), pair("x/d.png", "x/b.png")]  # d - b - c; both a stand alone
    groups = content_groups(paths, copies)
    assert list(groups) == paths
    assert list(groups.values()) == ["x/d.png", "x/a.png", "x/d.png", "x/d.png", "y/a.png"]
    assert content_groups(paths, copies[::-1]) == groups


def test_without_copies_every_image_is_a_group():
    assert content_groups([Path("one/a.png")], []) == {Path("one/a.png"): "a.png"}
    assert content_groups([], []) == {}


@pytest.mark.slow
def test_copies_in_busi_are_those_published(busi_folder):
    """The malignant images 1 to 150, among them 39 published pairs: whole scans with crops, and frames of a sweep."""
    published = published_busi_groups()
    paths = [busi_folder / "malignant" / f"malignant ({number}).png" for number in range(1, 151)]
    expected = {(a, b) for a, b in combinations(paths, 2) if published[a.stem] == published[b.stem]}
    groups = content_groups(paths, find_copies(paths))
    found = {(a, b) for a, b in combinations(paths, 2) if groups[a] == groups[b]}
    assert len(expected) == 39
    assert len(found & expected) / len(expected) >= 0.95  # recall
    assert len(found & expected) / len(found) >= 0.95  # precision: two false pairs would pass, 39 / 41
