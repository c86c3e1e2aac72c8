import re

import cv2
import keras
import numpy as np
import onnx
import pytest

from busseg.export.formats import export_onnx
from busseg.export.onnx_file import calibrate_onnx, finish_onnx
from busseg.inference.metadata import read_metadata
from busseg.inference.runtimes import load
from busseg.models.serving import average
from busseg.models.unet import build_unet


def weights_of(path):
    """Dict from the name of each tensor that an ONNX file holds to its bytes."""
    return {one.name: len(one.raw_data) for one in onnx.load(path).graph.initializer}


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # tf2onnx, under NumPy 2
@pytest.mark.parametrize(("normalization", "least", "most"), [("none", 0.5, 0.6), ("batch", 0.9, 1.0)])
def test_weights_that_half_precision_holds_are_stored_in_it(tmp_path, normalization, least, most):
    model = build_unet(image_size=16, width=4, depth=2, normalization=normalization)
    model.save(tmp_path / "whole.keras")
    model.set_weights([w.astype(np.float16) if w.ndim > 1 else w for w in model.get_weights()])
    model.save(tmp_path / "rounded.keras")
    assert all(
        export_onnx(tmp_path / f"{name}.keras", tmp_path / f"{name}.onnx") < 1e-5 for name in ("whole", "rounded")
    )
    whole, rounded = (sum(weights_of(tmp_path / f"{name}.onnx").values()) for name in ("whole", "rounded"))
    # Kernels that batch normalization was folded into, most of so small a network's, are no longer round.
    assert least * whole < rounded < most * whole


def sides(path):
    """Dict from the name of each input and output of an ONNX file to its sides, numbers or names."""
    graph = onnx.load(path).graph
    return {
        end.name: [side.dim_param or side.dim_value for side in end.type.tensor_type.shape.dim]
        for end in (*graph.input, *graph.output)
    }


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (False, {"image": ["batch", 32, 32, 1], "mask": ["batch", 32, 32, 1], "label": ["batch", 3]}),
        (
            True,
            {
                "image": ["height", "width", "channels"],
                "mask": ["height", "width"],
                "probability_map": ["height", "width"],
                "probabilities": [3],
            },
        ),
    ],
)
def test_sides_that_may_vary_have_names(tmp_path, echo_file, raw, expected):
    export_onnx(echo_file, tmp_path / "export.onnx", raw=raw)
    assert sides(tmp_path / "export.onnx") == expected


@pytest.mark.parametrize("engine", [cv2.dnn.ENGINE_CLASSIC, cv2.dnn.ENGINE_NEW], ids=["classic", "new"])
def test_opencv_runs_a_mean_of_mirrored_networks(two_sizes, engine):
    network = cv2.dnn.readNetFromONNX(str(two_sizes), engine)
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 1)).astype(np.float32)
    network.setInput(image)
    run, _, _ = load(two_sizes)
    for name, values in run(image).items():
        np.testing.assert_allclose(network.forward(name).reshape(values.shape), values, atol=1e-5, err_msg=name)


def test_every_convolution_has_explicit_padding(two_sizes):
    """OpenCV's new engine misreads SAME_UPPER, which means nothing at the start and a pixel at the end for stride 2."""
    convolutions = [node for node in onnx.load(two_sizes).graph.node if node.op_type == "Conv"]
    attributes = [{one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in convolutions]
    assert [one["pads"] for one in attributes if one["strides"] == [2, 2]] == [[0, 0, 1, 1]] * 2
    assert not any("auto_pad" in one for one in attributes)


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory):
    """An ONNX file of the mean of two networks and their mirror images, the second of a smaller square."""
    keras.utils.set_random_seed(0)
    networks = []
    for size in (32, 24):
        network = build_unet(image_size=size, width=4, depth=2)
        x = keras.layers.Conv2D(1, 3, strides=2, padding="same", name="stem")(network.input)
        mask = keras.layers.UpSampling2D(name="mask")(keras.layers.Activation("sigmoid")(x))
        networks.append(keras.Model(network.input, {"mask": mask, "label": network.output["label"]}))
    folder = tmp_path_factory.mktemp("two")
    average(*networks, flip_tta=True).save(folder / "two.keras")
    export_onnx(folder / "two.keras", folder / "two.onnx")
    return folder / "two.onnx"


