"""Layers, parameters and the head of a graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.model.graph.components import head_nodes, name_nodes, read_components, read_layers
from edgeq.model.graph.onnx_file import load_onnx


def tensor(name: str, *shape: int) -> onnx.TensorProto:
    """A float32 tensor of ones."""
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    output: str = "y",
    shape: tuple[int, ...] = (1, 8, 4, 4),
) -> onnx.ModelProto:
    """A checked model from x to `output`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (56, 853_018)])
def test_the_published_parameter_counts(shared_data: Path, depth: int, parameters: int) -> None:
    """He et al. 2016 (arXiv 1512.03385), table 6: 0.27 M and 0.85 M; the exact figures follow from the layer shapes."""
    blocks, classes = (depth - 2) // 6, 10
    convolutions = 3 * 16 * 9 + 16 * 16 * 9 * 2 * blocks
    convolutions += 16 * 32 * 9 + 32 * 32 * 9 * (2 * blocks - 1) + 32 * 64 * 9 + 64 * 64 * 9 * (2 * blocks - 1)
    norms = 2 * (16 * (2 * blocks + 1) + 32 * 2 * blocks + 64 * 2 * blocks)
    assert convolutions + norms + 64 * classes + classes == parameters

    backbone, head = read_components(load_onnx(shared_data / f"cifar10-resnet{depth}" / "model.onnx"))
    assert backbone.parameters + head.parameters == parameters
    assert backbone.bytes + head.bytes == 4 * (parameters + norms), "the running mean and variance are stored as well"
    assert (head.name, head.parameters) == ("head", 64 * classes + classes)
    kinds = Counter(layer.kind for layer in backbone.layers)
    assert kinds["convolution"] == kinds["batchnorm"] == depth - 1
    assert kinds["add"] == (depth - 2) // 2
    assert not any(layer.op == "Constant" for layer in backbone.layers)


def test_kinds_of_convolutions_and_products() -> None:
    made = model(
        [
            helper.make_node("Conv", ["x", "dw"], ["a"], name="depthwise", group=8),
            helper.make_node("Conv", ["a", "grouped"], ["b"], name="grouped", group=2),
            helper.make_node("ConvTranspose", ["b", "up"], ["c"], name="up", group=8),
            helper.make_node("Flatten", ["c"], ["d"], name="flat", axis=3),
            helper.make_node("MatMul", ["d", "w"], ["e"], name="projection"),
            helper.make_node("Transpose", ["e"], ["f"], name="turn"),
            helper.make_node("MatMul", ["e", "f"], ["y"], name="scores"),
        ],
        [tensor("dw", 8, 1, 1, 1), tensor("grouped", 8, 4, 1, 1), tensor("up", 8, 1, 1, 1), tensor("w", 4, 4)],
    )
    kinds = {layer.name: layer.kind for layer in read_layers(made)}
    assert kinds == {
        "depthwise": "depthwise convolution",
        "grouped": "convolution",
        "up": "depthwise convolution",
        "flat": "shape",
        "projection": "linear",
        "turn": "shape",
        "scores": "attention",
    }


def test_a_shared_weight_is_counted_once_and_formula_constants_are_not() -> None:
    half = helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.array(0.5, np.float32), "v"))
    bias = helper.make_node("Constant", [], ["bias"], value=tensor("v", 8, 1, 1))
    made = model(
        [
            half,
            bias,
            helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
            helper.make_node("Conv", ["a", "w"], ["b"], name="second"),
            helper.make_node("Mul", ["b", "half"], ["c"], name="halved"),
            helper.make_node("Add", ["c", "bias"], ["d"], name="biased"),
            helper.make_node("Reshape", ["d", "shape"], ["y"], name="reshape"),
        ],
        [tensor("w", 8, 8, 1, 1), numpy_helper.from_array(np.array([1, -1]), "shape")],
    )
    layers = {layer.name: layer for layer in read_layers(made)}
    assert {name: layer.parameters for name, layer in layers.items()} == {
        "first": 64,
        "second": 0,
        "halved": 0,
        "biased": 8,
        "reshape": 0,
    }
    assert (layers["first"].bytes, layers["first"].output) == (256, "a")


