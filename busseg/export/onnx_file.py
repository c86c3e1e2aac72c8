"""ONNX files of busseg: written from a TensorFlow function, with compact weights and metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tensorflow.types.experimental import PolymorphicFunction as Function

_ARITHMETIC = ("Add", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Pow", "Sub")


def is_own_onnx(path: Path) -> bool:
    """Whether a path is an ONNX file of busseg."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return path.is_file() and any(
            entry.key == "busseg" for entry in onnx.load(path, load_external_data=False).metadata_props
        )
    except DecodeError:
        return False


def enclose_onnx(
    path: Path, out: Path, before: "Function",
    after: "Function", sides: Sequence[str],
) -> None:  # fmt: skip
    """Join an ONNX file with the two `tf.function`s of `raw_graph.functions_around`, before and after it.

    Args:
        path: Path of the ONNX file of a network.
        out: Path of the file to write.
        before, after: The functions.
        sides: See `write_onnx`.
    """
    import onnx

    stages = []
    for function in (before, after):
        write_onnx(function, out, sides)
        stages.append(onnx.load(out))
    prefixed = onnx.compose.add_prefix
    first = prefixed(stages[0], "before_", rename_inputs=False)
    network = prefixed(onnx.load(path), "network_")
    last = prefixed(stages[1], "after_", rename_outputs=False)
    between = {end.name: f"after_{end.name}" for end in network.graph.output} | {"before_shape": "after_shape"}
    joined = onnx.compose.merge_models(first, network, [("before_square", network.graph.input[0].name)])
    onnx.save(onnx.compose.merge_models(joined, last, list(between.items())), out)


def write_onnx(function: "Function", path: Path, sides: Sequence[str]) -> None:
    """Write a `tf.function` with one input signature to an ONNX file.

    Args:
        function: The `tf.function`.
        path: Path of the file.
        sides: Names of the first sides of its input and outputs, in their order, where they may vary: `("batch",)`.
    """
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    concrete = function.get_concrete_function()
    # tf2onnx, also when Keras calls it, takes captured tensors, such as the mean of ImageNet's colours, for inputs
    # without a value. A frozen function has no captured tensors.
    frozen = convert_variables_to_constants_v2(concrete)
    named = tf.function(lambda *inputs: tf.nest.pack_sequence_as(concrete.structured_outputs, frozen(*inputs)))
    model, _ = tf2onnx.convert.from_function(named, function.input_signature)
    for end in (*model.graph.input, *model.graph.output):
        for side, name in zip(end.type.tensor_type.shape.dim, sides):
            if not side.HasField("dim_value"):
                side.dim_param = name  # tf2onnx names it unk__474
    onnx.save(model, path)


def finish_onnx(path: Path, metadata: str, weights: str = "float32") -> None:
    """Write metadata into an ONNX file, store its weights compactly, and make it faster; see `_widen_scalars`.

    Args:
        path: Path of the file, changed in place.
        metadata: String, stored as the property `busseg`.
        weights: "float32", which stores in half precision the weights that are exact in it; "float16", which stores all
            in half precision; or "int8" for the kernels of convolutions, with one scale per filter. The runtime
            converts all to float32 when it loads the file.
    """
    import onnx

    model = onnx.load(path)
    nodes = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:  # biases and scalars are few
            continue
        whole = onnx.numpy_helper.to_array(tensor)
        small, scale = _stored(whole, weights)
        if small is whole:
            continue
        name, stored, cast = tensor.name, f"{tensor.name}_{small.dtype}", f"{tensor.name}_cast"
        tensor.CopyFrom(onnx.numpy_helper.from_array(small, stored))
        if scale is None:
            nodes.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
            continue
        # Not DequantizeLinear, which ONNX Runtime computes again for every image.
        model.graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(onnx.helper.make_node("Cast", [stored], [cast], to=onnx.TensorProto.FLOAT))
        nodes.append(onnx.helper.make_node("Mul", [cast, f"{name}_scale"], [name]))
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _widen_scalars(model)
    _shorten_names(model.graph)
    onnx.helper.set_model_props(model, {"busseg": metadata})
    onnx.save(model, path)


