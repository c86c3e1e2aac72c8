"""Encoders: from an image to a pyramid of feature maps.

All take an image `(batch, size, size, channels)` with values 0..255, which the first layers bring to the encoder's own
range, and return feature maps from fine to coarse, each half the height and width of the one before; the last is the
bottleneck.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import keras
from keras import applications, layers

from busseg.models import efficientnet_lite
from busseg.models.attention import CBAM
from busseg.models.normalization import NORMALIZATIONS, normalize


@dataclass(frozen=True)
class Encoder:
    """What is known of an encoder before it is built.

    Args:
        channels: Channels of its feature maps, from fine to coarse. None for an encoder of any depth, whose channels
            double at every level.
        finest_stride: Pixels of the image per place of the finest feature map, along each side.
        build: Function of `keras.applications` that builds it; None for one that is built here.
        preprocessing: Mode of `preprocess_input` that brings an image to the range it expects; None where its first
            layers do.
        layers: Names of the layers of `build` that end its levels.
    """

    channels: tuple[int, ...] | None
    finest_stride: int = 2
    build: Callable[..., keras.Model] | None = None
    preprocessing: str | None = None
    layers: tuple[str, ...] = ()

    @property
    def max_depth(self) -> int | None:
        """The largest number of levels below the finest; None without a limit."""
        return None if self.channels is None else len(self.channels) - 1

    def stride(self, level: int) -> int:
        """Pixels of the image per place of the feature map of a level, of which 0 is the finest."""
        return self.finest_stride * 2**level


ENCODERS = {
    "plain": Encoder(channels=None, finest_stride=1),
    "efficientnet_lite0": Encoder((16, 24, 40, 112, 320)),
    "efficientnet_lite1": Encoder((16, 24, 40, 112, 320)),
    "efficientnet_lite2": Encoder((16, 24, 48, 120, 352)),
    "densenet121": Encoder(
        (64, 256, 512, 1024, 1024),
        build=applications.DenseNet121,
        preprocessing="torch",
        layers=("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"),
    ),
    "resnet50": Encoder(
        (64, 256, 512, 1024, 2048),
        build=applications.ResNet50,
        preprocessing="caffe",
        layers=("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    ),
    "efficientnetv2_b0": Encoder(
        (16, 32, 48, 112, 192),
        build=applications.EfficientNetV2B0,
        layers=("block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "block6h_add"),
    ),
    "mobilenet_v2": Encoder(
        (16, 24, 32, 96, 320),
        build=applications.MobileNetV2,
        preprocessing="tf",
        layers=("expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add", "block_16_project_BN"),
    ),
    "convnext_tiny": Encoder(
        (96, 192, 384, 768),
        finest_stride=4,
        build=applications.ConvNeXtTiny,
        layers=tuple(f"convnext_tiny_stage_{stage}_block_{last}_identity" for stage, last in enumerate((2, 2, 8, 2))),
    ),
}

_DEEPEST = 16  # levels of the plain encoder; an image of 65,536 px would end as one pixel


def check_encoder(
    image_size: int | None,
    encoder: str,
    width: int,
    depth: int,
    frozen: int,
    fold_batch_norm: bool,
    normalization: str,
) -> None:
    """Refuse arguments that `encode` cannot build a network of.

    Raises:
        ValueError: If an argument is out of its range; for a wrong `image_size` it names the nearest right one.
    """
    for name, value, allowed in (("encoder", encoder, ENCODERS), ("normalization", normalization, NORMALIZATIONS)):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}. Received: {name}={value!r}")
    for name, number in (("width", width), ("depth", depth)):
        if number < 1:
            raise ValueError(f"`{name}` must be >= 1. Received: {name}={number}")
    most = ENCODERS[encoder].max_depth
    if most and depth > most:
        raise ValueError(f"`depth` must be <= {most} with the encoder {encoder}. Received: depth={depth}")
    if not 0 <= frozen <= depth + 1:
        raise ValueError(f"`frozen` must be in [0, {depth + 1}], the encoder's levels. Received: frozen={frozen}")
    lites = efficientnet_lite.SCALES
    if fold_batch_norm and encoder not in lites:
        raise ValueError(
            f"`fold_batch_norm` is for {', '.join(lites)}. Received: fold_batch_norm=True, encoder={encoder!r}"
        )
    if depth > _DEEPEST:  # checked before the stride, which a huge depth makes too large to compute
        raise ValueError(f"`depth` must be <= {_DEEPEST}. Received: depth={depth}")
    stride = ENCODERS[encoder].stride(depth)
    if image_size is not None and (image_size < stride or image_size % stride):
        nearest = max(stride, round(image_size / stride) * stride)
        raise ValueError(
            f"`image_size` must be a multiple of {stride}, the stride of the bottleneck at this depth. The nearest is "
            f"{nearest}. Received: image_size={image_size}"
        )


def encode(
    image: keras.KerasTensor,
    encoder: str = "plain",
    *,
    weights: str | Path | None = None,
    width: int = 16,
    depth: int = 4,
    normalization: str = "batch",
    cbam: bool = False,
    frozen: int = 0,
    frozen_depthwise: bool = False,
    fold_batch_norm: bool = False,
) -> list[keras.KerasTensor]:
    """Run an image through an encoder.

    Args:
        image: `keras.Input` of one channel, or of three.
        encoder: One of `ENCODERS`.
        weights: None for random ones; "imagenet"; or the path of a file. For "plain" and EfficientNet-Lite:
            `.weights.h5` of the same encoder; for the latter also the `.pth` of its package. For the others: the
            weights of the whole network without its top, as `keras.applications` publishes them.
        width: Filters of the finest level of "plain"; they double at every level. The others have fixed widths.
        depth: Number of levels below the finest.
        normalization: One of `NORMALIZATIONS`, for "plain" and EfficientNet-Lite. The others have their own.
        cbam: Whether the feature map of each level passes through a CBAM.
        frozen: Number of levels, from the finest, whose weights and statistics stay as they are.
        frozen_depthwise: Whether the kernels of all depthwise convolutions stay as they are.
        fold_batch_norm: Whether the batch normalization of a pretrained EfficientNet-Lite is folded into its kernels,
            which then have biases and no normalization after them.

    Returns:
        List of `depth + 1` tensors, from fine to coarse, at the strides of the `Encoder`.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the package that carries the weights is not installed.
        OSError: If the weights cannot be downloaded.
        ValueError: If the file holds no weights of this encoder, or it has no ImageNet weights.
    """
    if encoder == "plain":
        features = plain_encoder(image, width, depth, normalization)
    elif encoder in efficientnet_lite.SCALES:
        normalization = "none" if fold_batch_norm else normalization
        features = efficientnet_lite.efficientnet_lite(image, encoder, normalization)
    else:
        features = _application(image, encoder, weights)
    whole, features = features, features[: depth + 1]
    if weights is not None and ENCODERS[encoder].build is None:
        _load(image, whole, features, encoder, weights, normalization)
    if frozen:
        for layer in keras.Model(image, features[frozen - 1]).layers:
            layer.trainable = False
    if frozen_depthwise:
        for layer in keras.Model(image, features).layers:
            if isinstance(layer, layers.DepthwiseConv2D):
                layer.trainable = False
    return [CBAM(name=f"encoder{k}_cbam")(x) for k, x in enumerate(features)] if cbam else features


def _load(image, whole, features, encoder, weights, normalization):
    if weights == "imagenet" and encoder == "plain":
        raise ValueError("The encoder plain has no ImageNet weights; those with them are " + ", ".join([*ENCODERS][1:]))
    path = efficientnet_lite.imagenet_file(encoder) if weights == "imagenet" else str(weights)
    if path.endswith(".pth") and encoder != "plain":
        # All levels are loaded, also unused ones: the networks of the family differ only in these.
        efficientnet_lite.load_imagenet(keras.Model(image, whole), encoder, normalization, path)
    else:
        _load_keras(keras.Model(image, features), encoder, path)


def _load_keras(model, encoder, path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected the weights of {encoder}, found no such file: {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # dozens that repeat the error
            model.load_weights(path)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        reason = str(error).split(". ")[0]
        raise ValueError(
            f"Expected the weights of {encoder} as it is built here, found something else ({reason}): {path}"
        ) from error


def plain_encoder(
    x: keras.KerasTensor, width: int, depth: int, normalization: str = "batch"
) -> list[keras.KerasTensor]:
    """The encoder of the original U-Net, narrower: two convolutions a level, then 2x2 max pooling.

    Args:
        x: Tensor `(batch, size, size, 1)`, 0..255.
        width: Filters of the first level. They double at every level.
        depth: Number of poolings.
        normalization: One of `NORMALIZATIONS`.

    Returns:
        List of `depth + 1` tensors, at strides 1, 2, ... `2 ** depth`.

    Reference:
        Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, https://arxiv.org/abs/1505.04597
    """
    x = layers.Rescaling(1 / 255, name="rescaling")(x)
    features = []
    for level in range(depth + 1):
        if level > 0:
            x = layers.MaxPooling2D(name=f"encoder{level}_pool")(x)
        x = conv_block(x, width * 2**level, normalization, name=f"encoder{level}")
        features.append(x)
    return features


def conv_block(
    x: keras.KerasTensor, filters: int, normalization: str, name: str, convolutions: int = 2
) -> keras.KerasTensor:
    """3x3 convolutions, each followed by normalization and ReLU."""
    for step in range(1, convolutions + 1):
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=normalization == "none", kernel_initializer="he_normal",
            name=f"{name}_conv{step}",
        )(x)  # fmt: skip
        x = normalize(x, normalization, f"{name}_norm{step}")
        x = layers.ReLU(name=f"{name}_relu{step}")(x)
    return x


def _application(image, encoder, weights):
    known = ENCODERS[encoder]
    x = image if image.shape[-1] == 3 else layers.Concatenate(name="grey_to_rgb")([image] * 3)
    if known.preprocessing:
        x = applications.imagenet_utils.preprocess_input(x, mode=known.preprocessing)
    try:
        model = known.build(include_top=False, weights="imagenet" if weights == "imagenet" else None, input_tensor=x)
    except Exception as error:  # Keras raises nothing narrower for a download that fails
        if weights != "imagenet":
            raise
        raise OSError(f"Expected to download the ImageNet weights of {encoder}, found none ({error})") from error
    if weights not in (None, "imagenet"):
        _load_keras(model, encoder, str(weights))
    return [model.get_layer(name).output for name in known.layers]
