import os
import subprocess
import sys
from random import Random

import numpy as np
import pytest

from busseg.data.augmentation import AUGMENTATIONS

DRAWS = 400
OF_SCANS = [name for name in AUGMENTATIONS if name != "stain"]


@pytest.fixture(scope="module")
def pair():
    """Speckle, and a lesion of 16 rows and 20 columns left of the middle."""
    image = np.random.default_rng(0).integers(20, 200, (64, 64), np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[24:40, 8:28] = 1
    return image, mask


def seeded(augment, seed):
    augment.set_random_state(np.random.default_rng(seed), Random(seed))
    return augment


def draws(name, image, mask, count=DRAWS):
    """The pairs that `count` calls with the seeds 0, 1, 2... give."""
    augment = AUGMENTATIONS[name]()
    for seed in range(count):
        changed = seeded(augment, seed)(image=image, mask=mask)
        yield changed["image"], changed["mask"]


@pytest.fixture(scope="module")
def card(pair):
    return list(draws("card", *pair))


@pytest.fixture(scope="module")
def strong(pair):
    return list(draws("strong", *pair))


def share(of):
    return np.mean([bool(one) for one in of])


def test_no_augmentation_changes_nothing(pair):
    for image, mask in draws("none", *pair, count=5):
        np.testing.assert_array_equal(image, pair[0])
        np.testing.assert_array_equal(mask, pair[1])


@pytest.mark.parametrize("name", OF_SCANS)
@pytest.mark.parametrize("shape", [(64, 64), (33, 48)])
def test_shapes_and_types_are_kept(name, shape):
    source = np.full(shape, 100, np.uint8), np.eye(*shape, dtype=np.uint8)
    for image, mask in draws(name, *source, count=50):
        assert image.shape == mask.shape == shape
        assert image.dtype == mask.dtype == np.uint8


@pytest.mark.parametrize("name", OF_SCANS)
def test_the_source_is_not_written_to(pair, name):
    image, mask = (part.copy() for part in pair)
    for _ in draws(name, image, mask, count=50):
        pass
    np.testing.assert_array_equal(image, pair[0])
    np.testing.assert_array_equal(mask, pair[1])


@pytest.mark.parametrize("name", ["card", "strong", "scanner"])
def test_same_seed_gives_the_same_pixels_in_any_order(pair, name):
    augment = AUGMENTATIONS[name]()
    for seed, expected in reversed(list(enumerate(draws(name, *pair, count=40)))):
        changed = seeded(augment, seed)(image=pair[0], mask=pair[1])
        np.testing.assert_array_equal(changed["image"], expected[0])
        np.testing.assert_array_equal(changed["mask"], expected[1])


# === card: one of five, equally often ===
def test_card_leaves_a_fifth_untouched(pair, card):
    # 400 draws of chance 1 / 5: standard deviation sqrt(0.2 * 0.8 / 400) = 0.02, and three of them.
    assert share(np.array_equal(image, pair[0]) for image, _ in card) == pytest.approx(0.2, abs=0.06)


def test_card_flips_image_and_mask_together_in_a_fifth(pair, card):
    flipped = [np.array_equal(image, pair[0][:, ::-1]) for image, _ in card]
    assert share(flipped) == pytest.approx(0.2, abs=0.06)
    for flip, (_, mask) in zip(flipped, card, strict=True):
        np.testing.assert_array_equal(mask, pair[1][:, ::-1] if flip else pair[1])  # nothing else moves the mask


def test_card_changes_contrast_brightness_or_sharpness_in_the_rest(pair, card):
    image, _ = pair
    columns = image.astype(float).ravel()
    kinds = {"brightness": 0, "contrast": 0, "sharpness": 0}
    for changed, _ in card:
        if np.array_equal(changed, image) or np.array_equal(changed, image[:, ::-1]):
            continue
        inside = (changed.ravel() > 0) & (changed.ravel() < 255)  # where nothing was cut off
        correlation = np.corrcoef(columns[inside], changed.ravel()[inside])[0, 1]
        slope = np.polyfit(columns[inside], changed.ravel()[inside], 1)[0]
        # A blur mixes neighbours; the two others are straight lines through each pixel's own grey value.
        kinds["sharpness" if correlation < 0.99 else "brightness" if abs(slope - 1) < 0.005 else "contrast"] += 1
    for count in kinds.values():
        assert count / DRAWS == pytest.approx(0.2, abs=0.07)


# === strong ===
def test_strong_changes_almost_all_images_and_each_in_its_own_way(pair, strong):
    # Untouched: 0.5 * 0.3 * 0.8 * 0.5 * 0.6 * 0.8 * 0.7 * 0.8 = 0.016 of the draws.
    assert share(np.array_equal(image, pair[0]) for image, _ in strong) == pytest.approx(0.016, abs=0.02)
    assert len({image.tobytes() for image, _ in strong}) > 0.9 * DRAWS


def test_strong_moves_the_mask_and_keeps_it_a_mask(pair, strong):
    assert {value for _, mask in strong for value in np.unique(mask)} == {0, 1}
    assert share(not np.array_equal(mask, pair[1]) for _, mask in strong) > 0.5
    # Zoom 0.8..1.25 in both directions: 0.64 to 1.56 of the area; shift of up to 10 % may push some of it out.
    areas = np.array([mask.sum() for _, mask in strong]) / pair[1].sum()
    assert np.median(areas) == pytest.approx(1, abs=0.1)
    assert areas.max() < 1.75


def test_strong_moves_image_and_mask_together(pair):
    lesion = pair[1]
    for image, mask in draws("strong", lesion * 200, lesion, count=200):
        # A white lesion on black: image and mask stay aligned, but for noise, blur and the holes of the dropout.
        assert np.corrcoef(image.ravel(), mask.ravel())[0, 1] > 0.5


# === scanner ===
@pytest.fixture(scope="module")
def scanner(pair):
    return list(draws("scanner", *pair))


def test_scanner_changes_almost_all_images_and_each_in_its_own_way(pair, scanner):
    # Untouched: 0.5 * 0.1 * 0.8 * 0.2 * 0.7 * 0.6 * 0.6 * 0.8 = 0.002 of the draws.
    assert share(np.array_equal(image, pair[0]) for image, _ in scanner) < 0.02
    assert len({image.tobytes() for image, _ in scanner}) > 0.95 * DRAWS


def test_scanner_keeps_how_tall_a_lesion_is_beside_its_width(pair, scanner):
    # A lesion taller than wide is suspicious: turned by 20 degrees and sheared by 8 it looks other, but on average the
    # same; zoomed each way alone by 0.67 to 1.5 it would be anything.
    inside = [mask for _, mask in scanner if mask.any() and not (mask[0].any() or mask[-1].any() or mask[:, 0].any())]
    ratios = [np.ptp(np.nonzero(mask.any(1))) / np.ptp(np.nonzero(mask.any(0))) for mask in inside]
    assert len(ratios) > 0.5 * DRAWS
    assert np.median(ratios) == pytest.approx(15 / 19, abs=0.1)
    assert max(ratios) < 1.5


def test_scanner_moves_image_and_mask_together(pair):
    lesion = pair[1]
    for image, mask in draws("scanner", lesion * 200, lesion, count=200):
        if mask.sum() > 100:  # what is pushed out is in neither
            assert np.corrcoef(image.ravel(), mask.ravel())[0, 1] > 0.4


# === The library ===
@pytest.mark.parametrize(("set_before", "expected"), [(None, "1"), ("0", "0")])
def test_importing_keeps_albumentations_from_the_network_unless_set_otherwise(set_before, expected):
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    if set_before:
        environment["NO_ALBUMENTATIONS_UPDATE"] = set_before
    code = (
        "import os, sys, types\n"
        "sys.modules['albumentations'] = types.ModuleType('albumentations')\n"  # what counts is what it would find
        "import busseg.data.augmentation\n"
        "print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


# === Tissue ===
@pytest.fixture(scope="module")
def tissue():
    """Pink, with a purple corner."""
    image = np.full((48, 48, 3), (230, 160, 200), np.uint8)
    image[:12, :20] = (90, 60, 140)
    return image


def test_stain_keeps_shape_type_and_source(tissue):
    before, augment = tissue.copy(), AUGMENTATIONS["stain"]()
    for seed in range(50):
        changed = seeded(augment, seed)(image=tissue)["image"]
        assert (changed.shape, changed.dtype) == (tissue.shape, np.uint8)
    np.testing.assert_array_equal(tissue, before)


def test_stain_is_repeated_by_its_seed(tissue):
    one, other = AUGMENTATIONS["stain"](), AUGMENTATIONS["stain"]()
    first = [seeded(one, seed)(image=tissue)["image"] for seed in range(20)]
    for seed, expected in reversed(list(enumerate(first))):
        np.testing.assert_array_equal(seeded(other, seed)(image=tissue)["image"], expected)


def test_stain_turns_to_all_eight_sides_and_changes_each_channel(tissue):
    changed = [seeded(AUGMENTATIONS["stain"](), seed)(image=tissue)["image"] for seed in range(100)]
    dark = (image[..., 0] < 0.75 * image[..., 0].max() for image in changed)
    assert len({tuple(np.argwhere(one).max(axis=0)) for one in dark}) >= 8
    for channel in range(3):
        means = [image[..., channel].mean() for image in changed]
        assert np.std(means) > 5
