import keras
import numpy as np
import pytest

from busseg.data.images import write_image
from busseg.data.tissue import draw_tissue
from busseg.inference.explain import spatial_attention
from busseg.models.attention import CBAM
from busseg.models.classifier import build_classifier
from busseg.models.unet import build_unet


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    return build_classifier(64, encoder="plain", width=4, depth=2)


def test_attention_is_what_the_module_multiplies_by(classifier):
    image = draw_tissue("malignant", 100, 0, 0, height=64, width=64)
    maps = spatial_attention(classifier, image)
    assert list(maps) == ["label_attention0", "label_attention1"]
    x = image[None].astype(np.float32)
    for name, found in maps.items():
        module = classifier.get_layer(name)
        inside, outside = (
            keras.ops.convert_to_numpy(y) for y in keras.Model(classifier.input, [module.input, module.output])(x)
        )
        weighed = keras.ops.convert_to_numpy(module.weigh_channels(inside))
        coarse = (outside.sum(-1) / weighed.sum(-1))[0]
        stride = 64 // len(coarse)
        # In the middle between the centres of four places, the enlarged map has their mean.
        corner = found[stride - 1 : stride + 1, stride - 1 : stride + 1].mean()
        assert corner == pytest.approx(coarse[:2, :2].mean(), abs=1e-4)


def test_maps_have_the_native_size_whatever_is_given(classifier, tmp_path):
    image = draw_tissue("benign", 40, 0, 0, height=40, width=70)
    write_image(tmp_path / "a.png", image)
    for given in (image, tmp_path / "a.png", str(tmp_path / "a.png")):
        for found in spatial_attention(classifier, given).values():
            assert found.shape == (40, 70)
            assert found.min() >= 0
            assert found.max() <= 1


def test_unet_with_cbam_is_looked_into(phantom_samples):
    network = build_unet(32, width=4, depth=2, cbam=True)
    maps = spatial_attention(network, phantom_samples[0].image)
    assert len(maps) == sum(isinstance(layer, CBAM) for layer in network.layers) == 3


def test_network_without_attention_is_refused():
    with pytest.raises(ValueError, match=r"^Expected a network with a CBAM, found none: unet$"):
        spatial_attention(build_unet(32, width=4, depth=2), np.zeros((32, 32), np.uint8))
