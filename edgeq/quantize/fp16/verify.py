"""Read the element types of an FP16 graph back and compare them with the plan, layer by layer and Cast by Cast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto

from edgeq.errors import QuantizeError
from edgeq.model.graph.element_types import (
    SHAPE_READERS,
    element_types,
    fp16_inputs,
    fp16_outputs,
    inner_reads,
    opset_of,
)
from edgeq.plan.precision import Precision, PrecisionPlan

__all__ = ["verify_fp16"]


def verify_fp16(model: onnx.ModelProto, plan: PrecisionPlan, *, beside: frozenset[str] = frozenset()) -> None:
    """Check that the layers that `plan` has in FP16 compute in FP16, no other does, and Casts stand at borders only.

    Args:
        model: as it was made.
        plan: for it.
        beside: further nodes that read and write FP16, as for `to_fp16`.

    Raises:
        QuantizeError: with every layer, Cast, input or output that differs; or the types contradict each other.
    """
    faults = list(_faults(_Found.of(model, plan, beside), plan))
    if faults:
        raise QuantizeError(
            f"the FP16 graph differs from its plan in {len(faults)} places",
            expected="every layer in the precision that was planned, and Casts between different ones only",
            causes=tuple(faults[:10]),
            next_step="report this with the model: it is an error in edgeq, not in the model",
        )


@dataclass
class _Found:
    """A graph as it was read back."""

    model: onnx.ModelProto
    types: dict[str, int]
    version: int
    half: frozenset[str]
    planned: frozenset[str]
    nodes: dict[str, onnx.NodeProto]
    makers: dict[str, str] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto, plan: PrecisionPlan, beside: frozenset[str]) -> _Found:
        found = cls(
            model=model,
            types=element_types(model),
            version=opset_of(model),
            half=plan.layers(Precision.FP16) | beside,
            planned=frozenset(decision.layer for decision in plan.decisions),
            nodes={node.name: node for node in model.graph.node},
        )
        for node in model.graph.node:
            found.makers.update(dict.fromkeys(node.output, node.name))
            for name in (*node.input, *inner_reads(node)):
                found.readers.setdefault(name, []).append(node.name)
        return found

    def is_border(self, name: str) -> bool:
        """Whether a node is a Cast of the lowering, no layer of the plan."""
        return name not in self.planned and self.nodes[name].op_type == "Cast"


def _faults(found: _Found, plan: PrecisionPlan) -> Iterator[str]:
    for decision in plan.decisions:
        node = found.nodes.get(decision.layer)
        if node is None:
            if decision.precision is not Precision.INT8:  # the INT8 lowering takes some away, and checks that itself
                yield f"{decision.layer}: planned, but not in the graph"
        elif decision.layer in found.half:
            yield from _half_faults(node, found)
        else:
            yield from _other_faults(node, decision.precision, found)
    for node in found.model.graph.node:
        if found.is_border(node.name):
            yield from _cast_faults(node, found)
    for value in (*found.model.graph.input, *found.model.graph.output):
        if found.types[value.name] == TensorProto.FLOAT16:
            yield f"{value.name}: the graph's inputs and outputs stay float32, this one is float16"


def _half_faults(node: onnx.NodeProto, found: _Found) -> Iterator[str]:
    slots = (*fp16_inputs(node, found.version), *fp16_outputs(node, found.version))
    for name, half in zip((*node.input, *node.output), slots, strict=True):
        if half and found.types.get(name) == TensorProto.FLOAT:
            yield f"{node.name}: planned fp16, {name} is float32"
    if any(name and name not in found.types for name in node.output):
        yield f"{node.name}: planned fp16, the type of what it writes is not known"


def _other_faults(node: onnx.NodeProto, precision: Precision, found: _Found) -> Iterator[str]:
    if node.op_type in SHAPE_READERS:
        return
    for name in (*node.input, *node.output):
        if found.types.get(name) == TensorProto.FLOAT16:
            yield f"{node.name}: planned {precision.value}, {name} is float16"


def _cast_faults(node: onnx.NodeProto, found: _Found) -> Iterator[str]:
    """A Cast that the lowering put in must lead from one side of a border to the other."""
    source, target = node.input[0], node.output[0]
    kinds = (found.types.get(source), found.types.get(target))
    if kinds == (TensorProto.FLOAT, TensorProto.FLOAT16):
        crosses = _comes_from_fp32(source, found) and bool(found.half & set(found.readers.get(target, [])))
    elif kinds == (TensorProto.FLOAT16, TensorProto.FLOAT):
        crosses = found.makers.get(source) in found.half and _goes_to_fp32(target, found)
    else:
        return
    if not crosses:
        yield f"{node.name}: a Cast where no border is, from {source} to {target}"


def _comes_from_fp32(tensor: str, found: _Found) -> bool:
    """Whether the caller gives `tensor`, or a layer that is not FP16 makes it; a constant is stored as FP16 instead."""
    if tensor not in found.makers:
        return tensor in {value.name for value in found.model.graph.input}
    return found.makers[tensor] not in found.half and not found.is_border(found.makers[tensor])


def _goes_to_fp32(tensor: str, found: _Found) -> bool:
    """Whether the caller gets `tensor`, or a layer that is not FP16 reads it."""
    readers = [name for name in found.readers.get(tensor, []) if not found.is_border(name)]
    return not set(readers) <= found.half or tensor in {value.name for value in found.model.graph.output}
