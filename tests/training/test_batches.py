import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from busseg.data import find_samples as find_any
from busseg.data.grey_transfer import match_histogram
from busseg.data.readers.breakhis import label_by_subtype
from busseg.data.readers.busi import find_samples
from busseg.data.sample import CLASSES, LABEL, MASK
from busseg.data.tissue import write_tissue
from busseg.imaging.images import fit_to_square, read_image, read_mask
from busseg.training.batches import Batches, _chances

SIZE = 32


def of_classes(samples, **counts):
    """The first so many samples of each class."""
    return [s for label, count in counts.items() for s in [s for s in samples if s.label == label][:count]]


# === What a batch holds ===
@pytest.mark.parametrize("augmentation", ["none", "card", "strong"])
def test_shapes_types_and_ranges(phantom_samples, augmentation):
    batches = Batches(phantom_samples, SIZE, batch_size=8, augmentation=augmentation)
    assert len(batches) == 4  # 30 samples: 8 + 8 + 8 + 6
    for index, count in enumerate((8, 8, 8, 6)):
        image, targets = batches[index]
        assert image.shape == targets[MASK].shape == (count, SIZE, SIZE, 1)
        assert targets[LABEL].shape == (count, 3)
        assert {image.dtype, targets[MASK].dtype, targets[LABEL].dtype} == {np.dtype(np.float32)}
        assert image.min() >= 0
        assert 100 < image.max() <= 255
        assert set(np.unique(targets[MASK])) <= {0, 1}


def test_batch_holds_the_images_and_masks_in_order(phantom_samples):
    image, targets = Batches(phantom_samples, SIZE, batch_size=4)[1]
    for place, sample in enumerate(phantom_samples[4:8]):
        native = read_image(sample.image)
        np.testing.assert_array_equal(image[place, ..., 0], fit_to_square(native, SIZE))
        mask = fit_to_square(read_mask(sample.masks, native.shape), SIZE)
        np.testing.assert_array_equal(targets[MASK][place, ..., 0], mask)


@pytest.mark.parametrize(
    ("label", "expected"), [("normal", [1, 0, 0]), ("benign", [0, 1, 0]), ("malignant", [0, 0, 1])]
)
def test_label_is_one_hot_in_the_order_of_the_classes(phantom_samples, label, expected):
    _, targets = Batches(of_classes(phantom_samples, **{label: 3}), SIZE, batch_size=3)[0]
    assert targets[LABEL].tolist() == [expected] * 3


# === Balance ===
SKEWED = {"benign": 10, "malignant": 5, "normal": 5}


def test_without_balance_there_are_no_weights(phantom_samples):
    assert len(Batches(of_classes(phantom_samples, **SKEWED), SIZE, 20)[0]) == 2


def test_weights_are_the_inverse_frequency_of_the_class(phantom_samples):
    _, targets, weights = Batches(of_classes(phantom_samples, **SKEWED), SIZE, 20, balance="weights")[0]
    assert weights[MASK].tolist() == [1] * 20
    by_class = dict(zip(CLASSES, (20 / (3 * 5), 20 / (3 * 10), 20 / (3 * 5))))  # 4/3, 2/3, 4/3: on average 1
    expected = [by_class[CLASSES[index]] for index in targets[LABEL].argmax(axis=1)]
    np.testing.assert_allclose(weights[LABEL], expected, rtol=1e-6)
    assert weights[LABEL].mean() == pytest.approx(1)


def test_weights_follow_their_samples_when_shuffled(phantom_samples):
    options = {"balance": "weights", "shuffle": True}
    _, targets, weights = Batches(of_classes(phantom_samples, **SKEWED), SIZE, 20, **options)[0]
    expected = np.where(targets[LABEL][:, CLASSES.index("benign")] == 1, 2 / 3, 4 / 3)
    np.testing.assert_allclose(weights[LABEL], expected, rtol=1e-6)


def test_absent_class_does_not_count(phantom_samples):
    samples = of_classes(phantom_samples, benign=6, malignant=2)
    weights = Batches(samples, SIZE, 8, balance="weights")[0][2]
    np.testing.assert_allclose(weights[LABEL], [8 / (2 * 6)] * 6 + [8 / (2 * 2)] * 2, rtol=1e-6)


