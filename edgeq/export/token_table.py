"""A text encoder's token table in FP16: it is read, not multiplied, and is most of a small encoder's bytes."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["token_table_in_fp16"]

_MOVES: Final = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_LARGEST: Final = float(np.finfo(np.float16).max)


def token_table_in_fp16(model: onnx.ModelProto, given: str) -> onnx.ModelProto:
    """The same graph with its token table stored in FP16; what is read from it is cast to float32.

    Args:
        model: float32; it is not changed.
        given: name of the graph's input, token ids.

    Returns:
        A copy. A table that has another reader, or a number that FP16 does not hold, stays as it is.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    ids = _moved(graph, given)
    tables = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for place, node in enumerate(graph.node):
        if node.op_type != "Gather" or node.input[1] not in ids or node.input[0] not in tables:
            continue
        table = tables[node.input[0]]
        values = numpy_helper.to_array(table)
        readers = sum(list(other.input).count(table.name) for other in graph.node)
        if readers != 1 or not np.abs(values).max(initial=0.0) <= _LARGEST:
            continue
        table.CopyFrom(numpy_helper.from_array(values.astype(np.float16), table.name))
        read = node.output[0]
        node.output[0] = f"{read}.fp16"
        cast = helper.make_node("Cast", [node.output[0]], [read], f"{node.name}.fp32", to=TensorProto.FLOAT)
        graph.node.insert(place + 1, cast)
        break
    del graph.value_info[:]
    return made


def _moved(graph: onnx.GraphProto, given: str) -> set[str]:
    """The input, and what is the same in another shape or type."""
    found = {given}
    for node in graph.node:
        if node.op_type in _MOVES and node.input[0] in found:
            found.update(node.output)
    return found
