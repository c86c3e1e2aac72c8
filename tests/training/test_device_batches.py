import dataclasses
import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from busseg.data.augmentation import AUGMENTATIONS
from busseg.data.sample import LABEL, MASK
from busseg.training.batches import Batches
from busseg.training.device_augmentation import DEVICE_AUGMENTATIONS, NUMBERS, DeviceAugmentation, Draws, _warped
from busseg.training.device_batches import DeviceBatches
from busseg.training.fit import _augments_on_device, fit
from busseg.training.network import compile_model
from busseg.training.parallel import Devices, one_device
from busseg.training.recipe import Recipe
from busseg.training.run import RunKeeper

SIZE = 64


@pytest.fixture(scope="module")
def images_and_masks(phantom_samples):
    plain = Batches(phantom_samples, SIZE, 1)
    images, masks = zip(*(plain.load(index) for index in range(len(phantom_samples))))
    return np.stack(images), np.stack(masks)


@functools.cache
def augmentation(name):
    """The changes of this name. All tests share them, for to compile them takes a second."""
    return DeviceAugmentation(name)


def changed_on_device(name, images, masks, rounds):
    """Images and masks `(n, size, size)`, changed so many times."""
    change, random = augmentation(name), np.random.default_rng(0)
    pairs = [
        change(images, masks, random.random((len(images), NUMBERS), np.float32), np.array([0, k], np.uint32))
        for k in range(rounds)
    ]
    return [np.concatenate([keras.ops.convert_to_numpy(pair[part])[..., 0] for pair in pairs]) for part in (0, 1)]


# === The same choices and ranges as the pipelines of the same names ===
@pytest.mark.parametrize("name", ["card", "strong", "scanner"])
def test_changes_are_spread_as_those_of_the_pipeline(images_and_masks, name):
    images, masks = images_and_masks
    rounds = 12  # 360 images: their mean grey value has a standard error of about 1.5
    found, found_masks = changed_on_device(name, images, masks, rounds)
    pipeline = AUGMENTATIONS[name]()
    pipeline.set_random_seed(1)
    pairs = [pipeline(image=image, mask=mask) for _ in range(rounds) for image, mask in zip(images, masks)]
    wanted, wanted_masks = (np.stack([pair[part] for pair in pairs]).astype(np.float32) for part in ("image", "mask"))

    assert found.mean() == pytest.approx(wanted.mean(), abs=6)
    assert found.mean((1, 2)).std() == pytest.approx(wanted.mean((1, 2)).std(), rel=0.2)
    assert found.std((1, 2)).mean() == pytest.approx(wanted.std((1, 2)).mean(), rel=0.1)
    assert (found == 0).mean() == pytest.approx((wanted == 0).mean(), abs=0.05)  # geometry leaves black borders
    assert found_masks.mean() == pytest.approx(wanted_masks.mean(), rel=0.2)
    before = np.tile(images, (rounds, 1, 1))
    unchanged = [(some == before).all((1, 2)).mean() for some in (found, wanted)]
    assert unchanged[0] == pytest.approx(unchanged[1], abs=0.08)


def test_images_stay_grey_values_and_masks_stay_masks(images_and_masks):
    for name in DEVICE_AUGMENTATIONS:
        image, mask = changed_on_device(name, *images_and_masks, rounds=1)
        assert image.dtype == mask.dtype == np.float32
        assert image.min() >= 0
        assert image.max() <= 255
        np.testing.assert_array_equal(image, image.round())
        assert set(np.unique(mask)) == {0, 1}


def test_none_changes_nothing(images_and_masks):
    image, mask = changed_on_device("none", *images_and_masks, rounds=1)
    np.testing.assert_array_equal(image, images_and_masks[0])
    np.testing.assert_array_equal(mask, images_and_masks[1])


def test_mask_follows_its_image(images_and_masks):
    """Image and mask are moved alike: an image that equals its mask still equals it afterwards."""
    masks = keras.ops.convert_to_tensor(images_and_masks[1], "float32")
    numbers = np.random.default_rng(0).random((len(images_and_masks[1]), NUMBERS), np.float32)
    draw = Draws(numbers, keras.random.SeedGenerator(0))
    image, mask = _warped(
        255 * masks, masks, draw, chance=0.9, scale=(0.67, 1.5), keep_ratio=False, shift=0.15, turn=20, shear=8
    )
    image, mask = (keras.ops.convert_to_numpy(pixels) for pixels in (image, mask))
    lesion = mask > 0
    assert 0.005 < lesion.mean() < 0.5
    assert ((image > 127) == lesion).mean() > 0.998  # one is interpolated, the other takes the nearest pixel
    moved = (lesion != (images_and_masks[1] > 0)).any((1, 2))
    assert moved.mean() > 0.5


def test_pipelines_find_numbers_enough(images_and_masks):
    image, mask = (keras.ops.convert_to_tensor(pixels[:2], "float32") for pixels in images_and_masks)
    for pipeline in DEVICE_AUGMENTATIONS.values():
        draw = Draws(np.full((2, NUMBERS), 0.5, np.float32), keras.random.SeedGenerator(0))
        pipeline(image, mask, draw)
        assert draw._used <= NUMBERS


# === Batches ===
@pytest.fixture
def batches(phantom_samples):
    def make(**options):
        made = DeviceBatches(phantom_samples, 32, 8, **{"augmentation": "strong", "shuffle": True, "seed": 3} | options)
        made._augment = augmentation("strong")
        return made

    return make


