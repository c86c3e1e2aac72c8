"""A network that tells the class of an image in colour, by its two coarsest feature maps and where to look in them."""

import keras

from busseg.models.attention import CBAM
from busseg.models.encoders import check_encoder, encode
from busseg.models.label_head import label_head


def build_classifier(
    image_size=224,
    classes=2,
    encoder="efficientnet_lite0",
    weights=None,
    width=16,
    depth=4,
    cbam=True,
    frozen=0,
    frozen_depthwise=False,
    fold_batch_norm=False,
    dropout=0.5,
    normalization="batch",
    name="classifier",
):
    """Build a classifier of images in colour.

    The encoder's two coarsest feature maps each pass through a CBAM, two as in Ashurov et al., and are pooled to one
    vector, of which a dense layer tells the class.

    Args:
        image_size: Side of the square input in pixels, a multiple of the bottleneck's stride: `2 ** depth` with the
            plain encoder, twice that with most others.
        classes: Number of classes.
        encoder: One of `encoders.ENCODERS`.
        weights: What the encoder begins with: None, "imagenet", or the path of a file; see `encoders.encode`.
        width: Filters of the plain encoder's finest level; they double at every coarser one. The others have their own.
        depth: Number of levels below the finest, at least 1.
        cbam: Whether there is attention; without it the feature maps are pooled as they are.
        frozen: Number of the encoder's levels, from the finest, whose weights do not move.
        frozen_depthwise: Whether the kernels of the encoder's depthwise convolutions do not move.
        fold_batch_norm: Whether the batch normalization of an EfficientNet-Lite is folded into its kernels.
        dropout: Share of the pooled features dropped before the class is told, in `[0, 1)`.
        normalization: "batch", "group" or "none", after the convolutions of "plain" and EfficientNet-Lite.
        name: Name of the model.

    Returns:
        A `keras.Model` from `image`, `(batch, size, size, 3)` with values 0..255, to a dict of `label`,
        `(batch, classes)`, class probabilities.

    Raises:
        ValueError: If an argument is out of its range; for a wrong `image_size` it names the nearest right one.
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
        image, encoder, weights, width, depth, normalization,
        frozen=frozen, frozen_depthwise=frozen_depthwise, fold_batch_norm=fold_batch_norm,
    )[-2:]  # fmt: skip
    if cbam:
        features = [CBAM(name=f"label_attention{number}")(x) for number, x in enumerate(features)]
    label = label_head(features, classes, dropout, normalized=encoder != "plain")
    return keras.Model(image, {"label": label}, name=name)
