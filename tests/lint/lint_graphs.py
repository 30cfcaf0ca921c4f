"""A small Q/DQ graph that keeps to every rule, and what changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.lint.graph import LintGraph
from edgeq.lint.run import check_graph

CHANNELS = 16


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """A node named after its output."""
    return helper.make_node(op, list(inputs), [output], name=output, **attributes)


def pair(tensor: str, *, axis: int = 1) -> list[onnx.NodeProto]:
    """A pair behind an activation; its scale is `TENSOR.scale`."""
    held = [f"{tensor}.scale", f"{tensor}.zero"]
    return [
        node("QuantizeLinear", [tensor, *held], f"{tensor}.q", axis=axis),
        node("DequantizeLinear", [f"{tensor}.q", *held], f"{tensor}.dq", axis=axis),
    ]


def weight(name: str, *, axis: int = 0) -> onnx.NodeProto:
    """The DequantizeLinear of a stored weight."""
    return node("DequantizeLinear", [name, f"{name}.scale", f"{name}.zero"], f"{name}.dq", axis=axis)


def scale(value: float = 2**-5, zero: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.array(value, np.float16), np.array(zero, np.int8)


def network() -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """A convolution, its activation, a residual addition, a normalization in FP16 and a linear layer."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Cast", ["x"], "half", to=TensorProto.FLOAT16),
        *pair("half"),
        weight("first"),
        node("Conv", ["half.dq", "first.dq", "bias"], "conv", pads=[1, 1, 1, 1]),
        node("Relu", ["conv"], "relu"),
        *pair("relu"),
        weight("second"),
        node("Conv", ["relu.dq", "second.dq"], "again"),
        node("Add", ["again", "relu.dq"], "sum"),
        *pair("sum"),
        node("GlobalAveragePool", ["sum.dq"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("LayerNormalization", ["flat", "gamma"], "normal"),
        node("Cast", ["normal"], "wide", to=TensorProto.FLOAT),
        node("Gemm", ["wide", "head"], "y"),
    ]
    constants: dict[str, NDArray[Any]] = {
        "bias": rng.normal(0, 0.1, CHANNELS).astype(np.float16),
        "gamma": rng.uniform(0.5, 2, CHANNELS).astype(np.float16),
        "head": rng.normal(0, 0.2, (CHANNELS, 3)).astype(np.float32),
    }
    for name in ("half", "relu", "sum"):
        constants[f"{name}.scale"], constants[f"{name}.zero"] = scale()
    for name, shape in (("first", (CHANNELS, 3, 3, 3)), ("second", (CHANNELS, CHANNELS, 1, 1))):
        constants[name] = rng.integers(-127, 128, shape).astype(np.int8)
        constants[f"{name}.scale"] = np.full(CHANNELS, 2**-8, np.float16)
        constants[f"{name}.zero"] = np.zeros(CHANNELS, np.int8)
    return nodes, constants


def made(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    *,
    shape: Sequence[int | str] = (1, 3, 8, 8),
    outputs: Sequence[str] = ("y",),
    opset: int = 19,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of the input `x`; constants that nobody reads are left out."""
    read = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in read],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def found(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Where each rule is broken, by number."""
    places: dict[str, list[str]] = {}
    for each in check_graph(LintGraph(model, Path("model.onnx"))):
        places.setdefault(each.rule, []).append(each.where)
    return places