def _widen_scalars(model):
    """Give the scalars of arithmetic as many sides as a matrix, which changes no result.

    ONNX Runtime computes a scalar with an image of a single channel pixel by pixel, 90 times as slow, unless both have
    sides: a seventh of the time of `best`.
    """
    import onnx

    graph = model.graph
    if _has_branches(graph):
        return
    known = onnx.shape_inference.infer_shapes(model).graph
    matrices = {
        end.name for end in (*known.input, *known.value_info, *known.output) if len(end.type.tensor_type.shape.dim) >= 2
    }
    scalars = {tensor.name: tensor for tensor in graph.initializer if list(tensor.dims) in ([], [1])}
    wide = {}
    for node in graph.node:
        if node.op_type in _ARITHMETIC and any(name in matrices for name in node.input):
            for place, name in enumerate(node.input):
                if name in scalars:
                    wide[name] = node.input[place] = f"{name}_wide"
    for name, new in wide.items():
        value = onnx.numpy_helper.to_array(scalars[name])
        graph.initializer.append(onnx.numpy_helper.from_array(value.reshape(1, 1), new))
    used = {name for node in graph.node for name in node.input}
    for name in wide.keys() - used:
        graph.initializer.remove(scalars[name])


def _has_branches(graph):
    """Whether there is a branch or a loop, which refers to tensors outside by their names."""
    return any(one.HasField("g") or one.graphs for node in graph.node for one in node.attribute)


def _shorten_names(graph):
    """Replace tf2onnx's names, whole paths in the network, by numbers: in a small file they take 3 % of the size."""
    if _has_branches(graph):
        return
    short = {end.name: end.name for end in (*graph.input, *graph.output)} | {"": ""}  # "" is an omitted input
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"
        for names in (node.input, node.output):
            names[:] = [short.setdefault(name, f"t{len(short)}") for name in names]
    for tensor in (*graph.initializer, *graph.value_info):
        tensor.name = short.setdefault(tensor.name, f"t{len(short)}")


def calibrate_onnx(path: str | Path, out: str | Path, temperature: float, metadata: str) -> None:
    """Write a copy of an ONNX file with a temperature before the softmax of `label`.

    Outputs that the graph computes from the probabilities, such as the uncertainty, change with them.

    Args:
        path: Path of the ONNX file.
        out: Path of the file to write.
        temperature: Float > 0. It divides the logits.
        metadata: String, stored as the property `busseg`.

    Raises:
        ValueError: If `label` is not the output of a softmax.
    """
    import onnx

    model = onnx.load(path)
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    softmax = producers.get("label")
    while softmax is not None and softmax.op_type == "Identity":
        softmax = producers.get(softmax.input[0])
    if softmax is None or softmax.op_type != "Softmax":
        raise ValueError(f"Expected an ONNX model with the class probabilities label of a softmax, found none: {path}")
    name = f"calibrated_{len(graph.node)}"  # new, also in a file that was calibrated before
    factor = onnx.numpy_helper.from_array(np.array(1 / temperature, np.float32), f"{name}_factor")
    graph.initializer.append(factor)
    node = onnx.helper.make_node("Mul", [softmax.input[0], factor.name], [name])
    graph.node.insert(list(graph.node).index(softmax), node)
    softmax.input[0] = name
    onnx.helper.set_model_props(model, {"busseg": metadata})
    onnx.save(model, out)


def _stored(whole, weights):
    """`(small, scale)`: the stored form of an array, and its scale, or None."""
    half = whole.astype(np.float16)
    # Weights with folded batch normalization are not exact in half precision.
    if weights == "float32":
        return (half if np.array_equal(half, whole) else whole), None
    if weights == "int8" and whole.ndim == 4:
        scale = np.maximum(np.abs(whole).max(axis=(1, 2, 3), keepdims=True), np.finfo(np.float32).tiny) / 127
        return np.rint(whole / scale).astype(np.int8), scale
    return half, None
