"""Simplify a large graph without its large weights, which come in at the end.

The weights of linear layers are nearly all of a transformer's bytes, and all that simplification would do with them is
to turn some of them around. So the exporter leaves weights out, and every copy that is made on the way is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.export.simplify import simplify

__all__ = ["simplify_with_weights"]

Weights = Mapping[str, NDArray[Any]]


def simplify_with_weights(model: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """As `simplify`, for a graph whose weights are inputs still; in the result they are constants.

    Args:
        model: it is not changed.
        weights: by the name of the graph input that each belongs to; those of no input are not used.

    Raises:
        ExportError: as `simplify`.
    """
    late = _linear(model.graph, weights)
    given = onnx.ModelProto()
    given.CopyFrom(model)
    names = [value.name for value in model.graph.input if value.name in weights]
    given.graph.initializer.extend(_tensor(weights[name], name) for name in names if name not in late)
    _drop_inputs(given.graph, set(names) - late)
    made = simplify(given)
    _attach(made.graph, {name: weights[name] for name in late})
    _drop_inputs(made.graph, late)
    return made


def _linear(graph: onnx.GraphProto, weights: Weights) -> set[str]:
    """The weights that are turned around, or multiplied as they are, and used in no other way."""
    readers: dict[str, set[tuple[str, int]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, set()).add((node.op_type, place))
    return {name for name in weights if readers.get(name) in ({("Transpose", 0)}, {("Gemm", 1)})}


def _drop_inputs(graph: onnx.GraphProto, names: set[str]) -> None:
    kept = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(kept)


def _attach(graph: onnx.GraphProto, weights: Weights) -> None:
    """Put in each weight as a constant; a turned one in the place of the node that would turn it."""
    kept, turned = [], set()
    for node in graph.node:
        if node.op_type != "Transpose" or node.input[0] not in weights:
            kept.append(node)
            continue
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
        graph.initializer.append(_tensor(weights[node.input[0]].transpose(order), node.output[0]))
        turned.add(node.input[0])
    graph.initializer.extend(_tensor(value, name) for name, value in weights.items() if name not in turned)
    del graph.node[:]
    graph.node.extend(kept)


def _tensor(values: NDArray[Any], name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values), name)
