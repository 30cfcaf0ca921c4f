"""What a graph consists of: its layers with their parameters and bytes, in two components, backbone and head."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edgeq.model.graph.head import head_nodes
from edgeq.model.graph.roles import Role, roles
from edgeq.model.graph.tensors import constant_names, constant_tensors, name_nodes, node_names

if TYPE_CHECKING:
    import onnx

__all__ = [
    "OPERATORS",
    "Component",
    "Kind",
    "Layer",
    "head_nodes",
    "name_nodes",
    "node_names",
    "read_components",
    "read_layers",
]

Kind = Literal[
    "convolution",
    "depthwise convolution",
    "linear",
    "attention",
    "attention query/key",
    "attention value/output",
    "cross-attention",
    "feed-forward",
    "embedding",
    "batchnorm",
    "normalization",
    "softmax",
    "smooth activation",
    "activation",
    "pooling",
    "add",
    "shape",
    "parameter",
    "other",
]
"""What a layer is to a reader; `cross-attention`, `embedding` and `parameter` occur in modules, not in graphs."""

_KINDS: dict[Kind, tuple[str, ...]] = {
    "convolution": ("Conv", "ConvTranspose"),
    "linear": ("Gemm",),
    "attention": ("Attention", "MultiHeadAttention"),
    "batchnorm": ("BatchNormalization",),
    "normalization": (
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LpNormalization",
        "SimplifiedLayerNormalization",
    ),
    "softmax": ("LogSoftmax", "Softmax"),
    "smooth activation": (  # of which Erf and Tanh are the two ways to write a GELU
        *("Elu", "Erf", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "QuickGelu"),
        *("Selu", "Sigmoid", "Softplus", "Softsign", "Tanh"),
    ),
    "activation": ("Clip", "LeakyRelu", "PRelu", "Relu"),
    "pooling": ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "ReduceMean", "ReduceMax"),
    "add": ("Add", "Sum"),
    "shape": (
        *(
            "Cast",
            "Concat",
            "ConstantOfShape",
            "DepthToSpace",
            "Expand",
            "Flatten",
            "Gather",
            "Identity",
            "Pad",
            "Range",
        ),
        *("Reshape", "Shape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    ),
}
_KIND_OF: dict[str, Kind] = {op: kind for kind, ops in _KINDS.items() for op in ops}

OPERATORS: Final = frozenset({*_KIND_OF, "MatMul"})
"""Operators that have a kind of their own; every other one is `other`."""

# Which inputs hold parameters: (learned, stored beside them). BatchNormalization's running mean and variance are
# measured, not learned.
_SLOTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "Conv": ((1, 2), ()),
    "ConvTranspose": ((1, 2), ()),
    "Gemm": ((0, 1, 2), ()),
    "MatMul": ((0, 1), ()),
    "BatchNormalization": ((1, 2), (3, 4)),
    "LayerNormalization": ((1, 2), ()),
    "SimplifiedLayerNormalization": ((1,), ()),
    "GroupNormalization": ((1, 2), ()),
    "InstanceNormalization": ((1, 2), ()),
    "PRelu": ((1,), ()),
    "Add": ((0, 1), ()),
    "Sub": ((0, 1), ()),
    "Mul": ((0, 1), ()),
    "Div": ((0, 1), ()),
    "Gather": ((0,), ()),
    "Concat": (tuple(range(8)), ()),  # a class token beside the patches
    "Expand": ((0,), ()),  # the same, once for each image
}
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Layer:
    """One node.

    Attributes:
        name: as `node_names` gives it.
        op: the ONNX operator.
        kind: what it is to a reader.
        parameters: learned numbers, each counted once in a model: with the first node that uses them.
        bytes: all numbers stored for it, with BatchNormalization's running mean and variance.
        output: the name of its first output tensor.
    """

    name: str
    op: str
    kind: Kind
    parameters: int
    bytes: int
    output: str


@dataclass(frozen=True)
class Component:
    """A part of the model: `backbone` or `head`, with its layers in the order of the graph."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Learned numbers in all its layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes stored for all its layers."""
        return sum(layer.bytes for layer in self.layers)


def read_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """All nodes of the main graph except constants, in order."""
    constants, fixed = constant_tensors(model.graph), constant_names(model.graph)
    parts = roles(model)
    counted: set[str] = set()
    layers = []
    for node, name in zip(model.graph.node, node_names(model), strict=True):
        if node.op_type == "Constant":
            continue
        learned, stored = _SLOTS.get(node.op_type, ((), ()))
        weights = _claim(node, learned, constants, counted)
        extra = _claim(node, stored, constants, counted)
        layers.append(
            Layer(
                name=name,
                op=node.op_type,
                kind=_kind(node, constants, fixed, parts.get(name)),
                parameters=sum(math.prod(tensor.dims) for tensor in weights),
                bytes=sum(_bytes(tensor) for tensor in weights + extra),
                output=node.output[0],
            )
        )
    return tuple(layers)


def read_components(model: onnx.ModelProto) -> tuple[Component, ...]:
    """The layers as `backbone` and `head`; a network without a recognisable head is all backbone."""
    head = set(head_nodes(model))
    layers = read_layers(model)
    backbone = Component("backbone", tuple(layer for layer in layers if layer.name not in head))
    if not head:
        return (backbone,)
    return backbone, Component("head", tuple(layer for layer in layers if layer.name in head))


def _claim(
    node: onnx.NodeProto, slots: tuple[int, ...], constants: Mapping[str, onnx.TensorProto], counted: set[str]
) -> list[onnx.TensorProto]:
    """The parameter tensors of a node that no node before it has; notes them in `counted`."""
    claimed = []
    for name in (node.input[slot] for slot in slots if slot < len(node.input)):
        tensor = constants.get(name)
        if tensor is None or name in counted or not _is_parameter(tensor, node.op_type):
            continue
        counted.add(name)
        claimed.append(tensor)
    return claimed


def _is_parameter(tensor: onnx.TensorProto, op: str) -> bool:
    """A floating-point tensor, but not a single number in an Add or Mul: that is part of a formula (a GELU's 0.5)."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    return tensor.data_type in floats and not (op in _ELEMENTWISE and math.prod(tensor.dims) <= 1)


def _bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a floating-point tensor's elements."""
    import onnx

    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _kind(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], fixed: Collection[str], role: Role | None
) -> Kind:
    """What a node is to a reader; `fixed` names the tensors that do not depend on the input."""
    if role is not None:
        return role
    if node.op_type == "MatMul":
        return "linear" if any(name in fixed for name in node.input) else "attention"
    kind = _KIND_OF.get(node.op_type, "other")
    if kind == "convolution" and _is_depthwise(node, constants):
        return "depthwise convolution"
    return kind


def _is_depthwise(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """One input channel per group. Weights: Conv [out, in / groups, ...], ConvTranspose [in, out / groups, ...]."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    weight = constants.get(node.input[1])
    if groups == 1 or weight is None:
        return False
    inputs = weight.dims[1] * groups if node.op_type == "Conv" else weight.dims[0]
    return bool(inputs == groups)
