"""What of a graph can be FP16: element types, the slots of an operator that take FP16, the numbers that FP16 holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import QuantizeError
from edgeq.model.graph.external_data import is_external
from edgeq.model.graph.tensors import constant_tensors
from edgeq.model.graph.wiring import operator, subgraphs

__all__ = [
    "LARGEST",
    "MOST_LOST",
    "SHAPE_READERS",
    "element_types",
    "fp16_inputs",
    "fp16_outputs",
    "inner_reads",
    "opset_of",
    "outside_fp16",
    "plainly_held",
    "schema_of",
    "unfit_layers",
    "without_weights",
]

LARGEST: Final = 65504.0
"""The largest finite FP16 number (IEEE 754 binary16); the smallest above zero is 2**-24, about 6e-8."""

SHAPE_READERS: Final = frozenset({"Shape", "Size"})
"""They look at a tensor's shape alone, so its element type is the same to them."""

MOST_LOST: Final = 0.05
"""Rounding to FP16 moves a tensor of ordinary numbers by 0.02% of its length. Beyond this part, numbers vanished."""

_PLAIN_ROOT_MEAN_SQUARE = 1e-6
# Tensors up to this size may say a shape, which type inference likes to know; larger ones are weights.
_SHAPE_BYTES = 1024


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that `model` is written in; 0 where it does not say it."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type (`TensorProto.FLOAT`, ...) of each tensor of the main graph, as ONNX's inference finds it.

    Weights are left out of what is inferred from, so that a model of more than 2 GB can be looked at. Tensors behind
    operators that ONNX does not know are missing.

    Raises:
        QuantizeError: the types contradict each other.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(without_weights(model), check_type=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise QuantizeError(
            "the element types of the graph contradict each other", causes=(" ".join(str(error).split())[:300],)
        ) from error
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values} | _constant_types(model)


def _constant_types(model: onnx.ModelProto) -> dict[str, int]:
    return {name: tensor.data_type for name, tensor in constant_tensors(model.graph).items()}


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large initializers as inputs behind its own, without what it claims of tensors inside."""
    graph = model.graph
    small = [tensor for tensor in graph.initializer if tensor.ByteSize() <= _SHAPE_BYTES]
    large = [tensor for tensor in graph.initializer if tensor.ByteSize() > _SHAPE_BYTES]
    weights = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in large]
    bare = helper.make_graph(graph.node, graph.name, [*graph.input, *weights], graph.output, small)
    return helper.make_model(
        bare, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )


def fp16_inputs(node: onnx.NodeProto, version: int) -> tuple[bool, ...]:
    """For each input of `node`: whether ONNX lets it be FP16 (Resize's scales, for one, may not)."""
    schema = schema_of(node, version)
    return _half(schema, schema.inputs, len(node.input)) if schema else (False,) * len(node.input)


def fp16_outputs(node: onnx.NodeProto, version: int) -> tuple[bool, ...]:
    """For each output of `node`: whether ONNX lets it be FP16 (Range's may not)."""
    schema = schema_of(node, version)
    return _half(schema, schema.outputs, len(node.output)) if schema else (False,) * len(node.output)


def schema_of(node: onnx.NodeProto, version: int) -> onnx.defs.OpSchema | None:
    """ONNX's own definition of an operator at an opset; None where there is none."""
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None


def _half(
    schema: onnx.defs.OpSchema, formals: Sequence[onnx.defs.OpSchema.FormalParameter], count: int
) -> tuple[bool, ...]:
    allowed = {kind.type_param_str: kind.allowed_type_strs for kind in schema.type_constraints}
    found = ["tensor(float16)" in allowed.get(formal.type_str, [formal.type_str]) for formal in formals]
    return tuple(found[min(slot, len(found) - 1)] for slot in range(count))  # the last one may stand for many


def inner_reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the graphs inside `node` read, at any depth."""
    for graph in subgraphs(node):
        yield from (output.name for output in graph.output)
        for inner in graph.node:
            yield from inner.input
            yield from inner_reads(inner)


def outside_fp16(values: NDArray[np.float32]) -> str:
    """Why FP16 cannot hold these numbers, as the end of a sentence; empty where it can.

    It cannot when a finite number is beyond 65504, or when rounding moves the tensor by more than 5% of its length
    (L2): then most of what it says lies among or below the smallest FP16 numbers. Infinity is a number of FP16.
    """
    if plainly_held(values):
        return ""
    finite = values[np.isfinite(values)].astype(np.float64)
    peak = np.abs(finite).max(initial=0.0)
    if peak > LARGEST:
        return f"holds {peak:.6g}, and FP16 ends at {LARGEST:.0f}"
    lost = np.linalg.norm(finite - finite.astype(np.float16).astype(np.float64))
    if lost > MOST_LOST * np.linalg.norm(finite):
        return f"holds numbers up to {peak:.3g}, most of which vanish in FP16"
    return ""


def plainly_held(values: NDArray[np.float32]) -> bool:
    """Whether FP16 holds these numbers by their peak and length alone, which are quickly found.

    Rounding moves a number of FP16's normal range by 2**-11 of itself at most, a smaller one by 2**-25. So it moves n
    numbers by (2**-11 length + 2**-25 root(n)) at most, which is less than the bound where their root mean square is
    beyond 1e-6. Infinity and NaN are left to a closer look.
    """
    if not values.size:
        return True
    peak = max(float(values.max()), -float(values.min()))
    return peak <= LARGEST and float(np.linalg.norm(values)) > _PLAIN_ROOT_MEAN_SQUARE * math.sqrt(values.size)


def unfit_layers(model: onnx.ModelProto) -> dict[str, str]:
    """The layers that cannot compute in FP16 whatever the images are, each with the reason.

    Constants are looked at, but for those whose data are in another file.

    Raises:
        QuantizeError: the element types of the graph contradict each other.
    """
    types, version = element_types(model), opset_of(model)
    weights = {
        name: outside_fp16(numpy_helper.to_array(tensor))
        for name, tensor in constant_tensors(model.graph).items()
        if tensor.data_type == TensorProto.FLOAT and not is_external(tensor)
    }
    reasons = ((node.name, _unfit(node, types, weights, version)) for node in model.graph.node)
    return {name: reason for name, reason in reasons if name and reason}


def _unfit(node: onnx.NodeProto, types: Mapping[str, int], weights: Mapping[str, str], version: int) -> str:
    if node.op_type == "Constant":
        return ""
    if next(subgraphs(node), None) is not None:
        return f"{node.op_type} has graphs inside, which no plan covers"
    if any(name and name not in types for name in node.output):
        return f"ONNX does not know what {operator(node)} computes"
    if unknown := [name for name in node.input if name and name not in types]:
        return f"ONNX does not know the type of {unknown[0]}, which it reads"
    if node.output and types[node.output[0]] == TensorProto.FLOAT and not fp16_outputs(node, version)[0]:
        return f"ONNX has no {node.op_type} in FP16"
    slots = zip(node.input, fp16_inputs(node, version), strict=True)
    faults = ((name, weights.get(name, "")) for name, half in slots if half)
    return next((f"its constant {name} {fault}" for name, fault in faults if fault), "")
