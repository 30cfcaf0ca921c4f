"""Which layers TensorRT has INT8 kernels for, and which layers in FP16 read integers.

The rule for convolutions is that of NVIDIA's ModelOpt (`find_nodes_from_convs_to_exclude`): 16 channels on both sides,
or fewer where multiples of 8 and the kernel's shape allow it. ONNX Runtime has a kernel for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import onnx
import onnx_graphsurgeon as gs

from edgeq.model.graph.tensors import constant_tensors
from edgeq.model.graph.wiring import attribute
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import FUSED_ACTIVATIONS, without_int8

__all__ = ["has_kernel", "integer_inputs", "with_kernels"]

_RULE: Final = "fp16-no-kernel"
_ENOUGH: Final = 16
_MULTIPLE: Final = 8
_LEAST_GROUPED_KERNEL: Final = 3
_SPATIAL: Final = ((2, 3), (-2, -1), (-1, -2), (3, 2))


def with_kernels(model: onnx.ModelProto, plan: PrecisionPlan) -> PrecisionPlan:
    """The plan with INT8 convolutions in FP16 that TensorRT has no INT8 kernel for, and what follows from that.

    Args:
        model: FP32, with the node names of `plan`; weights' shapes are looked at, not their values.
        plan: for that graph.
    """
    int8 = plan.layers(Precision.INT8)
    left_out = {name: reason for name, reason in _without_kernel(model) if name in int8}
    return without_int8(model, plan, left_out, _RULE) if left_out else plan


def _without_kernel(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    shapes = {name: tuple(tensor.dims) for name, tensor in constant_tensors(model.graph).items()}
    given = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in shapes:
            outputs, inputs, *kernel = shapes[node.input[1]]
            groups = attribute(node, "group", 1)
            if not has_kernel(outputs, inputs, kernel, groups, first=node.input[0] in given):
                grouped = f", in {groups} groups" if groups > 1 else ""
                size = " x ".join(map(str, kernel))
                yield node.name, f"TensorRT has no INT8 kernel for {inputs} to {outputs} channels of {size}{grouped}"


def has_kernel(outputs: int, inputs: int, kernel: Sequence[int], groups: int, *, first: bool) -> bool:
    """Whether TensorRT has an INT8 kernel for a convolution.

    Args:
        outputs: channels of all groups.
        inputs: channels of one group.
        kernel: its shape.
        groups: how many.
        first: it reads what the network is given.
    """
    if min(outputs, inputs) >= _ENOUGH:
        return True
    if groups > 1:
        return outputs % _MULTIPLE == 0 and min(kernel) >= _LEAST_GROUPED_KERNEL
    aligned = outputs % _MULTIPLE == 0 or inputs % _MULTIPLE == 0
    return aligned and (first or max(outputs, inputs) >= _ENOUGH) and len(set(kernel)) == 1


def integer_inputs(node: gs.Node) -> Sequence[gs.Variable]:
    """What a layer in FP16 reads through a pair: averages over all pixels, and resizing behind a convolution.

    TensorRT's kernels for them read integers, a quarter or half of the bytes; ModelOpt puts pairs there as well.
    """
    source = node.inputs[0] if node.inputs else None
    if not isinstance(source, gs.Variable) or not source.inputs or source.inputs[0].op == "DequantizeLinear":
        return ()
    if _averages_pixels(node) or (node.op == "Resize" and _from_convolution(source)):
        return (source,)
    return ()


def _averages_pixels(node: gs.Node) -> bool:
    if node.op == "ReduceMean":
        return tuple(node.attrs.get("axes") or _constant(node, 1)) in _SPATIAL
    return bool(node.op == "GlobalAveragePool")


def _constant(node: gs.Node, slot: int) -> Sequence[int]:
    given = node.inputs[slot] if len(node.inputs) > slot else None
    return [int(axis) for axis in given.values.reshape(-1)] if isinstance(given, gs.Constant) else ()


def _from_convolution(tensor: gs.Variable) -> bool:
    maker = tensor.inputs[0]
    while maker.op in FUSED_ACTIVATIONS and maker.inputs[0].inputs:
        maker = maker.inputs[0].inputs[0]
    return bool(maker.op == "Conv")
