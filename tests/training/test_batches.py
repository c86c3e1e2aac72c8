import copy
import multiprocessing
import pickle
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
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


def same(one, other):
    """Whether two batches hold the same numbers in every part."""
    one, other = keras.tree.flatten(one), keras.tree.flatten(other)
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


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


# === Order and chance ===
RANDOM = {"augmentation": "strong", "shuffle": True, "seed": 5, "epoch": 2}


@pytest.mark.parametrize("options", [RANDOM, RANDOM | {"balance": "sampling"}, RANDOM | {"cache": False}])
def test_batches_are_the_same_in_any_order_of_access_and_from_two_threads_at_once(phantom_samples, options):
    expected = [Batches(phantom_samples, SIZE, 4, **options)[index] for index in range(8)]
    batches = Batches(phantom_samples, SIZE, 4, **options)
    for index in (7, 0, 3, 3, 1, 0):
        assert same(batches[index], expected[index])
    wanted = [*range(8)] * 6
    with ThreadPoolExecutor(2) as threads:
        for index, batch in zip(wanted, threads.map(Batches(phantom_samples, SIZE, 4, **options).__getitem__, wanted)):
            assert same(batch, expected[index])


@pytest.mark.parametrize("augmentation", ["none", "card", "strong"])
@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 3}])
def test_another_seed_or_epoch_gives_other_batches(phantom_samples, augmentation, change):
    options = RANDOM | {"augmentation": augmentation}
    one, other = (Batches(phantom_samples, SIZE, 30, **options)[0] for options in (options, options | change))
    assert not same(one, other)


def test_epochs_count_up_and_can_be_taken_up_again(phantom_samples):
    batches = Batches(phantom_samples, SIZE, 30, **RANDOM)
    batches.on_epoch_end()
    assert batches.epoch == 3
    assert same(batches[0], Batches(phantom_samples, SIZE, 30, **RANDOM | {"epoch": 3})[0])


def test_shuffled_epoch_holds_every_sample_once_in_another_order(phantom_samples):
    plain = Batches(phantom_samples, SIZE, 30)[0][0]
    shuffled = Batches(phantom_samples, SIZE, 30, shuffle=True)[0][0]
    assert not np.array_equal(shuffled, plain)
    assert {image.tobytes() for image in shuffled} == {image.tobytes() for image in plain}


def test_without_shuffle_and_augmentation_every_epoch_is_the_same(phantom_samples):
    assert same(Batches(phantom_samples, SIZE, 30, epoch=0)[0], Batches(phantom_samples, SIZE, 30, epoch=7)[0])


@pytest.mark.parametrize(
    ("augmentation", "expected", "tolerance"),
    [
        ("card", 0.2, 0.07),  # one of five; 300 draws: standard deviation sqrt(0.2 * 0.8 / 300) = 0.023
        ("strong", 0.016, 0.03),  # all steps at rest at once, which they must not agree on
    ],
)
def test_share_of_images_left_untouched(phantom_samples, augmentation, expected, tolerance):
    plain = Batches(phantom_samples, SIZE, 30)[0][0]
    batches = Batches(phantom_samples, SIZE, 30, augmentation=augmentation)
    untouched = 0
    for _ in range(10):
        untouched += np.all(batches[0][0] == plain, axis=(1, 2, 3)).sum()
        batches.on_epoch_end()
    assert untouched / 300 == pytest.approx(expected, abs=tolerance)


def test_same_sample_drawn_twice_is_augmented_twice(phantom_samples):
    image, _ = Batches([phantom_samples[0]] * 8, SIZE, 8, augmentation="strong")[0]
    assert len({one.tobytes() for one in image}) > 4


