"""Which layers TensorRT has INT8 kernels for, and which layers in FP16 read integers.

The rule for convolutions is that of NVIDIA's ModelOpt (`find_nodes_from_convs_to_exclude`): 16 channels on both sides,
or fewer where multiples of 8 and the kernel's shape allow it. ONNX Runtime has a kernel for each.

Two layers have INT8 kernels in TensorRT alone, and ModelOpt quantizes them: ConvTranspose, and an addition of which a
convolution makes one side for nobody else (`build_non_residual_input_map`). It is done in the convolution's
accumulator, and reads the other side as integers, whatever made that: ConvNeXt's residuals come from a LayerNorm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import onnx
import onnx_graphsurgeon as gs

from edgeq.model.graph.tensors import constant_tensors
from edgeq.model.graph.wiring import attribute
from edgeq.plan.conditions import Surroundings
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import CONVOLUTIONS, FUSED_ACTIVATIONS, with_int8, without_int8

__all__ = ["has_kernel", "integer_inputs", "with_kernels"]

_RULE: Final = "fp16-no-kernel"
_TRANSPOSED: Final = ("int8-transposed", "integer kernel in TensorRT")
_RESIDUAL: Final = ("int8-residual", "TensorRT adds it in the accumulator of the convolution before it")
_ENOUGH: Final = 16
_MULTIPLE: Final = 8
_LEAST_GROUPED_KERNEL: Final = 3
_SPATIAL: Final = ((2, 3), (-2, -1), (-1, -2), (3, 2))


def with_kernels(model: onnx.ModelProto, plan: PrecisionPlan) -> PrecisionPlan:
    """The plan with INT8 where TensorRT has INT8 kernels, and what follows from that.

    Convolutions without one are FP16; ConvTranspose and additions to a convolution that has one are INT8, unless a rule
    keeps them in floating point.

    Args:
        model: FP32, with the node names of `plan`; weights' shapes are looked at, not their values.
        plan: for that graph; one with no layer in INT8 stays as it is.
    """
    int8 = plan.layers(Precision.INT8)
    if not int8:
        return plan
    left_out = {name: reason for name, reason in _without_kernel(model) if name in int8}
    if left_out:
        plan = without_int8(model, plan, left_out, _RULE)
    transposed = dict.fromkeys(_transposed(model), _TRANSPOSED)
    if transposed:
        plan = with_int8(model, plan, transposed)
    residuals = dict.fromkeys(_residuals(model, plan.layers(Precision.INT8)), _RESIDUAL)
    return with_int8(model, plan, residuals) if residuals else plan


def _without_kernel(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    shapes = _shapes(model)
    given = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in shapes:
            outputs, inputs, *kernel = shapes[node.input[1]]
            groups = attribute(node, "group", 1)
            if not has_kernel(outputs, inputs, kernel, groups, first=node.input[0] in given):
                grouped = f", in {groups} groups" if groups > 1 else ""
                size = " x ".join(map(str, kernel))
                yield node.name, f"TensorRT has no INT8 kernel for {inputs} to {outputs} channels of {size}{grouped}"


def _transposed(model: onnx.ModelProto) -> Iterator[str]:
    """The ConvTranspose with an INT8 kernel: by the same rule of channels, in one group.

    In several groups the scales of its weights, one for each index of their axis 1, would be shared between groups.
    """
    shapes = _shapes(model)
    for node in model.graph.node:
        if node.op_type == "ConvTranspose" and node.input[1] in shapes and attribute(node, "group", 1) == 1:
            inputs, outputs, *kernel = shapes[node.input[1]]
            if has_kernel(outputs, inputs, kernel, 1, first=False):
                yield node.name


def _residuals(model: onnx.ModelProto, int8: frozenset[str]) -> Iterator[str]:
    """The additions of two tensors of which an INT8 convolution makes one for nobody else."""
    graph = Surroundings.of(model)
    for node in model.graph.node:
        sides = graph.values(node)
        if node.op_type == "Add" and len(set(sides)) == len(node.input):
            makers = (graph.producer[side] for side in sides if side in graph.producer and _read_once(side, graph))
            if any(maker.op_type in CONVOLUTIONS and maker.name in int8 for maker in makers):
                yield node.name


def _read_once(tensor: str, graph: Surroundings) -> bool:
    return len(graph.consumers[tensor]) == 1 and tensor not in graph.outputs


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.dims) for name, tensor in constant_tensors(model.graph).items()}


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

    TensorRT's kernels for them read integers, a quarter or half of the bytes; ModelOpt puts pairs there as well. A sum
    that no convolution computes is FP16, as at the end of a ConvNeXt: to round it for its average alone saves nothing.
    """
    source = node.inputs[0] if node.inputs else None
    if not isinstance(source, gs.Variable) or not source.inputs or source.inputs[0].op == "DequantizeLinear":
        return ()
    averaged = _averages_pixels(node) and not _added_in_float(source)
    return (source,) if averaged or (node.op == "Resize" and _from_convolution(source)) else ()


def _averages_pixels(node: gs.Node) -> bool:
    if node.op == "ReduceMean":
        return tuple(node.attrs.get("axes") or _constant(node, 1)) in _SPATIAL
    return bool(node.op == "GlobalAveragePool")


def _constant(node: gs.Node, slot: int) -> Sequence[int]:
    given = node.inputs[slot] if len(node.inputs) > slot else None
    return [int(axis) for axis in given.values.reshape(-1)] if isinstance(given, gs.Constant) else ()


def _from_convolution(tensor: gs.Variable) -> bool:
    return _maker(tensor).op in CONVOLUTIONS


def _added_in_float(tensor: gs.Variable) -> bool:
    """Whether it is a sum of tensors that no convolution makes."""
    maker = _maker(tensor)
    sides = [side for side in maker.inputs if isinstance(side, gs.Variable) and side.inputs]
    return bool(maker.op == "Add" and not any(_from_convolution(side) for side in sides))


def _maker(tensor: gs.Variable) -> gs.Node:
    """What makes it, activations aside."""
    maker = tensor.inputs[0]
    while maker.op in FUSED_ACTIVATIONS and maker.inputs[0].inputs:
        maker = maker.inputs[0].inputs[0]
    return maker
