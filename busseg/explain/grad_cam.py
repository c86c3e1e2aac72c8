"""Heat maps of a network: the weights of its attention, and Grad-CAM."""

from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from busseg.data.sample import LABEL, MASK
from busseg.imaging.images import fit_to_native, fit_to_square, read_image
from busseg.inference.predictor import Predictor
from busseg.models.attention import CBAM
from busseg.models.unet import skip_connections


def spatial_attention(model: keras.Model, image: str | Path | NDArray) -> dict[str, NDArray]:
    """The spatial attention weights of a network's CBAMs.

    Args:
        model: `keras.Model` with at least one `CBAM`, such as of `build_classifier`.
        image: Path of an image file, or array uint8 as the network takes it: `(height, width, 3)` RGB, or
            `(height, width)` grey.

    Returns:
        Dict from the name of each CBAM to an array `(height, width)` float32 of native size, in `[0, 1]`.

    Raises:
        ValueError: If there is no CBAM in the network.
    """
    modules = [layer for layer in model.layers if isinstance(layer, CBAM)]
    if not modules:
        raise ValueError(f"Expected a network with a CBAM, found none: {model.name}")
    size, channels = model.input_shape[2:]
    if not isinstance(image, np.ndarray):
        image = read_image(image, colour=channels == 3)
    square = fit_to_square(image, size).reshape(1, size, size, channels).astype(np.float32)
    features = keras.Model(model.input, [module.input for module in modules])(square)
    maps = {}
    for module, x in zip(modules, keras.tree.flatten(features)):
        coarse = module.look(module.weigh_channels(x))
        fine = ops.image.resize(ops.cast(coarse, "float32"), (size, size))
        maps[module.name] = fit_to_native(ops.convert_to_numpy(fine)[0, ..., 0], image.shape[:2])
    return maps


def grad_cam(model: keras.Model, image: str | Path | NDArray, label: str | None = None, level: int = -1) -> NDArray:
    """Grad-CAM of the class: the places whose features raise its logit.

    `relu(sum_k mean_ij(d y / d A_ijk) A_ijk)` for the logit `y` and the channels `k` of a feature map `A`. It is as
    coarse as the feature map.

    For a model that averages networks or mirror images, see `average`, it is the mean of all their heat maps, each
    scaled to a peak of 1.

    Args:
        model: `keras.Model` of `build_unet` or `build_classifier`, with or without the wrappers of `models.serving`.
        image: Path of an image file, or array uint8; see `Predictor.predict`.
        label: One of the classes of the model's task; the predicted one by default.
        level: Index of the encoder's feature map: 0 is the finest, -1 the bottleneck, -2 the one before it. A
            classifier has two, those it pools.

    Returns:
        Array `(height, width)` float32 of native size, in `[0, 1]`; 0 everywhere if no feature raises the logit.

    Raises:
        ValueError: If the label or the level does not exist, the network is not supported, or Keras runs on a backend
            other than TensorFlow and JAX.

    Reference:
        Selvaraju et al., "Grad-CAM", ICCV 2017, https://arxiv.org/abs/1610.02391
    """
    predictor, image = _open(model, image)
    if label is not None and label not in predictor.classes:
        raise ValueError(f"Expected a label of {', '.join(predictor.classes)}, found {label!r}")
    label = label or predictor.predict(image).label
    chosen = np.array([name == label for name in predictor.classes], np.float32)
    return _mean_heat(model, image, LABEL, lambda fit: chosen, level)