def one_convolution(path, kernels):
    """Write an ONNX file of one convolution, 1 x 1, of an image `(1, channels, 1, 1)`."""
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, count, 1, 1])
        for name, count in zip(("x", "y"), kernels.shape[1::-1])
    ]
    node = onnx.helper.make_node("Conv", ["x", "kernels"], ["y"])
    held = [onnx.numpy_helper.from_array(kernels, "kernels")]
    graph = onnx.helper.make_graph([node], "one", ends[:1], ends[1:], held)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8), path)


# Each filter has 127 steps up to its largest weight: 1.27 in steps of 0.01, 127 in steps of 1.
@pytest.mark.parametrize(
    ("weights", "expected"),
    [("float32", (1.274, 127.4)), ("int8", (1.274 / 127 * (127 + 50), 127.4 / 127 * (127 + 50)))],
)
def test_a_filter_of_eight_bits_has_127_steps_up_to_its_largest_weight(tmp_path, weights, expected):
    kernels = np.float32([[1.274, 0.5], [127.4, 50.0]])[..., None, None]
    one_convolution(tmp_path / "one.onnx", kernels)
    finish_onnx(tmp_path / "one.onnx", "{}", weights)
    run, _, _ = load(tmp_path / "one.onnx")
    found = run(np.ones((1, 2, 1, 1), np.float32))["y"].ravel()
    if weights == "float32":
        expected = kernels.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_filter_of_zeros_stays_zero_in_eight_bits(tmp_path):
    one_convolution(tmp_path / "one.onnx", np.zeros((2, 2, 1, 1), np.float32))
    finish_onnx(tmp_path / "one.onnx", "{}", "int8")
    run, _, _ = load(tmp_path / "one.onnx")
    assert not run(np.ones((1, 2, 1, 1), np.float32))["y"].any()


def test_names_inside_are_numbers_and_those_of_the_ends_stay(two_sizes):
    graph = onnx.load(two_sizes).graph
    assert {node.name for node in graph.node} == {f"n{number}" for number in range(len(graph.node))}
    inside = {name for node in graph.node for name in (*node.input, *node.output)} - {"", "image", "mask", "label"}
    assert all(re.fullmatch(r"t\d+", name) for name in inside)
    onnx.checker.check_model(two_sizes)


def test_scalars_of_arithmetic_with_images_get_two_sides_and_others_stay(tmp_path):
    ends = [
        onnx.helper.make_tensor_value_info("x", 1, ["n", 2, 2, 1]),
        onnx.helper.make_tensor_value_info("y", 1, None),
    ]
    other = onnx.helper.make_tensor_value_info("z", 1, [1])
    nodes = [
        onnx.helper.make_node("Mul", ["x", "three"], ["tripled"]),
        onnx.helper.make_node("Sub", ["one", "tripled"], ["less"]),
        onnx.helper.make_node("Clip", ["less", "", "three"], ["y"]),  # whose limits must be scalars
        onnx.helper.make_node("Add", ["one", "vector"], ["z"]),
    ]
    held = [onnx.numpy_helper.from_array(np.float32(value), name) for name, value in (("three", 3), ("one", [1]))]
    held.append(onnx.numpy_helper.from_array(np.float32([5]), "vector"))
    graph = onnx.helper.make_graph(nodes, "one", ends[:1], [ends[1], other], held)
    opset = [onnx.helper.make_opsetid("", 15)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "one.onnx")
    finish_onnx(tmp_path / "one.onnx", "{}")
    written = onnx.load(tmp_path / "one.onnx", load_external_data=False).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in written.initializer}
    by_use = [[shapes[name] for name in node.input if name in shapes] for node in written.node]
    assert by_use == [[[1, 1]], [[1, 1]], [[]], [[1], [1]]]
    assert len(shapes) == 5
    run, _, _ = load(tmp_path / "one.onnx")
    image = np.float32([-1, 0, 1, 2]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(run(image)["y"], np.minimum(1 - 3 * image, 3))


def test_names_that_a_branch_speaks_of_stay(tmp_path):
    flag, result = (onnx.helper.make_tensor_value_info(*one) for one in (("x", 9, []), ("y", 1, [1])))
    inner = onnx.helper.make_tensor_value_info("inner", 1, [1])
    branch = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["held"], ["inner"])], "branch", [], [inner])
    node = onnx.helper.make_node("If", ["x"], ["y"], name="whole", then_branch=branch, else_branch=branch)
    held = onnx.numpy_helper.from_array(np.float32([7]), "held")
    graph = onnx.helper.make_graph([node], "one", [flag], [result], [held])
    opset = [onnx.helper.make_opsetid("", 15)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "if.onnx")
    finish_onnx(tmp_path / "if.onnx", "{}")
    run, _, _ = load(tmp_path / "if.onnx")
    assert run(np.array(True))["y"] == -7


