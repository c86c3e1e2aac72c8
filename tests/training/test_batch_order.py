import copy
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest

from busseg.data.sample import LABEL, MASK
from busseg.training.batches import Batches

SIZE = 32


# === Order and chance ===
RANDOM = {"augmentation": "strong", "shuffle": True, "seed": 5, "epoch": 2}


@pytest.mark.parametrize("options", [RANDOM, RANDOM | {"balance": "sampling"}, RANDOM | {"cache": False}])
def test_batches_are_the_same_in_any_order_of_access_and_from_two_threads_at_once(phantom_samples, options, same):
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
def test_another_seed_or_epoch_gives_other_batches(phantom_samples, augmentation, change, same):
    options = RANDOM | {"augmentation": augmentation}
    one, other = (Batches(phantom_samples, SIZE, 30, **options)[0] for options in (options, options | change))
    assert not same(one, other)


def test_epochs_count_up_and_can_be_taken_up_again(phantom_samples, same):
    batches = Batches(phantom_samples, SIZE, 30, **RANDOM)
    batches.on_epoch_end()
    assert batches.epoch == 3
    assert same(batches[0], Batches(phantom_samples, SIZE, 30, **RANDOM | {"epoch": 3})[0])


def test_shuffled_epoch_holds_every_sample_once_in_another_order(phantom_samples):
    plain = Batches(phantom_samples, SIZE, 30)[0][0]
    shuffled = Batches(phantom_samples, SIZE, 30, shuffle=True)[0][0]
    assert not np.array_equal(shuffled, plain)
    assert {image.tobytes() for image in shuffled} == {image.tobytes() for image in plain}


def test_without_shuffle_and_augmentation_every_epoch_is_the_same(phantom_samples, same):
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
def test_shares_of_the_processes_make_up_the_whole_batch(phantom_samples, shuffle, balance, same):
    options = RANDOM | {"shuffle": shuffle, "balance": balance, "devices": 4}
    samples = phantom_samples[1:]  # of each class another number
    whole = Batches(samples, SIZE, 8, **options)
    shares = [Batches(samples, SIZE, 8, **options, process=number, processes=2) for number in (0, 1)]
    for index in range(len(whole)):
        first, second = (keras.tree.flatten(share[index]) for share in shares)
        assert {len(part) % 2 for part in first + second} == {0}  # two devices in each process
        together = [np.concatenate(parts) for parts in zip(first, second, strict=True)]
        assert same(together, whole[index])


def test_shuffled_samples_that_cannot_be_shared_are_left_out_of_an_epoch_others_each_time(phantom_samples, same):
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
def test_fit_sees_every_epoch_whole_and_in_order(phantom_samples, workers, same):
    seen = witnessed(phantom_samples, epochs=3, workers=workers)
    assert len(seen) == 3 * 8
    # Keras ends an epoch before the first, so the numbers are 1, 2, 3.
    for batch, wanted in zip(seen, [batch for epoch in (1, 2, 3) for batch in expected(phantom_samples, epoch)]):
        assert same(batch, wanted)


def test_fit_that_is_taken_up_again_sees_what_it_would_have_seen(phantom_samples, same):
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


def test_spawned_process_gives_the_same_batches(phantom_samples, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")  # which starts sooner; batches are NumPy arrays with any
    batches = Batches(phantom_samples, SIZE, 4, augmentation="card", shuffle=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        image, _ = pool.apply(batches.__getitem__, (1,))
    np.testing.assert_array_equal(image, batches[1][0])
