"""Read a lowered graph back and compare it with the plan, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx

from edgeq.errors import QuantizeError
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.plan.rules import CARRIERS, FUSED_ACTIVATIONS, STORED_IN_INT8

if TYPE_CHECKING:
    from edgeq.quantize.int8.base import Lowering

__all__ = ["int8_layers", "verify_lowering"]

_INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32)


def verify_lowering(model: onnx.ModelProto, plan: PrecisionPlan, lowering: Lowering) -> None:
    """Check that each layer of `model` computes in the precision that `plan` gave it.

    Args:
        model: as it was lowered, with the node names of `plan`.
        plan: for that graph.
        lowering: of the backend.

    Raises:
        QuantizeError: with every layer that differs.
    """
    faults = list(_faults(model, plan, lowering))
    if faults:
        raise QuantizeError(
            f"the {lowering.name} graph differs from its plan in {len(faults)} places",
            expected="every layer in the precision that was planned",
            causes=tuple(faults[:10]),
            next_step="report this with the model: it is an error in edgeq, not in the model",
        )


def int8_layers(plan: PrecisionPlan) -> tuple[Decision, ...]:
    """The INT8 layers that have weights, in the graph's order."""
    return tuple(d for d in plan.decisions if d.precision is Precision.INT8 and d.op in STORED_IN_INT8)


def _faults(model: onnx.ModelProto, plan: PrecisionPlan, lowering: Lowering) -> Iterator[str]:
    nodes = {node.name: node for node in model.graph.node}
    types = _integer_types(model)
    for decision in plan.decisions:
        node = nodes.get(decision.layer)
        if node is None:
            if decision.op not in FUSED_ACTIVATIONS or decision.precision is not Precision.INT8:
                yield f"{decision.layer}: planned, but not in the graph"
        elif decision.precision is Precision.INT8 and decision.op not in FUSED_ACTIVATIONS:
            yield from _int8_faults(node, types, lowering)
        elif decision.precision is not Precision.INT8 and decision.op in STORED_IN_INT8 and node.input[1] in types:
            yield f"{decision.layer}: planned {decision.precision.value}, its weight is quantized"


def _integer_types(model: onnx.ModelProto) -> dict[str, int]:
    """The integer type that each quantized tensor is stored in, or was before its DequantizeLinear."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types = {name: kind for name, kind in types.items() if kind in _INTEGERS}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            types[node.output[0]] = types[node.input[2]]
        elif node.op_type in CARRIERS and node.input[0] in types:
            types[node.output[0]] = types[node.input[0]]
    return types


def _int8_faults(node: onnx.NodeProto, types: dict[str, int], lowering: Lowering) -> Iterator[str]:
    activations = list(node.input[:2]) if node.op_type == "Add" else [node.input[0]]
    found = [types.get(name) for name in activations]
    foreign = any(kind is not None and kind not in lowering.activation_types for kind in found)
    if found.count(None) > lowering.unquantized_inputs(node) or foreign:
        yield f"{node.name}: planned int8, an input is not"
    if node.op_type in STORED_IN_INT8 and types.get(node.input[1]) != onnx.TensorProto.INT8:
        yield f"{node.name}: planned int8, its weight is not"
