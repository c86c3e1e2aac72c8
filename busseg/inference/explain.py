"""Where a network looks."""

import keras
import numpy as np

from busseg.data.images import fit_to_native, fit_to_square, read_image
from busseg.models.attention import CBAM


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
        fine = keras.ops.image.resize(keras.ops.cast(coarse, "float32"), (size, size))
        maps[module.name] = fit_to_native(keras.ops.convert_to_numpy(fine)[0, ..., 0], image.shape[:2])
    return maps