def test_a_class_token_counts() -> None:
    """Beside the patches as it is, or once for each image."""
    made = model(
        [
            helper.make_node("Expand", ["token", "shape"], ["tokens"], name="repeated"),
            helper.make_node("Concat", ["tokens", "x", "other"], ["y"], name="beside", axis=1),
        ],
        [
            tensor("token", 1, 1, 4, 4),
            tensor("other", 1, 2, 4, 4),
            numpy_helper.from_array(np.array([1, 1, 4, 4]), "shape"),
        ],
    )
    assert [(layer.name, layer.parameters) for layer in read_layers(made)] == [("repeated", 16), ("beside", 32)]


def test_nodes_get_unique_names_in_a_copy() -> None:
    made = model(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"], name="same"),
            helper.make_node("Relu", ["b"], ["c"], name="same"),
            helper.make_node("Relu", ["c"], ["d"], name="Relu_0"),
            helper.make_node("Relu", ["d"], ["e"]),
            helper.make_node("Relu", ["e"], ["y"], name="same_1"),
        ],
        [],
    )
    named = name_nodes(made)
    names = [node.name for node in named.graph.node]
    assert names == ["Relu_0_1", "same", "same_2", "Relu_0", "Relu_4", "same_1"]
    assert [layer.name for layer in read_layers(made)] == names
    assert made.graph.node[0].name == "", "the model given is not changed"
    assert name_nodes(named) == named


def head_of(nodes: list[onnx.NodeProto], *weights: onnx.TensorProto) -> tuple[str, ...]:
    """The head's names."""
    return head_nodes(model(nodes, list(weights)))


CONV = helper.make_node("Conv", ["x", "w"], ["a"], name="stem")
POOL = [helper.make_node("GlobalAveragePool", ["a"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
W = tensor("w", 8, 8, 3, 3)


def test_the_head_is_a_gemm() -> None:
    head = helper.make_node("Gemm", ["f", "fc"], ["l"], name="fc")
    softmax = helper.make_node("Softmax", ["l"], ["y"])
    assert head_of([CONV, *POOL, head, softmax], W, tensor("fc", 8, 5)) == ("fc",)


def test_the_head_is_a_matmul_with_its_bias_whose_weight_is_turned_first() -> None:
    nodes = [
        CONV,
        *POOL,
        helper.make_node("Transpose", ["fc"], ["fct"]),
        helper.make_node("MatMul", ["f", "fct"], ["m"], name="fc"),
        helper.make_node("Add", ["bias", "m"], ["y"], name="fc_bias"),
    ]
    assert head_of(nodes, W, tensor("fc", 5, 8), tensor("bias", 5)) == ("fc", "fc_bias")


def test_the_head_is_a_pointwise_convolution_before_pooling() -> None:
    nodes = [
        CONV,
        helper.make_node("Conv", ["a", "k"], ["c"], name="classifier"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    assert head_of(nodes, W, tensor("k", 5, 8, 1, 1)) == ("classifier",)


def test_networks_without_a_head_have_none() -> None:
    residual = [helper.make_node("Conv", ["x", "k"], ["a"]), helper.make_node("Add", ["a", "x"], ["y"])]
    assert head_of(residual, tensor("k", 8, 8, 1, 1)) == ()
    made = model(residual, [tensor("k", 8, 8, 1, 1)])
    assert [component.name for component in read_components(made)] == ["backbone"]


def test_two_outputs_may_have_two_heads() -> None:
    nodes = [
        CONV,
        *POOL,
        helper.make_node("Gemm", ["f", "fc"], ["y"], name="classes"),
        helper.make_node("Gemm", ["f", "box"], ["z"], name="boxes"),
    ]
    made = model(nodes, [W, tensor("fc", 8, 5), tensor("box", 8, 4)])
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4]))
    assert head_nodes(made) == ("classes", "boxes")