# === Calibrated ===
def two_classes(path, *more, end="label"):
    """Write an ONNX file whose input, logits `(batch, 2)`, becomes a softmax, named `end`, and go on with nodes."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 2]) for name in ("x", "label")]
    nodes = [onnx.helper.make_node("Softmax", ["x"], [end], axis=-1), *more]
    surest = onnx.helper.make_tensor_value_info("uncertainty", onnx.TensorProto.FLOAT, ["n", 1])
    outputs = [ends[1], surest] if any("uncertainty" in node.output for node in more) else ends[1:]
    graph = onnx.helper.make_graph(nodes, "two", ends[:1], outputs)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8), path)


LOGITS = np.float32([[0, 2], [1, -3]])


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def answers_of(path):
    run, _, _ = load(path)
    return run(LOGITS)


def test_temperature_divides_the_logits_of_an_onnx_file_and_the_metadata_is_new(tmp_path):
    two_classes(tmp_path / "a.onnx")
    calibrate_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", 2.5, '{"key": 1}')
    np.testing.assert_allclose(answers_of(tmp_path / "b.onnx")["label"], softmax(LOGITS / 2.5), rtol=1e-5)
    np.testing.assert_allclose(answers_of(tmp_path / "a.onnx")["label"], softmax(LOGITS), rtol=1e-5)
    assert read_metadata(tmp_path / "b.onnx") == {"key": 1}
    onnx.checker.check_model(tmp_path / "b.onnx")


def test_temperatures_of_two_calibrations_multiply(tmp_path):
    two_classes(tmp_path / "a.onnx")
    calibrate_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", 2, "{}")
    calibrate_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx", 3, "{}")
    np.testing.assert_allclose(answers_of(tmp_path / "c.onnx")["label"], softmax(LOGITS / 6), rtol=1e-5)


def test_what_is_computed_from_the_probabilities_follows_the_temperature(tmp_path):
    two_classes(tmp_path / "a.onnx", onnx.helper.make_node("ReduceMax", ["label"], ["uncertainty"], axes=[1]))
    calibrate_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", 4, "{}")
    found = answers_of(tmp_path / "b.onnx")
    np.testing.assert_allclose(found["uncertainty"], softmax(LOGITS / 4).max(axis=1, keepdims=True), rtol=1e-5)


def test_softmax_is_found_behind_another_name(tmp_path):
    two_classes(tmp_path / "a.onnx", onnx.helper.make_node("Identity", ["inner"], ["label"]), end="inner")
    calibrate_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", 4, "{}")
    np.testing.assert_allclose(answers_of(tmp_path / "b.onnx")["label"], softmax(LOGITS / 4), rtol=1e-5)


def test_file_without_a_softmax_is_refused(tmp_path):
    two_classes(tmp_path / "a.onnx", onnx.helper.make_node("Relu", ["inner"], ["label"]), end="inner")
    with pytest.raises(ValueError, match=r"^Expected .* label of a softmax, found none: .*a\.onnx$"):
        calibrate_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", 4, "{}")
    assert not (tmp_path / "b.onnx").exists()
