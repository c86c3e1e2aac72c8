import cv2
import keras
import numpy as np
import pytest

from busseg.data.tissue import draw_tissue
from busseg.explain.grad_cam import grad_cam, mask_grad_cam, spatial_attention
from busseg.imaging.images import write_image
from busseg.models.attention import CBAM
from busseg.models.classifier import build_classifier
from busseg.models.serving import average, make_mask_follow_class
from busseg.models.unet import build_unet


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    return build_classifier(64, encoder="plain", width=4, depth=2)


@pytest.fixture(scope="module")
def unet():
    keras.utils.set_random_seed(0)
    return build_unet(32, width=4, depth=2)


NOISE = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)


def scaled(coarse, size):
    """A heat as it comes back: above 0 only, with a peak of 1, and as large as the image."""
    heat = np.maximum(coarse, 0)
    return cv2.resize(np.float32(heat / heat.max()), (size, size), interpolation=cv2.INTER_LINEAR)


# === Attention ===


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


def test_maps_have_the_native_size_for_paths_and_arrays(classifier, tmp_path):
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


# === Grad-CAM ===


@pytest.mark.parametrize(("name", "label", "number"), [("unet", "malignant", 2), ("classifier", "benign", 0)])
def test_heat_of_the_pooled_features_is_their_sum_weighed_by_the_label_s_kernel(request, name, label, number):
    # logit = mean(A) @ k_mean + max(A) @ k_max + b: the gradients of A's n places have the mean (k_mean + k_max) / n.
    model = request.getfixturevalue(name)
    size, channels = model.input_shape[2:]
    image = np.random.default_rng(1).integers(0, 256, (size, size, 3)[: 3 if channels == 3 else 2], np.uint8)
    pooled = [layer for layer in model.layers if layer.name.startswith("label_average")][-1].input
    features = keras.Model(model.input, pooled)(np.float32(image).reshape(1, size, size, channels))
    features = keras.ops.convert_to_numpy(features)[0]
    kernel = keras.ops.convert_to_numpy(model.get_layer("label").kernel)[-2 * features.shape[-1] :, number]
    weights = kernel[: features.shape[-1]] + kernel[features.shape[-1] :]
    found = grad_cam(model, image, label)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scaled(features @ weights, size), atol=1e-4)


def test_heat_of_the_mask_is_weighed_by_what_its_logits_gain_when_a_channel_grows(unet):
    skips = [unet.get_layer(f"decoder{level}_concat").input[0] for level in (0, 1)]
    levels = [*skips, unet.get_layer("label_average").input]
    *finer, x = (
        keras.ops.convert_to_numpy(y) for y in keras.Model(unet.input, levels)(np.float32(NOISE[None, ..., None]))
    )
    decoder = keras.Model(levels, unet.output["mask"])

    def logits(x):
        p = keras.ops.convert_to_numpy(decoder([*finer, x]))[0, ..., 0].astype(np.float64)
        return np.log(p / (1 - p))

    lesion = logits(x) >= 0
    assert lesion.any()
    step = 1e-2 * np.eye(x.shape[-1], dtype=np.float32)
    gains = [logits(x + one)[lesion].sum() - logits(x - one)[lesion].sum() for one in step]
    np.testing.assert_allclose(mask_grad_cam(unet, NOISE), scaled(x[0] @ np.array(gains), 32), atol=0.02)


def test_heat_of_a_model_that_averages_is_the_mean_of_its_networks_and_of_both_sides(unet):
    other = build_unet(16, width=4, depth=1)
    model = make_mask_follow_class(average(unet, other, flip_tta=True))
    mirrored = np.ascontiguousarray(NOISE[:, ::-1])
    parts = [grad_cam(n, NOISE, "benign") for n in (unet, other)]
    parts += [grad_cam(n, mirrored, "benign")[:, ::-1] for n in (unet, other)]
    np.testing.assert_allclose(grad_cam(model, NOISE, "benign"), np.mean(parts, axis=0), atol=1e-4)
    np.testing.assert_allclose(mask_grad_cam(model, mirrored), mask_grad_cam(model, NOISE)[:, ::-1], atol=1e-3)


@pytest.mark.parametrize("level", [-1, -2])
def test_heat_has_the_native_size_and_no_value_below_0(classifier, tmp_path, level):
    write_image(tmp_path / "a.png", draw_tissue("malignant", 100, 0, 0, height=40, width=70))
    heat = grad_cam(classifier, tmp_path / "a.png", level=level)
    assert heat.shape == (40, 70)
    assert heat.min() >= 0
    assert heat.max() <= 1


def test_predicted_class_is_explained_by_default(unet):
    by_label = {label: grad_cam(unet, NOISE, label) for label in ("normal", "benign", "malignant")}
    predicted = np.argmax(keras.ops.convert_to_numpy(unet(np.float32(NOISE[None, ..., None]))["label"]))
    np.testing.assert_array_equal(grad_cam(unet, NOISE), list(by_label.values())[predicted])
    assert not np.array_equal(by_label["normal"], by_label["malignant"])


def test_mask_without_a_lesion_has_no_heat():
    network = build_unet(32, width=4, depth=1)
    network.get_layer("mask").bias.assign([-100])
    assert mask_grad_cam(network, NOISE).max() == 0


def test_what_cannot_be_explained_is_refused(unet, classifier, echo_model):
    with pytest.raises(ValueError, match=r"^Expected a label of normal, benign, malignant, found 'cyst'$"):
        grad_cam(unet, NOISE, "cyst")
    with pytest.raises(ValueError, match=r"^Expected a level of -3 to 2, found 3: unet$"):
        grad_cam(unet, NOISE, level=3)
    with pytest.raises(
        ValueError, match=r"^Expected a network of build_unet or build_classifier, found another one: echo$"
    ):
        grad_cam(echo_model, NOISE)
    with pytest.raises(ValueError, match=r"^Expected a network with a mask, found one that predicts the class alone: "):
        mask_grad_cam(classifier, np.zeros((64, 64, 3), np.uint8))