def test_sampling_draws_every_class_equally_often(phantom_samples):
    batches = Batches(of_classes(phantom_samples, benign=9, malignant=4, normal=2), 8, 15, balance="sampling")
    drawn = Counter()
    for _ in range(40):
        assert len(batches[0]) == 2  # drawn evenly, no class needs a weight
        drawn.update(batches[0][1][LABEL].argmax(axis=1).tolist())
        batches.on_epoch_end()
    # 40 * 15 = 600 draws, 200 a class, standard deviation sqrt(600 * 1/3 * 2/3) = 11.5
    assert drawn == {index: pytest.approx(200, abs=40) for index in range(3)}


# Of source a eight benign and one malignant image, of source b four benign ones.
SIZES = {("a", "benign"): 8, ("a", "malignant"): 1, ("b", "benign"): 4}


@pytest.mark.parametrize(
    ("power", "chances"),
    [
        # Each source is drawn as often, and in it each class.
        (0.0, {("a", "benign"): 1 / 4, ("a", "malignant"): 1 / 4, ("b", "benign"): 1 / 2}),
        # Sources of 9 and 4 by their roots, 3 and 2; in a 8 and 1 by theirs.
        (0.5, {("a", "benign"): 3 / 5 * 8**0.5 / (8**0.5 + 1), ("a", "malignant"): 3 / 5 / (8**0.5 + 1),
               ("b", "benign"): 2 / 5}),
        # As they come.
        (1.0, {("a", "benign"): 8 / 13, ("a", "malignant"): 1 / 13, ("b", "benign"): 4 / 13}),
    ],
)  # fmt: skip
def test_chances_of_sources_and_classes_are_a_power_of_their_sizes(power, chances):
    sources = np.array([source for (source, _), size in SIZES.items() for _ in range(size)])
    classes = np.array([CLASSES.index(label) for (_, label), size in SIZES.items() for _ in range(size)])
    expected = [chances[key] / size for key, size in SIZES.items() for _ in range(size)]
    np.testing.assert_allclose(_chances(sources, classes, power), expected)
    assert sum(expected) == pytest.approx(1)


def test_sampling_draws_a_small_source_as_often_as_a_large_one(phantom_samples):
    samples = of_classes(phantom_samples, benign=9) + of_classes(phantom_samples, malignant=3)
    samples = [replace(sample, source=sample.label) for sample in samples]  # so that the label is the source
    batches = Batches(samples, 8, 12, balance="sampling")
    drawn = Counter()
    for _ in range(40):
        drawn.update(batches[0][1][LABEL].argmax(axis=1).tolist())
        batches.on_epoch_end()
    assert drawn == {1: pytest.approx(240, abs=40), 2: pytest.approx(240, abs=40)}  # deviation sqrt(480) / 2 = 11


def test_lesion_free_crops_are_normal_images_without_a_mask(phantom_samples):
    lesions = of_classes(phantom_samples, benign=10)
    batches = Batches(lesions, SIZE, 10, lesion_free=1.0)
    plain, (image, targets) = Batches(lesions, SIZE, 10)[0], batches[0]
    cropped = targets[LABEL][:, 0] == 1
    assert cropped.any()
    assert not targets[MASK][cropped].any()
    for number in range(10):  # one whose lesion leaves no room beside it stays as it is
        assert np.array_equal(image[number], plain[0][number]) != cropped[number]
        assert targets[MASK][number].any() != cropped[number]


def test_grey_values_come_from_another_source(phantom_samples):
    dark, bright = of_classes(phantom_samples, benign=2)
    samples = [replace(dark, source="a"), replace(bright, source="b")]
    given, plain = (Batches(samples, SIZE, 2, grey_transfer=share)[0] for share in (1.0, 0.0))
    for number, other in ((0, 1), (1, 0)):
        reference = plain[0][other].astype(np.uint8)
        expected = match_histogram(plain[0][number].astype(np.uint8), reference)
        assert np.array_equal(given[0][number], expected)
        assert np.array_equal(given[1][MASK], plain[1][MASK])


