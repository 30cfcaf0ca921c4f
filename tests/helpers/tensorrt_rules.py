"""What holds for every Q/DQ graph that TensorRT is given, by number.

1. Opset 19, whose pairs take FP16 scales; float32 at the graph's inputs and outputs.
2. Scales are positive numbers of FP16, 2**-14 at least, whatever type they are stored in.
3. Integers are INT8 in -127..127, zero points are zero: no UINT8, and no INT32 bias, which the parser refuses.
4. Activations have one scale; weights one for each output channel, on the axis of these: Conv 0, ConvTranspose 1,
   Gemm by `transB`, MatMul the last.
5. A layer that reads a quantized weight reads a quantized activation.
6. No Cast stands directly behind a layer with a quantized weight, or behind its activation: it keeps kernels apart.
7. Of an addition that reads a pair the other side comes bare from a layer with a quantized weight, or both read pairs.
8. Beside the pairs a layer reads and writes one type: TensorRT inserts no conversions in a strongly typed network.
9. A convolution with a quantized weight has an INT8 kernel (ModelOpt's rule of channels), a ConvTranspose one group.
10. FP32 is the head, and what a rule of the plan keeps there: nothing planned FP16 writes it.
11. An addition for which alone a convolution with a quantized weight makes one side reads the other as integers: there
    it is done in the accumulator. A rule of the plan may keep it in floating point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgeq.model.graph.element_types import element_types, fp16_outputs
from edgeq.model.graph.tensors import constant_tensors
from edgeq.model.graph.wiring import attribute
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quantize.int8.tensorrt_kernels import has_kernel

__all__ = ["broken_rules"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OPEN = "fp16-otherwise"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def broken_rules(model: onnx.ModelProto, plan: PrecisionPlan) -> list[tuple[int, str]]:
    """The rules that a graph breaks, each with the node or tensor that does; empty where all hold.

    Args:
        model: with its weights inside.
        plan: that TensorRT's graph follows.
    """
    return list(_Graph(model, plan).faults())


class _Graph:
    def __init__(self, model: onnx.ModelProto, plan: PrecisionPlan) -> None:
        self.model, self.plan = model, plan
        self.types = element_types(model)
        self.constants = constant_tensors(model.graph)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.given = {value.name for value in model.graph.input}
        self.rules = {decision.layer: decision.rule for decision in plan.decisions}
        self.reads = Counter(name for node in model.graph.node for name in node.input)

    def faults(self) -> Iterator[tuple[int, str]]:
        versions = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        if versions != [19]:
            yield 1, f"opset {versions}"
        for value in (*self.model.graph.input, *self.model.graph.output):
            if self.types[value.name] == TensorProto.FLOAT16:
                yield 1, value.name
        half = self.plan.layers(Precision.FP16)
        for node in self.model.graph.node:
            if node.op_type in (_QUANTIZE, _DEQUANTIZE):
                yield from self._pair(node)
            if node.op_type in _WEIGHTED and self._is_paired(node.input[1]):
                yield from self._weighted(node)
            if node.op_type == "Cast" and self._from_integers(node.input[0]):
                yield 6, node.name
            if node.op_type == "Add" and any(map(self._is_paired, node.input)):
                yield from self._added(node)
            elif node.op_type == "Add" and self.rules.get(node.name) == _OPEN and self._is_residual(node):
                yield 11, node.name
            yield from self._types(node, node.name in half)

    def _values(self, name: str) -> NDArray[np.generic]:
        return numpy_helper.to_array(self.constants[name])

    def _is_paired(self, name: str) -> bool:
        return name in self.makers and self.makers[name].op_type == _DEQUANTIZE

    def _pair(self, node: onnx.NodeProto) -> Iterator[tuple[int, str]]:
        scale, zero = self._values(node.input[1]), self._values(node.input[2])
        exact = scale.astype(np.float64)
        if (exact < 2.0**-14).any() or (scale.astype(np.float16).astype(np.float64) != exact).any():
            yield 2, node.name
        if zero.dtype != np.int8 or zero.any():
            yield 3, node.name
        stored = self._values(node.input[0]) if node.input[0] in self.constants else None
        if stored is not None and (stored.dtype != np.int8 or stored.min(initial=0) < -127):
            yield 3, node.name
        if stored is None and scale.ndim:
            yield 4, node.name

    def _weighted(self, node: onnx.NodeProto) -> Iterator[tuple[int, str]]:
        weight = self.makers[node.input[1]]
        shape = self._values(weight.input[0]).shape
        axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": len(shape) - 1}.get(
            node.op_type, 0 if attribute(node, "transB", 0) else 1
        )
        scale = self._values(weight.input[1])
        if scale.ndim and (attribute(weight, "axis", 1) % len(shape) != axis or scale.shape != (shape[axis],)):
            yield 4, node.name
        if not self._is_paired(node.input[0]):
            yield 5, node.name
        if node.op_type in ("Conv", "ConvTranspose"):
            outputs, inputs, *kernel = shape if node.op_type == "Conv" else (shape[1], shape[0], *shape[2:])
            source = self.makers[self.makers[node.input[0]].input[0]].input[0] if self._is_paired(node.input[0]) else ""
            groups = attribute(node, "group", 1)
            first = node.op_type == "Conv" and source in self.given
            transposed_groups = node.op_type == "ConvTranspose" and groups > 1
            if transposed_groups or not has_kernel(outputs, inputs, kernel, groups, first=first):
                yield 9, node.name

    def _from_integers(self, name: str) -> bool:
        maker = self.makers.get(name)
        while maker is not None and maker.op_type in ("Relu", "Clip"):
            maker = self.makers.get(maker.input[0])
        return maker is not None and maker.op_type in _WEIGHTED and self._is_paired(maker.input[1])

    def _added(self, node: onnx.NodeProto) -> Iterator[tuple[int, str]]:
        bare = [name for name in node.input if not self._is_paired(name)]
        if bare and not all(self._from_integers(name) for name in bare):
            yield 7, node.name

    def _is_residual(self, node: onnx.NodeProto) -> bool:
        makers = [self.makers[name] for name in node.input if name in self.makers and self.reads[name] == 1]
        fused = any(each.op_type in _WEIGHTED[:2] and self._is_paired(each.input[1]) for each in makers)
        return fused and not any(name in self.constants for name in node.input)

    def _types(self, node: onnx.NodeProto, half: bool) -> Iterator[tuple[int, str]]:
        floats = {self.types.get(name) for name in (*node.input, *node.output)} & set(_FLOATS)
        if len(floats) > 1 and node.op_type not in ("Cast", "Resize", "Where", "Range"):
            yield 8, node.name
        slots = fp16_outputs(node, 19)
        written = [name for name, may in zip(node.output, slots, strict=True) if may]
        if half and any(self.types.get(name) == TensorProto.FLOAT for name in written):
            yield 10, node.name
