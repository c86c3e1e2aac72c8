from dataclasses import replace

import numpy as np
import pytest

from busseg.imaging.images import write_image
from busseg.models.unet import build_unet
from busseg.training.ood import fit_ood, measure_ood


@pytest.fixture(scope="module")
def network():
    import keras

    keras.utils.set_random_seed(0)
    return build_unet(image_size=32, width=4, depth=2)


def test_known_images_are_at_a_median_distance_of_one(network, phantom_samples):
    found = fit_ood(network, phantom_samples, "card")
    assert [array.shape for array in found] == [(24,), (24, 24)]
    assert {array.dtype for array in found} == {np.dtype(np.float32)}
    assert np.median(measure_ood(network, phantom_samples, *found)) == pytest.approx(1, abs=0.01)


def test_image_out_of_distribution_has_a_larger_distance(network, phantom_samples, tmp_path):
    stripes = np.tile(np.uint8([0, 255] * 32), (64, 1))
    write_image(tmp_path / "stripes.png", stripes)
    write_image(tmp_path / "mask.png", 0 * stripes)
    striped = replace(phantom_samples[0], image=tmp_path / "stripes.png", masks=(tmp_path / "mask.png",))
    found = fit_ood(network, phantom_samples, "card")
    known = measure_ood(network, phantom_samples, *found)
    assert measure_ood(network, [striped], *found)[0] > 1.5 * known.max()