def mask_grad_cam(model: keras.Model, image: str | Path | NDArray, level: int = -1) -> NDArray:
    """Grad-CAM of the mask: the places whose features raise the logits of the predicted lesion.

    As `grad_cam`, with the sum of the mask's logits over the predicted lesion as `y`.

    Args:
        model: `keras.Model` of `build_unet`, with or without the wrappers of `models.serving`.
        image: Path of an image file, or array `(height, width)` uint8.
        level: Index of the encoder's feature map; see `grad_cam`.

    Returns:
        Array `(height, width)` float32 of native size, in `[0, 1]`; 0 everywhere without a predicted lesion.

    Raises:
        ValueError: If the network has no mask or is not supported, the level does not exist, or Keras runs on a backend
            other than TensorFlow and JAX.

    Reference:
        Vinogradova, Dibrov and Myers, "Towards Interpretable Semantic Segmentation via Gradient-Weighted Class
        Activation Mapping", AAAI 2020, https://arxiv.org/abs/2002.11434
    """
    predictor, image = _open(model, image)
    lesion = predictor.predict(image).mask
    if lesion is None:
        raise ValueError(f"Expected a network with a mask, found one that predicts the class alone: {model.name}")
    return _mean_heat(model, image, MASK, lambda fit: fit(lesion), level)


def _open(model, image):
    predictor = Predictor(model)
    return predictor, image if isinstance(image, np.ndarray) else predictor.read(image)


def _mean_heat(model, image, output, weigh, level):
    """The mean heat map over a model's networks and, with flip TTA, over the image and its mirror image.

    Args:
        output: Name of the output to explain.
        weigh: Function that returns the weights of the output's logits, from a function that fits pixels to the
            network's squares.
    """
    networks = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    heats = []
    for network in networks or [model]:
        fit = partial(_squares, size=network.input_shape[1], flip_tta=model.name.endswith("_flip_tta"))
        coarse = _heats(network, fit(image), output, weigh(fit), level)
        fine = ops.convert_to_numpy(ops.image.resize(coarse[..., None], network.input_shape[1:3]))[..., 0]
        heats += [fit_to_native(heat, image.shape[:2]) for heat in (fine[0], *fine[1:, :, ::-1])]
    return np.mean(heats, axis=0)


def _squares(pixels, size, flip_tta):
    """An image, with flip TTA also its mirror image, as a batch: `(1 or 2, size, size, channels)` float32."""
    square = fit_to_square(pixels, size).reshape(1, size, size, -1).astype(np.float32)
    return np.concatenate([square, square[:, :, ::-1]]) if flip_tta else square


def _heats(network, squares, output, weights, level):
    """Grad-CAM of each square: tensor `(batch, height, width)` of the feature map's size, with a peak of 1."""
    features = _feature_map(network, output, level)
    below = keras.Model(network.input, features)
    # Paths that bypass the feature map, such as finer skips, still start at the image.
    above = keras.Model([network.input, features], _logits(network.get_layer(output)))
    squares = ops.convert_to_tensor(squares)
    x = below(squares)
    gradients = _gradient(lambda x: ops.sum(weights * ops.cast(above([squares, x]), "float32")), x)
    x, gradients = ops.cast(x, "float32"), ops.cast(gradients, "float32")
    heat = ops.relu(ops.sum(x * ops.mean(gradients, axis=(1, 2), keepdims=True), axis=-1))
    peak = ops.max(heat, axis=(1, 2), keepdims=True)
    return heat / ops.where(peak > 0, peak, 1)


def _feature_map(network, output, level):
    """The feature map of the encoder at a level; see `grad_cam`."""
    pooled = {layer.name: layer.input for layer in network.layers if layer.name.startswith("label_average")}
    levels = [*skip_connections(network), *(pooled[name] for name in sorted(pooled))]
    if not levels:
        raise ValueError(f"Expected a network of build_unet or build_classifier, found another one: {network.name}")
    if not -len(levels) <= level < len(levels):
        raise ValueError(f"Expected a level of {-len(levels)} to {len(levels) - 1}, found {level}: {network.name}")
    return levels[level]


def _logits(head):
    """The logits of a layer that outputs probabilities."""
    if not head.weights:
        return head.input
    kernel, bias = head.weights  # of a dense layer, or of a convolution of single pixels
    return ops.matmul(ops.cast(head.input, "float32"), ops.reshape(kernel, kernel.shape[-2:])) + bias


def _gradient(function, x):
    """The gradient of a function from a tensor to a number, computed by Keras' backend."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    raise ValueError(f"Expected Keras on TensorFlow or JAX, whose gradients Grad-CAM uses, found {backend}")
