"""An ONNX file as the rules look at it: within bounds, without its weights, quantized or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import onnx
from onnx import inliner

from edgeq.errors import LimitError, ModelError, first_line
from edgeq.lint.graph import PAIR, LintGraph
from edgeq.model.graph.complete import complete
from edgeq.model.graph.element_types import opset_of, schema_of
from edgeq.model.graph.external_data import read_in
from edgeq.model.graph.onnx_bounds import check_costs
from edgeq.model.graph.onnx_checks import all_nodes, check_parts
from edgeq.model.graph.outline import load_outline
from edgeq.model.graph.tensors import drop_constant_inputs, give_constants_types, name_nodes
from edgeq.plan.precision import PrecisionPlan

__all__ = ["load_graph"]

_MOST_BYTES: Final = 2**31 - 1
_MOST_TENSORS: Final = 200_000
_MOST_SCALES: Final = 1 << 20
"""Of one weight: one for each output channel."""
_NEXT: Final = "export the model to ONNX again, or copy the file again"


def load_graph(path: Path, plan: PrecisionPlan | None = None) -> LintGraph:
    """Read the graph of an ONNX file; of its weights none is read but scales and zero points.

    Args:
        path: of an .onnx file, in any opset, quantized or not.
        plan: that it should follow, where there is one.

    Raises:
        ModelError: it cannot be read, is no whole ONNX file, or has a cycle.
        LimitError: it has too many nodes or tensors, or loops that never end.
    """
    _check_size(path)
    model = load_outline(path)
    if len(model.graph.initializer) > _MOST_TENSORS:
        raise LimitError(f"{path} has {len(model.graph.initializer):,} tensors", expected=f"at most {_MOST_TENSORS:,}")
    check_costs(model, path)
    check_parts(model, path)
    if model.functions:
        model = _inlined(model, path)
    drop_constant_inputs(model)
    give_constants_types(model)
    complete(model, path)
    model = name_nodes(model)
    _check_counts(model, path)
    scales = {name for node in all_nodes(model.graph) if node.op_type in PAIR for name in node.input[1:3]}
    read_in(model, path, lambda tensor: tensor.name in scales and math.prod(tensor.dims) <= _MOST_SCALES)
    return LintGraph(model, path, plan)


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}", expected="an .onnx file") from error
    if path.is_dir():
        raise ModelError(f"{path} is a directory, expected an .onnx file")
    if size > _MOST_BYTES:
        raise ModelError(
            f"{path} has {size:,} bytes; a protobuf file ends at 2 GiB",
            next_step="export the model with external data (save_as_external_data)",
        )


def _check_counts(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError where a node has fewer inputs or outputs than its operator needs.

    ONNX's checker is not asked: it wants every weight.
    """
    version = opset_of(model)
    for node in all_nodes(model.graph):
        schema = schema_of(node, version)
        least = (schema.min_input, schema.min_output) if schema else (2 * (node.op_type in PAIR), 1)
        if len(node.input) < least[0] or len(node.output) < least[1]:
            raise ModelError(
                f"{path}: {node.op_type} {node.name!r} has {len(node.input)} inputs and {len(node.output)} outputs",
                expected=f"{least[0]} and {least[1]} at least",
                next_step=_NEXT,
            )


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises RuntimeError, ValueError and protobuf's own errors
        raise ModelError(f"{path}: its functions cannot be inlined: {first_line(error)}", next_step=_NEXT) from error
