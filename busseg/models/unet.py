"""The two-headed U-Net: one network for the lesion mask and the class of the image."""

from pathlib import Path

import keras
from keras import layers

from busseg.models.attention import AttentionGate
from busseg.models.encoders import ENCODERS, check_encoder, conv_block, encode
from busseg.models.label_head import label_head
from busseg.models.upsampling import BilinearUpSampling

DECODERS = ("concat", "add")


def build_unet(
    image_size: int | None = 128,
    classes: int = 3,
    encoder: str = "plain",
    *,
    weights: str | Path | None = None,
    width: int = 16,
    depth: int = 4,
    decoder: str = "concat",
    frozen: int = 0,
    frozen_depthwise: bool = False,
    fold_batch_norm: bool = False,
    dropout: float = 0.5,
    normalization: str = "batch",
    attention_gates: bool = False,
    cbam: bool = False,
    name: str = "unet",
) -> keras.Model:
    """Build the two-headed U-Net.

    A shared encoder feeds a mask decoder, through one skip connection per level, and from its bottleneck a
    classification head. The network itself brings the grey levels to the encoder's range.

    Args:
        image_size: Side of the square input in pixels, a multiple of the bottleneck's stride: `2 ** depth` with the
            plain encoder, twice that with most others. None takes any such size.
        classes: Number of classes.
        encoder: One of `encoders.ENCODERS`.
        weights: Initial weights of the encoder: None, "imagenet", or the path of a file; see `encoders.encode`.
        width: Filters of the decoder's finest level, and of the plain encoder's; they double at every coarser one.
        depth: Number of levels below the finest, and of skip connections.
        decoder: "concat": skip and coarser level concatenated, then two 3x3 convolutions, as in the original U-Net.
            "add": both narrowed by 1x1 convolutions and added, then one 3x3 convolution; far fewer operations behind a
            wide encoder.
        frozen: Number of the encoder's levels, from the finest, whose weights are not trained.
        frozen_depthwise: Whether the kernels of the encoder's depthwise convolutions are not trained. On a CPU their
            gradients cost more than those of all other convolutions of the encoder.
        fold_batch_norm: Whether the batch normalization of an EfficientNet-Lite, a scale and a shift once trained, is
            folded into its kernels. That saves the memory traffic of a third of a training step.
        dropout: Share of the pooled features dropped before the layer `label`, in `[0, 1)`.
        normalization: "batch", "group" or "none", after every convolution.
        attention_gates: Whether the skips pass through attention gates.
        cbam: Whether the feature map of each level of the encoder passes through a CBAM.
        name: Name of the model.

    Returns:
        A `keras.Model` from `image`, `(batch, size, size, 1)` with values 0..255, to a dict of `mask`,
        `(batch, size, size, 1)`, lesion probabilities, and `label`, `(batch, classes)`, class probabilities.

    Raises:
        ValueError: If an argument is out of its range (for a wrong `image_size` it names the nearest valid one), or the
            weights are of another network.
        FileNotFoundError, ImportError: If there are no such weights.

    Example:
        >>> model = build_unet(image_size=192, encoder="efficientnet_lite0", weights="imagenet")
        >>> model.compile("adam", loss={"mask": DiceLoss(), "label": "mae"})
    """
    if decoder not in DECODERS:
        raise ValueError(f"`decoder` must be one of {', '.join(DECODERS)}. Received: decoder={decoder!r}")
    check_encoder(image_size, encoder, width, depth, frozen, fold_batch_norm, normalization)
    image = keras.Input((image_size, image_size, 1), name="image")
    *skips, bottleneck = encode(
        image, encoder, weights=weights, width=width, depth=depth, normalization=normalization, cbam=cbam,
        frozen=frozen, frozen_depthwise=frozen_depthwise, fold_batch_norm=fold_batch_norm,
    )  # fmt: skip
    decode = _decode_by_concat if decoder == "concat" else _decode_by_add
    finest = decode(bottleneck, skips, width, normalization, attention_gates)
    mask = _mask_head(finest, ENCODERS[encoder].finest_stride)
    label = label_head([bottleneck], classes, dropout, normalized=encoder != "plain")
    return keras.Model(image, {"mask": mask, "label": label}, name=name)


def skip_connections(network: keras.Model) -> list[keras.KerasTensor]:
    """The encoder's feature maps that the decoder of a U-Net takes, from fine to coarse; [] for another network."""
    layers_by_name = {layer.name: layer for layer in network.layers}
    skips = []
    for level in range(len(network.layers)):
        # The layer that takes a skip connection first, by the decoder; "concat" has it as its first input.
        takers = (layers_by_name.get(f"decoder{level}_{end}") for end in ("from_skip", "concat"))
        skips += [keras.tree.flatten(taker.input)[0] for taker in takers if taker]
    return skips


def _decode_by_concat(x, skips, width, normalization, attention_gates):
    for level, skip in reversed(list(enumerate(skips))):
        filters = width * 2**level
        x = _enlarge(x, 2, name=f"decoder{level}_up")
        skip = _gate(skip, x, filters, attention_gates, level)
        x = layers.Concatenate(name=f"decoder{level}_concat")([skip, x])
        x = conv_block(x, filters, normalization, name=f"decoder{level}")
    return x


def _decode_by_add(x, skips, width, normalization, attention_gates):
    for level, skip in reversed(list(enumerate(skips))):
        filters = width * 2**level
        # Narrowed before it is enlarged: the same result from a quarter of the pixels.
        x = layers.Conv2D(filters, 1, name=f"decoder{level}_from_below")(x)
        x = _enlarge(x, 2, name=f"decoder{level}_up")
        skip = layers.Conv2D(filters, 1, name=f"decoder{level}_from_skip")(skip)
        skip = _gate(skip, x, filters, attention_gates, level)
        x = layers.Add(name=f"decoder{level}_add")([skip, x])
        x = conv_block(x, filters, normalization, name=f"decoder{level}", convolutions=1)
    return x


def _enlarge(x, factor, name, dtype=None):
    """Enlarge a feature map bilinearly by an even factor."""
    if None in x.shape[1:3]:
        return BilinearUpSampling(factor, dtype=dtype, name=name)(x)
    return layers.UpSampling2D(factor, interpolation="bilinear", dtype=dtype, name=name)(x)


def _gate(skip, gate, filters, attention_gates, level):
    return AttentionGate(max(1, filters // 2), name=f"decoder{level}_gate")([skip, gate]) if attention_gates else skip


def _mask_head(x, stride):
    # Probabilities are float32 also when the layers before compute in half precision.
    if stride == 1:
        return layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="mask")(x)
    x = layers.Conv2D(1, 1, dtype="float32", name="mask_conv")(x)
    x = _enlarge(x, stride, dtype="float32", name="mask_up")
    return layers.Activation("sigmoid", dtype="float32", name="mask")(x)
