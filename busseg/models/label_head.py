"""The classification head."""

from collections.abc import Sequence

import keras
from keras import layers


def label_head(
    features: Sequence[keras.KerasTensor], classes: int, dropout: float, *, normalized: bool
) -> keras.KerasTensor:
    """From feature maps to the probabilities of the classes.

    Args:
        features: List of tensors `(batch, height, width, channels)`, whose sizes may differ.
        classes: Number of classes.
        dropout: Share of the pooled features dropped, in `[0, 1)`.
        normalized: Whether the pooled features are normalized. Those of a pretrained network have any scale; large
            ones would give extreme probabilities from the first step.

    Returns:
        Tensor `(batch, classes)`, named `label`, rows summing to 1.

    Raises:
        ValueError: If there are fewer than two classes, or `dropout` is out of its range.
    """
    if classes < 2:
        raise ValueError(f"`classes` must be >= 2. Received: classes={classes}")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
    pooled = []
    for number, x in enumerate(features):
        end = "" if len(features) == 1 else number
        # The average shows the tissue; the maximum finds a lesion that fills one cell of the bottleneck in twenty.
        pooled.append(layers.GlobalAveragePooling2D(name=f"label_average{end}")(x))
        pooled.append(layers.GlobalMaxPooling2D(name=f"label_maximum{end}")(x))
    x = layers.Concatenate(name="label_pool")(pooled)
    if normalized:
        x = layers.LayerNormalization(name="label_norm")(x)
    x = layers.Dropout(dropout, name="label_dropout")(x)
    return layers.Dense(classes, activation="softmax", dtype="float32", name="label")(x)
