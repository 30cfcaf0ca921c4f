"""A layer with weights seen one way: y[out] = sum over in and taps of weight * x + bias.

Conv, ConvTranspose, Gemm and MatMul keep their weights in different orders (ONNX operators):

    Conv           [out, in / group, taps...]
    ConvTranspose  [in, out / group, taps...]
    Gemm           [in, out], or [out, in] with transB=1; times alpha, and beta times the bias
    MatMul         [in, out]; the bias is the constant of the Add that follows, if there is one

Here they are all [group, out / group, in / group, taps] in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.export.batchnorm import Refused
from edgeq.model.graph.wiring import Wiring, attribute, label

__all__ = ["LAYERS", "ExportedLayer", "read_layer", "write_layer"]

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class ExportedLayer:
    """A Conv, ConvTranspose, Gemm or MatMul node and what it computes with.

    Attributes:
        node: the node that holds the weight.
        kind: its operator; a MatMul may become a Gemm when it is written.
        adder: the Add node that holds a MatMul's bias; None elsewhere.
        weight: float64 [group, out / group, in / group, taps].
        bias: float64, [out] or anything that broadcasts against [rows, out].
        dtype: the type that the weight is stored in.
    """

    node: onnx.NodeProto
    kind: str
    adder: onnx.NodeProto | None
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    dtype: np.dtype[Any]

    @property
    def outputs(self) -> int:
        """Output channels."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    @property
    def inputs(self) -> int:
        """Input channels."""
        return int(self.weight.shape[0] * self.weight.shape[2])

    @property
    def last(self) -> onnx.NodeProto:
        """The node whose output is the layer's output."""
        return self.adder or self.node


def read_layer(wiring: Wiring, node: onnx.NodeProto, adder: onnx.NodeProto | None = None) -> ExportedLayer:
    """The layer at a node, with its bias.

    Args:
        wiring: of the graph.
        node: Conv, ConvTranspose, Gemm or MatMul.
        adder: the Add that holds a MatMul's bias; None where there is none.

    Raises:
        Refused: its weight or bias is not constant, or is laid out in a way that has no output channels.
    """
    stored = _constant(wiring, node, 1, "weight")
    if node.op_type == "MatMul" and (stored.ndim != 2 or wiring.rank(node.input[0]) != 2):
        raise Refused(f"MatMul {label(node)} is not known to multiply rows by one matrix")
    bias = _read_bias(wiring, node, adder)
    return ExportedLayer(node, node.op_type, adder, _canonical(node, stored), bias, stored.dtype)


def _constant(wiring: Wiring, node: onnx.NodeProto, index: int, role: str) -> NDArray[Any]:
    value = wiring.constant(node.input[index])
    if value is None:
        raise Refused(f"the {role} of {node.op_type} {label(node)} is not constant")
    if value.dtype not in (np.float16, np.float32, np.float64):
        raise Refused(f"the {role} of {node.op_type} {label(node)} is {value.dtype}, not floating point")
    return value


def _read_bias(wiring: Wiring, node: onnx.NodeProto, adder: onnx.NodeProto | None) -> NDArray[np.float64]:
    if adder is not None:
        bias = _constant(wiring, adder, _bias_place(wiring, adder), "constant")
        if bias.ndim > 2:
            raise Refused(f"Add {label(adder)} adds more than a bias")
        return bias.astype(np.float64)
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(1)
    factor = float(attribute(node, "beta", 1.0)) if node.op_type == "Gemm" else 1.0
    return factor * _constant(wiring, node, 2, "bias").astype(np.float64)


def _bias_place(wiring: Wiring, adder: onnx.NodeProto) -> int:
    return 1 if wiring.constant(adder.input[1]) is not None else 0


def _canonical(node: onnx.NodeProto, stored: NDArray[Any]) -> NDArray[np.float64]:
    """[group, out / group, in / group, taps] from the operator's own order."""
    exact = stored.astype(np.float64)
    if node.op_type == "Gemm":
        exact = exact if attribute(node, "transB", 0) else exact.T
        return float(attribute(node, "alpha", 1.0)) * exact[None, :, :, None]
    if node.op_type == "MatMul":
        return exact.T[None, :, :, None]
    group = int(attribute(node, "group", 1))
    if stored.ndim < 3 or group < 1 or stored.shape[0] % group:
        raise Refused(f"the weight of {node.op_type} {label(node)} does not divide into {group} groups")
    grouped = exact.reshape(group, stored.shape[0] // group, stored.shape[1], -1)
    return grouped.swapaxes(1, 2) if node.op_type == "ConvTranspose" else grouped


def _stored(node: onnx.NodeProto, canonical: NDArray[np.float64], taps: tuple[int, ...]) -> NDArray[np.float64]:
    """The operator's own order from [group, out / group, in / group, taps]."""
    if node.op_type in ("Gemm", "MatMul"):
        matrix = canonical[0, :, :, 0]
        return matrix if node.op_type == "Gemm" and attribute(node, "transB", 0) else matrix.T
    if node.op_type == "ConvTranspose":
        canonical = canonical.swapaxes(1, 2)
    group, first, second, _ = canonical.shape
    return canonical.reshape(group * first, second, *taps)


def write_layer(wiring: Wiring, layer: ExportedLayer) -> None:
    """Put `layer`'s weight and bias into the graph, in the type that the weight was stored in.

    A Gemm gets alpha = beta = 1. A MatMul without an Add becomes a Gemm: its bias needs a place.

    Raises:
        Refused: a value is too large for that type; nothing was changed then.
    """
    node = layer.node
    before = wiring.constant(node.input[1])
    taps = () if before is None else before.shape[2:]
    weight = _rounded(layer, _stored(node, layer.weight, taps))
    bias = _rounded(layer, layer.bias if layer.bias.ndim == 2 else np.broadcast_to(layer.bias, layer.outputs))
    stem = node.input[1].removesuffix(".weight")
    wiring.store(node, 1, weight, f"{stem}.weight")
    if layer.adder is not None:
        wiring.store(layer.adder, _bias_place(wiring, layer.adder), bias, f"{stem}.bias")
        return
    if node.op_type == "MatMul":
        node.op_type = "Gemm"
    _drop_attributes(node, "alpha", "beta")
    wiring.store(node, 2, bias, f"{stem}.bias")


def _rounded(layer: ExportedLayer, exact: NDArray[np.float64]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        value = exact.astype(layer.dtype)
    if not np.isfinite(value).all():
        raise Refused(f"the folded weights of {layer.node.op_type} {label(layer.node)} do not fit in {layer.dtype}")
    return value


def _drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    kept = [item for item in node.attribute if item.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
