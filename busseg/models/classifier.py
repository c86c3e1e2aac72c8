"""A classifier of RGB images, such as histology: encoder, attention on its two coarsest feature maps, label head."""

from pathlib import Path

import keras

from busseg.models.attention import CBAM
from busseg.models.encoders import check_encoder, encode
from busseg.models.label_head import label_head


def build_classifier(
    image_size: int = 224,
    classes: int = 2,
    encoder: str = "efficientnet_lite0",
    *,
    weights: str | Path | None = None,
    width: int = 16,
    depth: int = 4,
    cbam: bool = True,
    frozen: int = 0,
    frozen_depthwise: bool = False,
    fold_batch_norm: bool = False,
    dropout: float = 0.5,
    normalization: str = "batch",
    name: str = "classifier",
) -> keras.Model:
    """Build a classifier of RGB images.

    The encoder's two coarsest feature maps each pass through a CBAM, two as in Ashurov et al., and are pooled to one
    vector, which a dense layer classifies.

    Args:
        image_size: Side of the square input in pixels, a multiple of the bottleneck's stride: `2 ** depth` with the
            plain encoder, twice that with most others.
        classes: Number of classes.
        encoder: One of `encoders.ENCODERS`.
        weights: Initial weights of the encoder: None, "imagenet", or the path of a file; see `encoders.encode`.
        width: Filters of the plain encoder's finest level; they double at every coarser one. The others have fixed
            widths.
        depth: Number of levels below the finest, at least 1.
        cbam: Whether there is attention; without it the feature maps are pooled as they are.
        frozen: Number of the encoder's levels, from the finest, whose weights are not trained.
        frozen_depthwise: Whether the kernels of the encoder's depthwise convolutions are not trained.
        fold_batch_norm: Whether the batch normalization of an EfficientNet-Lite is folded into its kernels.
        dropout: Share of the pooled features dropped before the last layer, in `[0, 1)`.
        normalization: "batch", "group" or "none", after the convolutions of "plain" and EfficientNet-Lite.
        name: Name of the model.

    Returns:
        A `keras.Model` from `image`, `(batch, size, size, 3)` with values 0..255, to a dict of `label`,
        `(batch, classes)`, class probabilities.

    Raises:
        ValueError: If an argument is out of its range; for a wrong `image_size` it names the nearest valid one.
        FileNotFoundError, ImportError: If there are no such weights.

    Reference:
        Ashurov et al., "Improved Breast Cancer Classification through Combining Transfer Learning and Attention
        Mechanism", Life 13(9):1945 (2023), https://doi.org/10.3390/life13091945

    Example:
        >>> model = build_classifier(encoder="densenet121", weights="imagenet")
        >>> model.compile("adam", loss={"label": "categorical_crossentropy"})
    """
    check_encoder(image_size, encoder, width, depth, frozen, fold_batch_norm, normalization)
    image = keras.Input((image_size, image_size, 3), name="image")
    features = encode(
        image, encoder, weights=weights, width=width, depth=depth, normalization=normalization,
        frozen=frozen, frozen_depthwise=frozen_depthwise, fold_batch_norm=fold_batch_norm,
    )[-2:]  # fmt: skip
    if cbam:
        features = [CBAM(name=f"label_attention{number}")(x) for number, x in enumerate(features)]
    label = label_head(features, classes, dropout, normalized=encoder != "plain")
    return keras.Model(image, {"label": label}, name=name)