def test_batches_have_one_shape(batches):
    train, validation = batches(), Batches(batches().samples, 32, 8, even=True)
    assert [len(train[index][0]) for index in range(len(train))] == [8, 8, 8]  # of 30; 6 wait for another epoch
    assert [len(validation[index][0]) for index in range(len(validation))] == [8, 8, 8, 8]
    image, targets = train[0]
    assert image.shape == targets[MASK].shape == (8, 32, 32, 1)
    assert targets[LABEL].shape == (8, 3)


def test_padding_has_no_weight(phantom_samples):
    last = Batches(phantom_samples, 32, 8, even=True)[3]
    np.testing.assert_allclose(last[2][LABEL], [32 / 30] * 6 + [0] * 2, rtol=1e-6)


def test_other_samples_wait_in_other_epochs(batches):
    train = batches()
    seen = []
    for _ in range(2):
        seen.append(set(np.resize(train._order(), len(train.samples))[:24]))
        train.on_epoch_end()
    assert seen[0] != seen[1]


def test_repeated_epoch_gives_the_same_batches(batches, same):
    one, other = batches(epoch=2), batches(epoch=1)
    assert not same(one[1], other[1])
    other.on_epoch_end()
    assert same(one[1], other[1])
    assert not same(one[1], batches(epoch=2, seed=4)[1])


def test_images_that_do_not_fit_are_sent_batch_by_batch(batches, same, monkeypatch):
    resident = batches()[0]
    monkeypatch.setattr("busseg.training.device_batches._MOST_BYTES", 0)
    sent = batches()
    assert isinstance(sent._resident[0], np.ndarray)
    assert same(sent[0], resident)


@pytest.mark.parametrize(
    "options", [{"lesion_free": 0.5}, {"grey_transfer": 0.5}, {"devices": 2}, {"devices": 2, "processes": 2}]
)
def test_what_the_device_cannot_do_is_refused(batches, options):
    with pytest.raises(ValueError, match=r"^Expected ultrasound images of a size that is a multiple of 8"):
        batches(**options)


def test_size_that_is_no_multiple_of_a_jpeg_block_is_refused(phantom_samples):
    with pytest.raises(ValueError, match=r"^Expected ultrasound images of a size that is a multiple of 8"):
        DeviceBatches(phantom_samples, 36, 8)


# === Training ===
@pytest.fixture(scope="module")
def recipe():
    return Recipe(
        image_size=32, width=4, depth=1, augmentation="scanner", augment_on="device", epochs=3, batch_size=4, seed=5
    )


@pytest.mark.slow
def test_resumed_run_ends_as_one_that_was_not_interrupted(recipe, split, tmp_path, state_of, monkeypatch):
    fit(recipe, split, tmp_path / "whole")

    def keep_and_break(self, epoch, keep=RunKeeper._keep):
        keep(self, epoch)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(RunKeeper, "_keep", keep_and_break)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, split, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["0001.keras"]
    fit(recipe, split, tmp_path / "run", resume=True)
    for (path, found), (_, wanted) in zip(
        state_of(tmp_path / "run/model.keras"), state_of(tmp_path / "whole/model.keras"), strict=True
    ):
        np.testing.assert_array_equal(found, wanted, err_msg=path)


def test_device_augments_by_itself_only_with_jax_on_a_gpu(recipe, monkeypatch):
    auto = dataclasses.replace(recipe, augment_on="auto")
    gpu = Devices(("gpu:0",))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert _augments_on_device(auto, gpu)
    assert not _augments_on_device(auto, Devices(("cpu:0",)))
    assert not _augments_on_device(auto, Devices(("gpu:0", "gpu:1"), shared=True))
    assert not _augments_on_device(dataclasses.replace(auto, grey_transfer=0.1), gpu)
    assert not _augments_on_device(dataclasses.replace(auto, augment_on="cpu"), gpu)
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    assert not _augments_on_device(auto, gpu)
    assert _augments_on_device(recipe, one_device())


def test_run_writes_its_folder_after_a_pause(recipe, split, tmp_path, monkeypatch, without_graphs):
    """The best epoch of a pause is the model, though a later one is the checkpoint."""
    monkeypatch.setattr("busseg.training.fit._pause", lambda devices: 1e6)
    recipe = dataclasses.replace(recipe, augmentation="none", batch_size=16)
    history = fit(recipe, split, tmp_path / "paused")
    assert [path.name for path in (tmp_path / "paused/checkpoints").iterdir()] == ["0003.keras"]
    best = min(history, key=lambda row: row["val_loss"])
    model = keras.models.load_model(tmp_path / "paused/model.keras")
    compile_model(model, recipe, 1)
    validation = Batches(split.validation, 32, 16, even=True)
    assert model.evaluate(validation, verbose=0, return_dict=True)["loss"] == pytest.approx(best["val_loss"], rel=1e-4)


@pytest.mark.slow
def test_jax_trains_on_phantoms_augmented_on_the_device(recipe, phantom_folder, tmp_path):
    recipe.save(tmp_path / "mine.toml")
    command = [
        sys.executable, "-m", "busseg.cli", "train", str(phantom_folder), "--out", str(tmp_path / "run"),
        "--recipe", str(tmp_path / "mine.toml"),
    ]  # fmt: skip
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model.keras").is_file()
