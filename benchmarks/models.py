"""The work of each network: parameters, multiply-adds, and the shortest possible time of a training step.

A training step costs three forward passes: one forward; one for the gradients of the weights; one for those of the
feature maps. Frozen layers cost one or, where gradients pass through to layers before them, two. At best each
multiply-add goes as fast as in a large float32 matrix product.

Example: python -m benchmarks.models --networks "as it comes" fast --sizes 192 --json models.json
"""

import math

from benchmarks.machine import matrix_product
from benchmarks.measuring import in_fresh_process
from benchmarks.reporting import measure_and_report, parse_arguments

# Prefixes of the layers behind the encoder in `busseg.models.unet`.
BEHIND_ENCODER = ("decoder", "mask", "label")
ENCODERS = ("plain", "mobilenet_v2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
ENCODERS += ("efficientnetv2_b0", "densenet121", "resnet50", "convnext_tiny")
# The measured networks: settings of `busseg.models.unet.build_unet`, and the precision it is trained in.
NETWORKS = {encoder: {"encoder": encoder, "depth": 3 if encoder == "convnext_tiny" else 4} for encoder in ENCODERS}
NETWORKS["as it comes"] = {"encoder": "efficientnet_lite0", "width": 24}
NETWORKS["fast"] = {
    "encoder": "efficientnet_lite0",
    "width": 16,
    "decoder": "add",
    "fold_batch_norm": True,
    "frozen": 2,
    "frozen_depthwise": True,
    "precision": "mixed_bfloat16",
}
QUICK = {"sizes": [96], "networks": ["plain", "fast"]}


def measure(networks=tuple(NETWORKS), sizes=(128, 192, 256), batch_size=16):
    """Count the work of networks.

    Args:
        networks: Names of `NETWORKS`.
        sizes: Sides of the image in pixels.
        batch_size: Images of the step whose shortest time is computed.

    Returns:
        List of rows.
    """
    limit = max(matrix_product(2048) for _ in range(5))
    rows = in_fresh_process("benchmarks.models:count_all", {"networks": networks, "sizes": sizes})
    for row in rows:
        shortest = 2e9 * row["step, G"] * batch_size / (limit * 1e9)
        row.update({"shortest step, ms": 1e3 * shortest, "at most images/s": batch_size / shortest})
    return [{**row, "limit, GFLOP/s": limit} for row in rows]


def count_all(networks, sizes):
    """A worker's maker: the counts of all networks, given by name, at all sizes."""
    rows = []
    for name in networks:
        for size in sizes:
            model = build(image_size=size, **NETWORKS[name])
            counts = count_multiply_adds(model)
            encoder = sum(n for (top, _), n in counts.items() if not top.startswith(BEHIND_ENCODER))
            rows.append({"network": name, "size": size, "encoder, G": encoder / 1e9, **describe(model, counts)})
    return rows, None


def build(precision="float32", **network):
    """A network of `build_unet`, with new weights, which take as long as trained ones."""
    import keras

    from busseg.models.unet import build_unet

    keras.config.set_dtype_policy(precision)
    model = build_unet(**network)
    keras.config.set_dtype_policy("float32")
    return model


def count_multiply_adds(model):
    """Multiply-adds of one forward pass of one image, counted in convolutions and dense layers as they are called.

    Normalisations, activations and resizing are left out: their time goes with memory, not with arithmetic.

    Args:
        model: `keras.Model` of one input.

    Returns:
        Dict from `(name, layer)` to the number: the layer that multiplies, and the name of the model's own layer it is
        a part of.
    """
    import keras
    import numpy as np

    counts, hooked = {}, []
    for top in model.layers:
        for layer in top._flatten_layers():
            if hasattr(layer, "kernel") or isinstance(layer, keras.layers.SeparableConv2D):
                _count_calls(layer, (top.name, layer), counts)
                hooked.append(layer)
    model(np.zeros((1, *model.input_shape[1:]), np.float32))
    for layer in hooked:
        object.__delattr__(layer, "call")  # the class's own is back
    return counts


def _count_calls(layer, key, counts):
    call = layer.call

    def counted(x, *args, **kwargs):
        y = call(x, *args, **kwargs)
        counts[key] = counts.get(key, 0) + multiply_adds(layer, x.shape, y.shape)
        return y

    object.__setattr__(layer, "call", counted)  # past Keras, which would keep it in its books


def multiply_adds(layer, input_shape, output_shape):
    """Multiply-adds of one call of a dense or convolutional layer, by the shapes of one image, channels last."""
    import keras

    places = math.prod(output_shape[1:-1])
    if isinstance(layer, keras.layers.SeparableConv2D):
        return places * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
    if isinstance(layer, keras.layers.Conv2DTranspose):
        places = math.prod(input_shape[1:-1])  # there each place of the input meets every weight once
    # Each place of the output meets every weight once; kernels of groups and of single channels are smaller already.
    return places * math.prod(layer.kernel.shape)


def describe(model, counts):
    """The columns of a model in the tables: parameters in millions, multiply-adds of one image in billions (GMACs)."""
    step, moving = 0, False
    for (_, layer), count in counts.items():  # in the order of calling
        moving = moving or layer.trainable
        step += count * (3 if layer.trainable else 2 if moving else 1)
    forward = sum(counts.values())
    return {"parameters, M": model.count_params() / 1e6, "forward, G": forward / 1e9, "step, G": step / 1e9}


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--networks", {"nargs": "+", "choices": NETWORKS, "help": "(all)"}),
        ("--sizes", {"type": int, "nargs": "+", "help": "sides of the image in pixels (128 192 256)"}),
        ("--batch-size", {"type": int, "help": "images a step (16)"}),
    )
    measure_and_report("models", measure, settings, path)


if __name__ == "__main__":
    main()