def test_one_source_has_no_other_to_take_grey_values_from(phantom_samples, same):
    samples = of_classes(phantom_samples, benign=3)
    assert same(Batches(samples, SIZE, 3, grey_transfer=1.0)[0], Batches(samples, SIZE, 3)[0])


@pytest.mark.parametrize(("balance", "benign", "normal"), [("none", 1, 1), ("weights", 3 / (2 * 2), 3 / (2 * 1))])
def test_label_of_an_unlabelled_sample_has_weight_0_and_its_mask_counts(phantom_samples, balance, benign, normal):
    samples = of_classes(phantom_samples, benign=2, malignant=1, normal=1)
    samples[2] = replace(samples[2], label=None)
    _, targets, weights = Batches(samples, SIZE, 4, balance=balance)[0]
    np.testing.assert_allclose(weights[LABEL], [benign, benign, 0, normal])
    assert weights[MASK].tolist() == [1] * 4
    assert targets[LABEL][2].tolist() == [0, 0, 0]
    assert targets[MASK][2].any()


# === Reading ===
@pytest.mark.parametrize("augmentation", ["none", "strong"])
def test_cache_changes_nothing(phantom_samples, augmentation, same):
    cached, read = (Batches(phantom_samples, SIZE, 10, augmentation, cache=cache) for cache in (True, False))
    for index in (0, 1, 2, 1, 0):
        assert same(cached[index], read[index])


def test_cache_reads_every_file_once(phantom_folder, same, tmp_path):
    shutil.copytree(phantom_folder, tmp_path / "copy")
    samples = find_samples(tmp_path / "copy")
    cached, read = (Batches(samples, SIZE, 30, cache=cache) for cache in (True, False))
    before = cached[0]
    shutil.rmtree(tmp_path / "copy")
    assert same(cached[0], before)
    with pytest.raises(FileNotFoundError):
        read[0]


def test_broken_file_is_named(phantom_samples, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    batches = Batches([*phantom_samples[:3], replace(phantom_samples[3], image=tmp_path / "broken.png")], SIZE, 4)
    with pytest.raises(ValueError, match=r"broken\.png$"):
        batches[0]


def test_no_sample_is_refused():
    with pytest.raises(ValueError, match="at least one sample, found none"):
        Batches([], SIZE, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"augmentation": "weak"},
            "`augmentation` must be one of none, card, strong, scanner, stain. Received: augmentation='weak'",
        ),
        ({"balance": "yes"}, "`balance` must be one of none, weights, sampling. Received: balance='yes'"),
    ],
)
def test_unknown_choice_is_refused_with_the_known_ones(phantom_samples, wrong, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Batches(phantom_samples, SIZE, 4, **wrong)


# === Tissue ===
@pytest.mark.parametrize("augmentation", ["none", "stain"])
def test_histology_comes_in_colour_and_without_masks(tmp_path, augmentation):
    write_tissue(tmp_path, patients=1, images=1)
    samples = find_any(tmp_path)
    batches = Batches(samples, SIZE, batch_size=4, augmentation=augmentation, task="histology")
    image, targets = batches[0]
    assert image.shape == (4, SIZE, SIZE, 3)
    assert image.dtype == np.float32
    assert set(targets) == {LABEL}
    np.testing.assert_array_equal(targets[LABEL], [[1, 0]] * 4)  # the benign ones come first
    np.testing.assert_array_equal(batches[1][1][LABEL], [[0, 1]] * 4)
    if augmentation == "none":
        native = read_image(samples[0].image, colour=True)
        np.testing.assert_array_equal(image[0], fit_to_square(native, SIZE))


def test_subtypes_are_one_hot_in_their_order(tmp_path):
    write_tissue(tmp_path, patients=1, images=1)
    _, targets = Batches(label_by_subtype(find_any(tmp_path)), SIZE, batch_size=8, task="subtypes")[0]
    assert targets[LABEL].shape == (8, 8)
    assert targets[LABEL].argmax(axis=1).tolist() == [0] * 4 + [4] * 4  # adenosis, ductal carcinoma
