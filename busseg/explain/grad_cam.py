"""Where a network looks: what its attention weighs, and Grad-CAM, what the gradients of its answers weigh."""

from functools import partial

import keras
import numpy as np
from keras import ops

from busseg.data.sample import LABEL, MASK
from busseg.imaging.images import fit_to_native, fit_to_square, read_image
from busseg.inference.predictor import Predictor
from busseg.models.attention import CBAM
from busseg.models.unet import skip_connections


def spatial_attention(model, image):
    """How much each place of an image counts to the CBAMs of a network.

    Args:
        model: `keras.Model` with one `CBAM` or more, such as of `build_classifier`.
        image: Path of an image file, or array uint8 as the network takes it: `(height, width, 3)` in colour, or
            `(height, width)` in grey.

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


def grad_cam(model, image, label=None, level=-1):
    """Grad-CAM of the class: the places whose features speak for it.

    The logit of the class is derived by a feature map; the mean of the gradients over the places weighs the map's
    channels, and what remains above 0 of their sum is the heat: `relu(sum_k mean_ij(d y / d A_ijk) A_ijk)`. It is as
    coarse as the feature map is.

    Of a model that averages networks or mirror images, see `average`, it is the mean of all their heats, each
    scaled to a peak of 1.

    Args:
        model: `keras.Model` of `build_unet` or `build_classifier`, also within what `models.serving` builds around it.
        image: Path of an image file, or array uint8; see `Predictor.predict`.
        label: One of the classes of the model's task; the predicted one unless told.
        level: Which of the encoder's feature maps: 0 is the finest, -1 the bottleneck, -2 the one before it. A
            classifier has two, those it pools.

    Returns:
        Array `(height, width)` float32 of native size, in `[0, 1]`; 0 everywhere if nothing speaks for the class.

    Raises:
        ValueError: If the label, the level or the network is none of these, or Keras's backend has no gradients here.

    Reference:
        Selvaraju et al., "Grad-CAM", ICCV 2017, https://arxiv.org/abs/1610.02391
    """
    predictor, image = _open(model, image)
    if label is not None and label not in predictor.classes:
        raise ValueError(f"Expected a label of {', '.join(predictor.classes)}, found {label!r}")
    label = label or predictor.predict(image).label
    chosen = np.float32([name == label for name in predictor.classes])
    return _mean_heat(model, image, LABEL, lambda fit: chosen, level)


def mask_grad_cam(model, image, level=-1):
    """Grad-CAM of the mask: the places whose features speak for the lesion that is seen.

    As `grad_cam`, of the sum of the mask's logits over the lesion that the model outlines.

    Args:
        model: `keras.Model` of `build_unet`, also within what `models.serving` builds around it.
        image: Path of an image file, or array `(height, width)` uint8.
        level: Which of the encoder's feature maps; see `grad_cam`.

    Returns:
        Array `(height, width)` float32 of native size, in `[0, 1]`; 0 everywhere if no lesion is seen.

    Raises:
        ValueError: If the network or the level is none of these, or Keras's backend has no gradients here.

    Reference:
        Vinogradova, Dibrov and Myers, "Towards Interpretable Semantic Segmentation via Gradient-Weighted Class
        Activation Mapping", AAAI 2020, https://arxiv.org/abs/2002.11434
    """
    predictor, image = _open(model, image)
    lesion = predictor.predict(image).mask
    if lesion is None:
        raise ValueError(f"Expected a network with a mask, found one that tells the class alone: {model.name}")
    return _mean_heat(model, image, MASK, lambda fit: fit(lesion), level)


def _open(model, image):
    predictor = Predictor(model)
    return predictor, image if isinstance(image, np.ndarray) else predictor.read(image)


def _mean_heat(model, image, output, weigh, level):
    """The mean heat of all that a model averages: its networks, and with flip TTA also the mirror image.

    Args:
        output: Name of the answer to explain.
        weigh: Function that gives how much each of the answer's logits counts; it is given what fits pixels to the
            squares that the network is shown.
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
    """An image, and below it its mirror image, as a network takes them: `(1 or 2, size, size, channels)` float32."""
    square = fit_to_square(pixels, size).reshape(1, size, size, -1).astype(np.float32)
    return np.concatenate([square, square[:, :, ::-1]]) if flip_tta else square


def _heats(network, squares, output, weights, level):
    """Grad-CAM of each square: tensor `(batch, height, width)` of the feature map's size, with a peak of 1."""
    features = _feature_map(network, output, level)
    below = keras.Model(network.input, features)
    # What reaches the answer past the feature map, such as finer skips, comes from the image as ever.
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
    """What a layer that tells probabilities gives before its sigmoid or softmax."""
    if not head.weights:
        return head.input
    kernel, bias = head.weights  # of a dense layer, or of a convolution of single pixels
    return ops.matmul(ops.cast(head.input, "float32"), ops.reshape(kernel, kernel.shape[-2:])) + bias


def _gradient(function, x):
    """The gradient of a function from a tensor to a number, by the backend that Keras runs on."""
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
    raise ValueError(f"Expected Keras on TensorFlow or JAX, which Grad-CAM has gradients of, found {backend}")