# === Shared among devices ===
@pytest.mark.parametrize("balance", ["none", "weights"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_shares_of_the_processes_make_up_the_whole_batch(phantom_samples, shuffle, balance):
    options = RANDOM | {"shuffle": shuffle, "balance": balance, "devices": 4}
    samples = phantom_samples[1:]  # of each class another number
    whole = Batches(samples, SIZE, 8, **options)
    shares = [Batches(samples, SIZE, 8, **options, process=number, processes=2) for number in (0, 1)]
    for index in range(len(whole)):
        first, second = (keras.tree.flatten(share[index]) for share in shares)
        assert {len(part) % 2 for part in first + second} == {0}  # two devices in each process
        together = [np.concatenate(parts) for parts in zip(first, second, strict=True)]
        assert same(together, whole[index])


def test_shuffled_samples_that_cannot_be_shared_are_left_out_of_an_epoch_others_each_time(phantom_samples):
    alone = Batches(phantom_samples[:29], SIZE, 8, shuffle=True)
    shared = Batches(phantom_samples[:29], SIZE, 8, shuffle=True, devices=4)
    assert [len(shared[index][0]) for index in range(len(shared))] == [8, 8, 8, 4]  # 28 of 29
    left = set()
    for _ in range(5):
        assert same(shared[3][0], alone[3][0][:4])
        left.add(alone[3][0][4].tobytes())
        shared.on_epoch_end()
        alone.on_epoch_end()
    assert len(left) > 1


def test_samples_in_order_are_filled_up_by_images_that_do_not_count(phantom_samples):
    samples = phantom_samples[:9]
    batches = Batches(samples, SIZE, 8, devices=2)
    # 9 in two batches: 5 each, and 6 for two devices; 12 places, so each of the 9 weighs 12 / 9.
    weights = [batches[index][2] for index in (0, 1)]
    for name in (MASK, LABEL):
        given = np.concatenate([one[name] for one in weights])
        np.testing.assert_allclose(given, [12 / 9] * 9 + [0] * 3, rtol=1e-6)
    images = np.concatenate([batches[index][0] for index in (0, 1)])
    np.testing.assert_array_equal(images[:9], Batches(samples, SIZE, 9)[0][0])


def test_fewer_samples_than_devices_are_refused(phantom_samples):
    with pytest.raises(ValueError, match=r"^Expected at least a sample for each of 4 devices, found 3$"):
        Batches(phantom_samples[:3], SIZE, 8, shuffle=True, devices=4)


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


def test_one_source_has_no_other_to_take_grey_values_from(phantom_samples):
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
def test_cache_changes_nothing(phantom_samples, augmentation):
    cached, read = (Batches(phantom_samples, SIZE, 10, augmentation, cache=cache) for cache in (True, False))
    for index in (0, 1, 2, 1, 0):
        assert same(cached[index], read[index])


def test_cache_reads_every_file_once(phantom_folder, tmp_path):
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


# === Under Keras ===
class Witness(keras.Model):
    """Keeps what `fit` hands it, and learns nothing."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def train_step(self, data):
        self.seen.append(keras.tree.map_structure(np.asarray, data))
        return {"loss": 0.0}


def witnessed(samples, epochs, epoch=0, workers=1, shuffle=False):
    """The batches that `fit` hands to a model."""
    batches = Batches(samples, SIZE, 4, **RANDOM | {"augmentation": "card", "epoch": epoch}, workers=workers)
    witness = Witness()
    witness.compile(run_eagerly=True)
    witness.fit(batches, epochs=epochs, shuffle=shuffle, verbose=0)
    return witness.seen


def expected(samples, epoch):
    batches = Batches(samples, SIZE, 4, **RANDOM | {"augmentation": "card", "epoch": epoch})
    return [batches[index] for index in range(8)]


@pytest.mark.parametrize("workers", [1, 2])
def test_fit_sees_every_epoch_whole_and_in_order(phantom_samples, workers):
    seen = witnessed(phantom_samples, epochs=3, workers=workers)
    assert len(seen) == 3 * 8
    # Keras ends an epoch before the first, so the numbers are 1, 2, 3.
    for batch, wanted in zip(seen, [batch for epoch in (1, 2, 3) for batch in expected(phantom_samples, epoch)]):
        assert same(batch, wanted)


def test_fit_that_is_taken_up_again_sees_what_it_would_have_seen(phantom_samples):
    whole = witnessed(phantom_samples, epochs=3, workers=2)
    for batch, wanted in zip(witnessed(phantom_samples, epochs=1, epoch=2, workers=2), whole[-8:], strict=True):
        assert same(batch, wanted)


def test_fit_that_shuffles_batches_keeps_them_within_their_epoch(phantom_samples):
    seen = witnessed(phantom_samples, epochs=2, workers=2, shuffle=True)
    for batches, epoch in ((seen[:8], 1), (seen[8:], 2)):
        wanted = {image.tobytes() for image, _ in expected(phantom_samples, epoch)}
        assert {image.tobytes() for image, _ in batches} == wanted


def absolute_error(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=(1, 2, 3))


def test_keras_scores_masks_and_labels_and_skips_missing_labels(phantom_samples):
    samples = [replace(s, label=None) if s.label == "malignant" else s for s in phantom_samples]
    image = keras.Input((SIZE, SIZE, 1))
    mask = keras.layers.Conv2D(1, 1, kernel_initializer="zeros", activation="sigmoid", name=MASK)(image)  # 0.5
    flat = keras.layers.GlobalAveragePooling2D()(image)
    label = keras.layers.Dense(3, kernel_initializer="zeros", activation="softmax", name=LABEL)(flat)  # a third each
    model = keras.Model(image, {MASK: mask, LABEL: label})
    model.compile(
        loss={MASK: absolute_error, LABEL: "categorical_crossentropy"},
        weighted_metrics={LABEL: ["categorical_crossentropy"]},
    )
    scores = model.evaluate(Batches(samples, SIZE, 10, workers=2), verbose=0, return_dict=True)
    assert scores["label_categorical_crossentropy"] == pytest.approx(np.log(3), rel=1e-4)  # over the 20 with a label
    assert scores["loss"] == pytest.approx(0.5 + np.log(3) * 20 / 30, rel=1e-4)  # a loss is averaged over all 30


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


# === In other processes ===
@pytest.mark.parametrize("cache", [True, False])
def test_copy_gives_the_same_batches(phantom_samples, cache):
    batches = Batches(phantom_samples, SIZE, 4, augmentation="card", shuffle=True, cache=cache)
    image, targets = batches[0]  # fills the cache, and makes this thread's pipeline
    for copied in (pickle.loads(pickle.dumps(batches)), copy.deepcopy(batches)):
        copied_image, copied_targets = copied[0]
        np.testing.assert_array_equal(copied_image, image)
        np.testing.assert_array_equal(copied_targets["mask"], targets["mask"])
    np.testing.assert_array_equal(batches[0][0], image)


def test_spawned_process_gives_the_same_batches(phantom_samples):
    batches = Batches(phantom_samples, SIZE, 4, augmentation="card", shuffle=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        image, _ = pool.apply(batches.__getitem__, (1,))
    np.testing.assert_array_equal(image, batches[1][0])
