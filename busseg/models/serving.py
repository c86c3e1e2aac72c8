"""What is built around a trained network before it is used: calibration, a mirror, and a sense for foreign images.

All of it is inside the model, so that Keras and every exported format answer alike.
"""

import keras
import numpy as np
from keras import layers, ops


def average(*networks, flip_tta=False):
    """Let networks answer as the mean of all their answers.

    Class probabilities are averaged as logits, so that a temperature given to the networks is that of the mean, too.

    Args:
        networks: Each a `keras.Model` of `build_unet`. The first one's square is that of the model; for the others the
            image is resized, and their maps back.
        flip_tta: Whether each network also answers for the mirror image (flip test-time augmentation).

    Returns:
        A `keras.Model` of the first one's input and outputs, of which `mask` and `label` are the means.
    """
    size = networks[0].input_shape[1]
    image = keras.Input(networks[0].input_shape[1:], name="image")
    others, masks, logits = {}, [], []
    for number, network in enumerate(networks):
        network = keras.Model(network.input, network.output, name=f"{network.name}{number}")
        scaled = _resize(image, network.input_shape[1])
        if flip_tta:
            # As one batch, for which the network stands once in an exported file.
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
    # Not `ops.flip`, which tf2onnx turns into ReverseSequence. OpenCV and others lack that; and behind it tf2onnx knows
    # no sides and writes SAME_UPPER, which OpenCV's new engine misreads.
    return ops.take(x, list(reversed(range(x.shape[2]))), axis=2)


def _halves(batch):
    return ops.reshape(batch, (2, -1, *batch.shape[1:]))


def _resize(x, size):
    """Resize maps of one channel, area by area or, where they grow, linearly.

    By matrices, for tf2onnx takes the resizing of Keras for another size.
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
    """How much each of `old` pixels in a row counts for each of `new` ones: array `(old, new)`."""
    pixel = np.arange(old)[:, None]
    if new > old:
        centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return np.maximum(1 - np.abs(centre - pixel), 0)
    start, end = (np.arange(new) + side for side in (0, 1))
    overlap = np.minimum(end * old / new, pixel + 1) - np.maximum(start * old / new, pixel)
    return np.maximum(overlap, 0) * new / old


def add_uncertainty(model):
    """Let a model tell how likely one of its answers is wrong.

    Args:
        model: `keras.Model` with the outputs `mask` and `label`, whose first class is the one without a lesion.

    Returns:
        A `keras.Model` of the same input and outputs, and beside them `uncertainty`, `(batch, 1)` in `[0, 1]`: the
        larger of what the probability of the class lacks to 1, and, unless that is the first, what the mean probability
        of the pixels at or above a half lacks; 1 if there are none.
    """
    mask, label = model.output["mask"], model.output["label"]
    inside = ops.cast(mask >= 0.5, mask.dtype)
    mean = ops.sum(mask * inside, axis=(1, 2)) / ops.maximum(ops.sum(inside, axis=(1, 2)), 1)
    of_mask = ops.where(_is_normal(label), ops.zeros_like(mean), 1 - mean)
    uncertainty = ops.maximum(1 - ops.max(label, axis=1, keepdims=True), of_mask)
    return keras.Model(model.input, {**model.output, "uncertainty": uncertainty}, name=model.name)


def _is_normal(label):
    # In these words ONNX, too, knows whether the first class is the most probable one.
    return label[:, :1] >= ops.max(label, axis=1, keepdims=True)


def make_mask_follow_class(model):
    """Let the mask of a model agree with its class: an image called normal shows no lesion, any other one shows one.

    Where a lesion is found, the map of its probabilities is scaled so that the most probable pixel has 1; what is below
    a tenth everywhere is scaled by ten and no further, and may stay below the threshold of a half. Where none is found,
    it is scaled to stay below it.

    Args:
        model: `keras.Model` with the outputs `mask` and `label`, whose first class is the one without a lesion.

    Returns:
        A `keras.Model` of the same input and outputs, of which `mask` agrees with `label`.
    """
    mask, label = model.output["mask"], model.output["label"]
    normal = ops.reshape(_is_normal(label), (-1, 1, 1, 1))
    peak = ops.max(mask, axis=(1, 2), keepdims=True)
    scale = ops.where(normal, 0.49 / ops.maximum(peak, 0.49), 1 / ops.maximum(peak, 0.1))
    return keras.Model(model.input, {**model.output, "mask": mask * scale}, name=model.name)


def network_inside(model):
    """The network of `build_unet` that a model was built around, with the weights it shares with it."""
    network = next((layer for layer in model.layers if isinstance(layer, keras.Model)), model)
    outputs = {name: network.get_layer(name).output for name in ("mask", "label")}
    return keras.Model(network.input, outputs, name="unet")


def set_temperature(model, temperature):
    """Divide a model's logits of the classes by a number: above 1 its probabilities become less sure.

    Args:
        model: `keras.Model` of `build_unet` or `build_classifier`, or one built around several, each of which is given
            the temperature; changed in place.
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


def texture_features(network):
    """A model from `image` to the texture that a network's encoder sees in it.

    That is the mean and the standard deviation of every feature map of the two coarsest skip connections. Finer levels
    see little, and what the bottleneck sees is of the training images rather than of ultrasound.

    Args:
        network: `keras.Model` of `build_unet`.

    Returns:
        A `keras.Model` from the network's input to `(batch, features)` float32, from fine to coarse, the means of a
        level before its deviations.
    """
    # What takes in a level's skip connection; "concat" takes it first.
    takers = {f"decoder{level}_{end}" for level in range(len(network.layers)) for end in ("from_skip", "concat")}
    skips = {layer.name: keras.tree.flatten(layer.input)[0] for layer in network.layers if layer.name in takers}
    maps = [ops.cast(skips[name], "float32") for name in sorted(skips)[-2:]]
    moments = [moment(x, axis=(1, 2)) for x in maps for moment in (ops.mean, ops.std)]
    return keras.Model(network.input, ops.concatenate(moments, axis=1))


def add_ood_score(network, mean, whitening):
    """Let a network tell how far an image is from those it has learnt from: the Mahalanobis distance of its
    texture.

    Args:
        network: `keras.Model` of `build_unet`.
        mean: Array `(features,)`, of the known images' `texture_features`.
        whitening: Array `(features, n)`, after which they are spread alike in all directions. Its scale is that of the
            answer.

    Returns:
        A `keras.Model` of the same input and outputs, and beside them `ood_score`, `(batch, 1)`, at least 0.

    Reference:
        Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
        NeurIPS 2018, https://arxiv.org/abs/1807.03888
    """
    whiten = layers.Dense(whitening.shape[1], dtype="float32", name="ood_whitening")
    x = whiten(texture_features(network).output)
    whiten.set_weights([whitening, -mean @ whitening])
    ood_score = ops.sqrt(ops.sum(ops.square(x), axis=1, keepdims=True))
    return keras.Model(network.input, {**network.output, "ood_score": ood_score}, name=network.name)
