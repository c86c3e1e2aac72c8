"""Inference wrappers: ensemble, flip test-time augmentation, temperature, uncertainty, OOD score.

They are part of the model, so Keras and every exported format compute the same.
"""

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from busseg.models.unet import skip_connections


def average(*networks: keras.Model, flip_tta: bool = False) -> keras.Model:
    """An ensemble: the mean of the outputs of networks.

    Class probabilities are averaged as logits, so a temperature of the networks is also that of the mean.

    Args:
        networks: Each a `keras.Model` of `build_unet`. The ensemble takes images of the first one's size; it resizes
            them for the others, and their masks back.
        flip_tta: Whether the mean includes each network's outputs for the mirror image (flip test-time augmentation).

    Returns:
        A `keras.Model` with the input and outputs of the first one; `mask` and `label` are the means.
    """
    size = networks[0].input_shape[1]
    image = keras.Input(networks[0].input_shape[1:], name="image")
    others: dict[str, keras.KerasTensor] = {}
    masks, logits = [], []
    for number, network in enumerate(networks):
        network = keras.Model(network.input, network.output, name=f"{network.name}{number}")
        scaled = _resize(image, network.input_shape[1])
        if flip_tta:
            # One batch, so that an exported file holds the network once.
            both = network(ops.concatenate([scaled, _mirror(scaled)], axis=0))
            answer, flipped = ({name: _halves(x)[half] for name, x in both.items()} for half in (0, 1))
            found = [answer["mask"], _mirror(flipped["mask"])]
            labels = [answer["label"], flipped["label"]]
        else:
            answer = network(scaled)
            found, labels = [answer["mask"]], [answer["label"]]
        others = others or answer
        masks.append(_resize(sum(found) / len(found), size))
        logits += [ops.log(ops.maximum(label, 1e-7)) for label in labels]
    mask, label = sum(masks) / len(masks), ops.softmax(sum(logits) / len(logits))
    name = f"{networks[0].name}_{'flip_tta' if flip_tta else 'mean'}"
    return keras.Model(image, {**others, "mask": mask, "label": label}, name=name)


def _mirror(x):
    # Not `ops.flip`, which tf2onnx turns into ReverseSequence. OpenCV and others lack it; and after it tf2onnx has no
    # shapes and writes SAME_UPPER, which OpenCV's new engine misreads.
    return ops.take(x, list(reversed(range(x.shape[2]))), axis=2)


def _halves(batch):
    return ops.reshape(batch, (2, -1, *batch.shape[1:]))


def _resize(x, size):
    """Resize maps of one channel: by area where they shrink, linearly where they grow.

    As matrix products, since tf2onnx converts the resizing of Keras to a wrong size.
    """
    old = x.shape[1]
    if old == size:
        return x
    along = layers.Dense(size, use_bias=False, trainable=False, dtype="float32")
    x = x[..., 0]
    for _ in ("rows", "columns"):
        x = ops.transpose(along(x), (0, 2, 1))
    along.set_weights([_shares(old, size)])
    return x[..., None]


def _shares(old, new):
    """Weights of `old` pixels in a row for `new` ones: array `(old, new)`."""
    pixel = np.arange(old)[:, None]
    if new > old:
        centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return np.maximum(1 - np.abs(centre - pixel), 0)
    start, end = (np.arange(new) + side for side in (0, 1))
    overlap = np.minimum(end * old / new, pixel + 1) - np.maximum(start * old / new, pixel)
    return np.maximum(overlap, 0) * new / old


def add_uncertainty(model: keras.Model) -> keras.Model:
    """Add an output that estimates how likely the class or the mask is wrong.

    `max(1 - max(label), 1 - m)`, where `m` is the mean probability of the pixels at or above 0.5, and 0 if there are
    none. Where the first class is the most probable one, `1 - max(label)` alone.

    Args:
        model: `keras.Model` with the outputs `mask` and `label`, whose first class is the one without a lesion.

    Returns:
        A `keras.Model` with the same input and outputs, and `uncertainty`, `(batch, 1)` in `[0, 1]`.
    """
    mask, label = model.output["mask"], model.output["label"]
    inside = ops.cast(mask >= 0.5, mask.dtype)
    mean = ops.sum(mask * inside, axis=(1, 2)) / ops.maximum(ops.sum(inside, axis=(1, 2)), 1)
    of_mask = ops.where(_is_normal(label), ops.zeros_like(mean), 1 - mean)
    uncertainty = ops.maximum(1 - ops.max(label, axis=1, keepdims=True), of_mask)
    return keras.Model(model.input, {**model.output, "uncertainty": uncertainty}, name=model.name)


