"""One U-Net that answers two questions: where is the lesion, and which class is the image."""

import keras
from keras import layers

from busseg.models.attention import AttentionGate
from busseg.models.encoders import NORMALIZATIONS, conv_block, plain_encoder


def build_unet(
    image_size=128,
    classes=3,
    width=16,
    depth=4,
    dropout=0.5,
    normalization="batch",
    attention_gates=False,
    cbam=False,
    name="unet",
):
    """Build the two-headed U-Net.

    A shared encoder feeds a mask decoder, through a skip connection a level, and from its bottleneck a classification
    head. Rescaling is a layer inside.

    Args:
        image_size: Side of the square input in pixels, a multiple of `2 ** depth`. None takes any such size.
        classes: Number of classes.
        width: Filters of the finest level; they double at every coarser one.
        depth: Number of levels below the finest, and of skip connections.
        dropout: Share of the pooled features dropped before the class is told, in `[0, 1)`.
        normalization: "batch", "group" or "none", after every convolution.
        attention_gates: Whether the skips pass through attention gates.
        cbam: Whether the encoder's levels end in a CBAM.
        name: Name of the model.

    Returns:
        A `keras.Model` from `image`, `(batch, size, size, 1)` with values 0..255, to a dict of `mask`,
        `(batch, size, size, 1)`, lesion probabilities, and `label`, `(batch, classes)`, class probabilities.

    Raises:
        ValueError: If an argument is out of its range; for a wrong `image_size` it names the nearest right one.

    Example:
        >>> model = build_unet(image_size=128)
        >>> model.compile("adam", loss={"mask": DiceLoss(), "label": "mae"})
    """
    _check(image_size, classes, width, depth, dropout, normalization)
    image = keras.Input((image_size, image_size, 1), name="image")
    *skips, bottleneck = plain_encoder(image, width, depth, normalization, cbam)
    mask = _mask_decoder(bottleneck, skips, normalization, attention_gates)
    label = _label_head(bottleneck, classes, dropout)
    return keras.Model(image, {"mask": mask, "label": label}, name=name)


def _mask_decoder(x, skips, normalization, attention_gates):
    for level, skip in reversed(list(enumerate(skips))):
        filters = skip.shape[-1]
        x = layers.UpSampling2D(interpolation="bilinear", name=f"decoder{level}_up")(x)
        if attention_gates:
            skip = AttentionGate(max(1, filters // 2), name=f"decoder{level}_gate")([skip, x])
        x = layers.Concatenate(name=f"decoder{level}_concat")([skip, x])
        x = conv_block(x, filters, normalization, cbam=False, name=f"decoder{level}")
    # Probabilities are float32 also when the layers before compute in half precision.
    return layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="mask")(x)


def _label_head(x, classes, dropout):
    # The average tells the tissue; the maximum finds a lesion that fills one cell of the bottleneck in twenty.
    average = layers.GlobalAveragePooling2D(name="label_average")(x)
    maximum = layers.GlobalMaxPooling2D(name="label_maximum")(x)
    x = layers.Concatenate(name="label_pool")([average, maximum])
    x = layers.Dropout(dropout, name="label_dropout")(x)
    return layers.Dense(classes, activation="softmax", dtype="float32", name="label")(x)


def _check(image_size, classes, width, depth, dropout, normalization):
    for name, value, least in (("classes", classes, 2), ("width", width, 1), ("depth", depth, 1)):
        if value < least:
            raise ValueError(f"`{name}` must be >= {least}. Received: {name}={value}")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"`normalization` must be one of {', '.join(NORMALIZATIONS)}. Received: normalization={normalization!r}"
        )
    stride = 2**depth
    if image_size is not None and (image_size < stride or image_size % stride):
        nearest = max(stride, round(image_size / stride) * stride)
        raise ValueError(
            f"`image_size` must be a multiple of {stride} (2 ** depth). The nearest is {nearest}. "
            f"Received: image_size={image_size}"
        )
