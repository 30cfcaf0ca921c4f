"""What must hold of an ONNX model before anything else looks at it.

A protobuf parser accepts a lot: a file cut between two fields parses, and the ONNX checker does not ask whether the
graph's outputs are computed at all. These checks close the gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError, first_line
from edgeq.model.graph.external_data import all_tensors, stored_bytes
from edgeq.model.graph.tensors import attribute_graphs

if TYPE_CHECKING:
    import onnx

__all__ = ["all_nodes", "check_model", "check_not_quantized", "check_parts", "incomplete", "stored_values"]

_QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
}
_CHECKER_BYTES = 1_900_000_000  # the checker serializes the model, and protobuf ends at 2 GiB
_CUT_SHORT = (
    "the file was cut short while it was copied or downloaded",
    "it was written by a program that failed halfway",
)
_DAMAGED = ("the file was damaged while it was copied or downloaded", "it is not an ONNX file")
_NEXT_STEP = "export the model to ONNX again, or copy the file again"


def check_parts(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError unless the model has a graph with nodes and outputs, an opset, and all outputs are computed."""
    graph = model.graph
    if any(isinstance(text, bytes) for text in _texts(model)):  # protobuf gives bytes where a string is not UTF-8
        raise ModelError(f"{path} has a name that is not valid text", causes=_DAMAGED, next_step=_NEXT_STEP)
    if not graph.node or not graph.output or not graph.input:
        missing = "nodes" if not graph.node else "outputs" if not graph.output else "inputs"
        raise ModelError(
            f"{path} has no graph that could be run: no {missing}", causes=_CUT_SHORT, next_step=_NEXT_STEP
        )
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        raise ModelError(f"{path} does not say its opset", causes=_CUT_SHORT, next_step=_NEXT_STEP)
    computed = {name for node in graph.node for name in node.output}
    for output in graph.output:
        if output.name not in computed:
            raise ModelError(
                f"{path}: no node computes the output {output.name!r}", causes=_CUT_SHORT, next_step=_NEXT_STEP
            )


def check_not_quantized(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError when the graph is quantized already: its scales would be quantized a second time."""
    for node in all_nodes(model.graph):
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear"):
            raise ModelError(
                f"{path} is already quantized: its node {node.name or node.output[0]!r} is a {node.op_type}",
                expected="the float model from which this one was made",
                next_step="give edgeq the float (FP32) ONNX file",
            )


def check_model(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError unless every tensor has its whole data and the ONNX checker accepts the model.

    Args:
        model: with all external data read in.
        path: where it came from, for the message.
    """
    import onnx

    for tensor in all_tensors(model.graph):
        _check_tensor(tensor, path)
    try:
        onnx.checker.check_model(model if stored_bytes(model) < _CHECKER_BYTES else _without_weights(model))
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(
            f"{path} is not a valid ONNX model: {reason}", causes=_CUT_SHORT, next_step=_NEXT_STEP
        ) from error


def _texts(model: onnx.ModelProto) -> Iterator[str]:
    """Every string that is worked with later: names, operators, domains, references."""
    yield model.graph.name
    yield from (opset.domain for opset in model.opset_import)
    for value in (*model.graph.input, *model.graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for node in all_nodes(model.graph):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for tensor in all_tensors(model.graph):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in attribute_graphs(attribute):
                yield from all_nodes(inner)


def stored_values(tensor: onnx.TensorProto, path: Path, name: str = "") -> NDArray[Any]:
    """The numbers of a tensor whose data are in memory, in its own shape [...] and dtype.

    Args:
        tensor: of the model.
        path: where it came from, for the message.
        name: likewise; empty takes the tensor's own, which one in a Constant node may not have.

    Raises:
        ModelError: it has more or fewer elements than its shape says, or a type that is none.
    """
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # onnx raises whatever its conversion runs into: KeyError, TypeError, ValueError, ...
        raise incomplete(tensor, path, name) from error


def incomplete(tensor: onnx.TensorProto, path: Path, name: str = "") -> ModelError:
    """What is raised for a tensor that does not have its whole data.

    Args:
        tensor, path, name: as for `stored_values`.
    """
    return ModelError(
        f"{path}: tensor {(name or tensor.name)!r} of shape {list(tensor.dims)} does not have its whole data",
        causes=_CUT_SHORT,
        next_step=_NEXT_STEP,
    )


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Raise ModelError when a tensor has more or fewer elements than its shape says, a type that is none, or NaN."""
    values = stored_values(tensor, path)
    if values.ndim and values.dtype.kind == "f" and (missing := int(np.isnan(values).sum())):
        raise ModelError(
            f"{path}: NaN in weight {tensor.name!r}: {missing:,} of {values.size:,} numbers",
            expected="numbers: whatever is computed with NaN is NaN",
            causes=("training diverged before the checkpoint was written", "the file was damaged"),
            next_step="export the model from a checkpoint whose weights are finite",
        )


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the large weights are left out and listed as inputs, so that it can be serialized."""
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(model)
    kept = [tensor for tensor in light.graph.initializer if len(tensor.raw_data) < 1024]
    for tensor in light.graph.initializer:
        if len(tensor.raw_data) >= 1024:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del light.graph.initializer[:]
    light.graph.initializer.extend(kept)
    return light