def _is_normal(label):
    # Not argmax: ONNX converts this form.
    return label[:, :1] >= ops.max(label, axis=1, keepdims=True)


def make_mask_follow_class(model: keras.Model) -> keras.Model:
    """Make the mask agree with the class: no lesion on an image called normal, a lesion on any other.

    For a class with a lesion, the mask's probabilities are divided by the largest of them, but multiplied by 10 at
    most, so a mask whose largest is below 0.05 stays below the threshold of 0.5. For the class without, they are scaled
    to 0.49 at most.

    Args:
        model: `keras.Model` with the outputs `mask` and `label`, whose first class is the one without a lesion.

    Returns:
        A `keras.Model` with the same input and outputs, of which `mask` agrees with `label`.
    """
    mask, label = model.output["mask"], model.output["label"]
    normal = ops.reshape(_is_normal(label), (-1, 1, 1, 1))
    peak = ops.max(mask, axis=(1, 2), keepdims=True)
    scale = ops.where(normal, 0.49 / ops.maximum(peak, 0.49), 1 / ops.maximum(peak, 0.1))
    return keras.Model(model.input, {**model.output, "mask": mask * scale}, name=model.name)


def network_inside(model: keras.Model) -> keras.Model:
    """The first network of `build_unet` inside a wrapped model, with shared weights; a bare network as it is."""
    network = next((layer for layer in model.layers if isinstance(layer, keras.Model)), model)
    outputs = {name: network.get_layer(name).output for name in ("mask", "label")}
    return keras.Model(network.input, outputs, name="unet")


def set_temperature(model: keras.Model, temperature: float) -> None:
    """Divide the logits of the classes by a temperature; above 1 the probabilities become less extreme.

    Args:
        model: `keras.Model` of `build_unet` or `build_classifier`, or a wrapper around several, each of which gets the
            temperature; changed in place.
        temperature: Float > 0.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be > 0. Received: temperature={temperature}")
    for head in _label_heads(model):
        head.set_weights([weight / temperature for weight in head.get_weights()])


def _label_heads(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _label_heads(layer)
        elif layer.name == "label":
            yield layer


def texture_features(network: keras.Model) -> keras.Model:
    """A model from `image` to texture features of a network's encoder.

    These are the mean and the standard deviation of every channel of the two coarsest skip connections. Finer levels
    hold little texture, and the bottleneck is specific to the training images rather than to ultrasound.

    Args:
        network: `keras.Model` of `build_unet`.

    Returns:
        A `keras.Model` from the network's input to `(batch, features)` float32, from fine to coarse, the means of a
        level before its deviations.
    """
    maps = [ops.cast(skip, "float32") for skip in skip_connections(network)[-2:]]
    moments = [moment(x, axis=(1, 2)) for x in maps for moment in (ops.mean, ops.std)]
    return keras.Model(network.input, ops.concatenate(moments, axis=1))


def add_ood_score(network: keras.Model, mean: NDArray, whitening: NDArray) -> keras.Model:
    """Add an out-of-distribution score: the Mahalanobis distance of an image's texture from the training images.

    Args:
        network: `keras.Model` of `build_unet`.
        mean: Array `(features,)`, the mean of the training images' `texture_features`.
        whitening: Array `(features, n)`: after it they have the same spread in all directions. It sets the scale of
            the score.

    Returns:
        A `keras.Model` with the same input and outputs, and `ood_score`, `(batch, 1)`, at least 0.

    Reference:
        Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
        NeurIPS 2018, https://arxiv.org/abs/1807.03888
    """
    whiten = layers.Dense(whitening.shape[1], dtype="float32", name="ood_whitening")
    x = whiten(texture_features(network).output)
    whiten.set_weights([whitening, -mean @ whitening])
    ood_score = ops.sqrt(ops.sum(ops.square(x), axis=1, keepdims=True))
    return keras.Model(network.input, {**network.output, "ood_score": ood_score}, name=network.name)
