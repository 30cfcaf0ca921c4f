"""Lower a plan to TensorRT's weakly typed quantization (10.x): the precision and output types to set on each layer.

A builder sets `layer.precision = getattr(trt, entry.precision)` and `layer.set_output_type(i, getattr(trt, type))` for
the network's layer of that name, with BuilderFlag.OBEY_PRECISION_CONSTRAINTS. TensorRT's ONNX parser names layers after
ONNX nodes; the layers that it adds itself ("(Unnamed Layer* 3) [Shuffle]") are in no plan and are left alone.

Left out are layers that take no precision or have nothing to choose: constants and what follows from constants alone,
shapes (TensorRT computes them as integers), Concat (it moves what its neighbours made; NVIDIA's own INT8 sample leaves
it out), Cast (it says its type itself), and whatever writes no floating-point tensor. The network's own outputs stay
float32: set_output_type changes the layer, not the binding, whose `dtype` the builder sets. TensorRT 11 has no such
constraints: there the Q/DQ graph says it all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import onnx
from onnx import TensorProto

from edgeq.errors import QuantizeError
from edgeq.model.graph.element_types import element_types
from edgeq.model.graph.tensors import constant_names
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.tensorrt.precisions import DataType, LayerPrecision

__all__ = ["tensorrt_precisions"]

_DATA_TYPES: Final[dict[Precision, DataType]] = {
    Precision.FP32: "float32",
    Precision.FP16: "float16",
    Precision.INT8: "int8",
}

_LEFT_OUT: Final = frozenset({"Cast", "Concat", "Constant", "ConstantOfShape", "Range", "Shape", "Size"})


def tensorrt_precisions(plan: PrecisionPlan, model: onnx.ModelProto) -> tuple[LayerPrecision, ...]:
    """The precision and output types of each layer of the plan that takes them, in the graph's order.

    A layer writes what it computes in, with two exceptions: an INT8 layer that a floating-point layer reads writes that
    layer's type (the widest of several), and what the network gives its caller is float32.

    Args:
        plan: for that graph; FP32, FP16 and INT8.
        model: the float32 graph.

    Raises:
        QuantizeError: the plan asks for something that TensorRT's layers do not have, or is of another graph.
    """
    planned = {decision.layer: decision.precision for decision in plan.decisions}
    _check(planned, model)
    types, fixed, readers = element_types(model), constant_names(model.graph), _readers(model)
    given = {output.name for output in model.graph.output}

    def written(tensor: str, precision: Precision) -> DataType | None:
        if types.get(tensor) != TensorProto.FLOAT:
            return None
        if tensor in given:
            return "float32"
        return _widest(precision, [planned[name] for name in readers.get(tensor, []) if name in planned])

    return tuple(
        LayerPrecision(
            name=node.name,
            op=node.op_type,
            precision=_DATA_TYPES[planned[node.name]],
            outputs=tuple(written(name, planned[node.name]) for name in node.output),
        )
        for node in model.graph.node
        if node.name in planned
        and node.op_type not in _LEFT_OUT
        and any(types.get(name) == TensorProto.FLOAT and name not in fixed for name in node.output)
    )


def _check(planned: Mapping[str, Precision], model: onnx.ModelProto) -> None:
    present = {node.name for node in model.graph.node}
    faults = [f"{layer}: planned, but not in the graph" for layer in planned if layer not in present]
    faults += [f"{name}: TensorRT has no {kind.value}" for name, kind in planned.items() if kind not in _DATA_TYPES]
    _raise_if(faults, "the plan cannot be given to TensorRT", "plan this graph again")


def _readers(model: onnx.ModelProto) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    return readers


def _widest(precision: Precision, readers: Sequence[Precision]) -> DataType:
    """What a layer of this precision writes for these readers."""
    if precision is not Precision.INT8:
        return _DATA_TYPES[precision]
    return next((_DATA_TYPES[kind] for kind in (Precision.FP32, Precision.FP16) if kind in readers), "int8")


def _raise_if(faults: Sequence[str], what: str, next_step: str) -> None:
    if faults:
        raise QuantizeError(f"{what} in {len(faults)} places", causes=tuple(faults), next_step=next_step)
