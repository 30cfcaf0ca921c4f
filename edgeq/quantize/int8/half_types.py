"""FP16 beside INT8: the float types of TensorRT's Q/DQ graph.

A strongly typed network computes in the types that the graph has. A DequantizeLinear writes the type of its scale, so
FP16 scales make an INT8 kernel write FP16 by itself, and no Cast is needed behind it: there it would keep the kernel
from being fused with what follows. So the types are chosen first, layer by layer:

- a layer planned FP16 or FP32 has that;
- an INT8 layer has FP16, unless FP16 does not hold what it reads, writes or adds, or a layer planned FP32 (the head)
  reads what it writes: then its scales are FP32, and its kernel writes FP32;
- INT8 layers between which no pair stands (a convolution, the addition behind it, its activation) are one kernel, and
  have one type;
- a QuantizeLinear has the type of what it reads, a DequantizeLinear that of its readers. The integers between them are
  the same: every scale is a number of FP16 (`edgeq.quantize.int8.grid.half_scale`).

What the graph is given and gives stays float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import numpy_helper

from edgeq.export.opset import raise_opset
from edgeq.model.graph.element_types import LARGEST, SHAPE_READERS, unfit_layers
from edgeq.model.graph.tensors import constant_tensors
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.overflow_rules import MARGIN
from edgeq.quantize.int8.placement import unite

__all__ = ["half_types"]

_QUANTIZE: Final = "QuantizeLinear"
_DEQUANTIZE: Final = "DequantizeLinear"
_STEPS: Final = 127


def half_types(lowered: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    """A Q/DQ graph with FP16 beside its pairs.

    Args:
        lowered: float32, opset 17 or 18, scales that FP16 holds, nodes named as in `plan`; it is not changed.
        plan: for that graph.

    Raises:
        QuantizeError: a layer planned FP16 cannot be FP16, or the graph made differs from the plan.
    """
    model = onnx.ModelProto()
    model.CopyFrom(lowered)
    raise_opset(model)
    graph = _Graph.of(model, plan)
    half = graph.half | (graph.int8 - _wide(graph, model))
    _part_dequantized(model, half)
    return to_fp16(model, plan, beside=frozenset((half - graph.half) | _half_pairs(model, half)))


@dataclass(frozen=True)
class _Graph:
    """What of a lowered graph is looked at.

    Attributes:
        nodes: in order.
        int8, half: names of the layers of the graph that are planned INT8, and FP16.
        makers: tensor -> the node that makes it.
        readers: tensor -> the nodes that read it.
        outputs: names of the graph's outputs.
        peaks: tensor behind a pair -> the largest number that the pair can give.
    """

    nodes: tuple[onnx.NodeProto, ...]
    int8: frozenset[str]
    half: frozenset[str]
    makers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]
    outputs: frozenset[str]
    peaks: dict[str, float]

    @classmethod
    def of(cls, model: onnx.ModelProto, plan: PrecisionPlan) -> _Graph:
        nodes = tuple(model.graph.node)
        present = {node.name for node in nodes}
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        constants = constant_tensors(model.graph)
        peaks = {
            tensor: _STEPS * float(numpy_helper.to_array(constants[node.input[1]]).max())
            for node in nodes
            if node.op_type in (_QUANTIZE, _DEQUANTIZE)
            for tensor in (node.input[0], node.output[0])
        }
        return cls(
            nodes=nodes,
            int8=plan.layers(Precision.INT8) & present,
            half=plan.layers(Precision.FP16) & present,
            makers={output: node for node in nodes for output in node.output},
            readers=readers,
            outputs=frozenset(output.name for output in model.graph.output),
            peaks=peaks,
        )

    def kernels(self) -> list[frozenset[str]]:
        """Names of INT8 layers that are fused, because one reads what another writes without a pair between."""
        alone = [frozenset({name}) for name in self.int8]
        return unite((*alone, *self._joined()))

    def _joined(self) -> Iterator[frozenset[str]]:
        for node in self.nodes:
            for name in node.input if node.name in self.int8 else ():
                maker = self.makers.get(name)
                if maker is not None and maker.name in self.int8:
                    yield frozenset({maker.name, node.name})

    def is_read_in_fp32(self, node: onnx.NodeProto) -> bool:
        """Whether what an INT8 layer writes goes to a layer in FP32, or out of the graph."""
        return any(name in self.outputs or any(map(self._is_fp32, self.readers.get(name, []))) for name in node.output)

    def _is_fp32(self, reader: onnx.NodeProto) -> bool:
        planned = reader.name in self.half | self.int8
        return not planned and reader.op_type not in SHAPE_READERS | {_QUANTIZE, _DEQUANTIZE}


def _wide(graph: _Graph, model: onnx.ModelProto) -> frozenset[str]:
    """The INT8 layers whose kernel reads and writes FP32 beside its integers."""
    unfit = unfit_layers(model)
    beyond = {
        node.name
        for node in graph.nodes
        if node.name in graph.int8
        and (
            node.name in unfit
            or graph.is_read_in_fp32(node)
            or _largest(graph, (*node.input, *node.output)) > LARGEST / MARGIN
        )
    }
    return frozenset(name for kernel in graph.kernels() if kernel & beyond for name in kernel)


def _largest(graph: _Graph, tensors: Iterable[str]) -> float:
    return max((graph.peaks.get(name, 0.0) for name in tensors), default=0.0)


def _half_pairs(model: onnx.ModelProto, half: frozenset[str]) -> frozenset[str]:
    """The Q/DQ nodes on the FP16 side: of what an FP16 layer writes, and for FP16 layers."""
    makers = {output: node.name for node in model.graph.node for output in node.output}
    readers = _reader_names(model)
    found = set()
    for node in model.graph.node:
        if node.op_type == _QUANTIZE and makers.get(node.input[0]) in half:
            found.add(node.name)
        if node.op_type == _DEQUANTIZE and readers.get(node.output[0], set()) <= half:
            found.add(node.name)
    return frozenset(found)


def _part_dequantized(model: onnx.ModelProto, half: frozenset[str]) -> None:
    """Give a second DequantizeLinear to the FP32 readers of one that FP16 layers read as well."""
    readers, nodes = _reader_names(model), list(model.graph.node)
    made: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        reading = readers.get(node.output[0], set()) if node.op_type == _DEQUANTIZE else set()
        if reading & half and reading - half:
            other = onnx.NodeProto()
            other.CopyFrom(node)
            other.name, other.output[0] = f"{node.name}.fp32", f"{node.output[0]}.fp32"
            made[node.output[0]] = other
    if not made:
        return
    del model.graph.node[:]
    for node in nodes:
        if node.name not in half:
            for slot, name in enumerate(node.input):
                if name in made:
                    node.input[slot] = made[name].output[0]
        model.graph.node.append(node)
        if node.output and node.output[0] in made:
            model.graph.node.append(made[node.output[0]])


def _reader_names(model: onnx.ModelProto) -> dict[str, set[str]]:
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    return readers
