import keras
import numpy as np
import pytest

from busseg.models.unet import build_unet


@pytest.fixture
def images():
    """Two images of noise, 32 pixels wide."""
    return np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype(np.float32)


@pytest.fixture(scope="session")
def small_unet():
    """Function that builds a small U-Net for images 32 pixels wide, with other options if it is given them."""
    return lambda **options: build_unet(**{"image_size": 32, "width": 4} | options)


@pytest.fixture(scope="session")
def answers():
    """Function that returns what a model answers to images, as a dict of NumPy arrays."""
    return lambda model, images: {name: keras.ops.convert_to_numpy(x) for name, x in model(images).items()}


@pytest.fixture(scope="session")
def shaken():
    """Function that changes each weight of a model a little, so that no bias or moving mean is its initial one."""

    def shake(model):
        random = np.random.default_rng(3)
        model.set_weights([weight + random.normal(0, 0.02, weight.shape) for weight in model.get_weights()])
        return model

    return shake
