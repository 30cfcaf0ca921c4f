"""What a graph would cost, from cheap facts: before its file is parsed, and before its functions are written out.

The largest published vision networks have some ten thousand nodes. Functions that call each other double with each
level, and a loop runs as often as its file says.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.errors import LimitError
from edgeq.model.graph.protobuf_fields import message_fields
from edgeq.model.graph.tensors import attribute_graphs

if TYPE_CHECKING:
    import onnx

__all__ = ["MOST_NODES", "check_costs", "check_node_count"]

MOST_NODES: Final = 50_000
"""Of a graph, with those of the graphs inside of it, once its functions are written out: each is looked at many times,
which takes about a millisecond in all."""

MOST_ROUNDS: Final = 1_000_000
"""Of a loop whose number of rounds the file says, times those of the loops around it."""

_MOST_DEPTH: Final = 16
_LARGEST: Final = 1 << 62
_GRAPH, _FUNCTION = 7, 25  # of a ModelProto
_NODE_OF_GRAPH, _NODE_OF_FUNCTION = 1, 7
_NEXT: Final = "export the model to ONNX again, without what is not needed to look at an image"

_Functions = Mapping[tuple[str, str, str], "onnx.FunctionProto"]


def check_node_count(data: bytes | mmap.mmap, path: Path) -> None:
    """Raise LimitError where an ONNX file has more than MOST_NODES nodes in one graph, without parsing it.

    Args:
        data: of the file; what is no ONNX is left to the parser.
        path: where they came from.
    """
    count = 0
    try:
        for outer in message_fields(data, 0, len(data)):
            wanted = {_GRAPH: _NODE_OF_GRAPH, _FUNCTION: _NODE_OF_FUNCTION}.get(outer.number)
            if wanted is None:
                continue
            for field in message_fields(data, outer.value, outer.stop):
                count += field.number == wanted
                if count > MOST_NODES:
                    raise _too_many(path, f"more than {MOST_NODES:,}")
    except (ValueError, IndexError):
        return


def check_costs(model: onnx.ModelProto, path: Path) -> None:
    """Raise LimitError where a model has too many nodes, too deep in each other, or loops that never end.

    Args:
        model: as it was parsed; its functions are not written out yet.
        path: where it came from.
    """
    functions = {(each.domain, each.name, getattr(each, "overload", "")): each for each in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    for key in functions:
        _function_size(key, functions, sizes, (), path)
    count = _size(model.graph.node, functions, sizes, (), 0, path)
    if count > MOST_NODES:
        raise _too_many(path, f"{count:,}" if count < _LARGEST else f"more than {_LARGEST:,}")
    _check_loops(model.graph, {}, 1, path)
    for function in functions.values():
        _check_loops(function, {}, 1, path)


def _function_size(
    key: tuple[str, str, str],
    functions: _Functions,
    sizes: dict[tuple[str, str, str], int],
    above: tuple[tuple[str, str, str], ...],
    path: Path,
) -> int:
    """Nodes of a function once those that it calls are written out; remembered, so that each is counted once."""
    if key in sizes:
        return sizes[key]
    if key in above or len(above) > _MOST_DEPTH * _MOST_DEPTH:
        raise LimitError(f"{path}: its function {key[1]!r} calls itself, or too many call each other", next_step=_NEXT)
    sizes[key] = _size(functions[key].node, functions, sizes, (*above, key), 0, path)
    return sizes[key]


def _size(
    nodes: Iterable[onnx.NodeProto],
    functions: _Functions,
    sizes: dict[tuple[str, str, str], int],
    above: tuple[tuple[str, str, str], ...],
    depth: int,
    path: Path,
) -> int:
    """Nodes, with those in them, once functions are written out; at most _LARGEST."""
    if depth > _MOST_DEPTH:
        raise LimitError(f"{path}: its graphs lie more than {_MOST_DEPTH} deep in each other", next_step=_NEXT)
    count = 0
    for node in nodes:
        key = (node.domain, node.op_type, getattr(node, "overload", ""))
        count += _function_size(key, functions, sizes, above, path) if key in functions else 1
        for attribute in node.attribute:
            for graph in attribute_graphs(attribute):
                count += _size(graph.node, functions, sizes, above, depth + 1, path)
    return min(count, _LARGEST)


def _check_loops(graph: onnx.GraphProto | onnx.FunctionProto, known: dict[str, int], rounds: int, path: Path) -> None:
    """Raise LimitError where loops whose rounds are constants go round too often.

    Args:
        graph: with its nodes.
        known: integers by their names, from the graphs around.
        rounds: of the loops around.
        path: where it came from.
    """
    known = {**known, **_integers(graph)}
    for node in graph.node:
        inside = rounds
        if node.op_type == "Loop" and node.input and node.input[0] in known:
            inside = rounds * max(known[node.input[0]], 1)
            if inside > MOST_ROUNDS:
                raise LimitError(
                    f"{path}: its loop {node.name or node.output[0]!r} goes round {inside:,} times",
                    expected=f"at most {MOST_ROUNDS:,}",
                    next_step=_NEXT,
                )
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_loops(attribute.g, known, inside, path)


def _integers(graph: onnx.GraphProto | onnx.FunctionProto) -> dict[str, int]:
    """Single integers that a graph holds, as initializers or as Constants."""
    from onnx import TensorProto, numpy_helper

    tensors = {tensor.name: tensor for tensor in getattr(graph, "initializer", ())}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.output:
            if node.attribute[0].name == "value":
                tensors[node.output[0]] = node.attribute[0].t
            elif node.attribute[0].name == "value_int":
                found[node.output[0]] = node.attribute[0].i
    for name, tensor in tensors.items():
        if tensor.data_type == TensorProto.INT64 and list(tensor.dims) in ([], [1]) and not tensor.external_data:
            try:
                found[name] = int(numpy_helper.to_array(tensor).reshape(-1)[0])
            except (ValueError, IndexError):  # cut short, of which more is said later
                continue
    return found


def _too_many(path: Path, count: str) -> LimitError:
    most = f"at most {MOST_NODES:,}, functions written out"
    return LimitError(f"{path} has {count} nodes", expected=most, next_step=_NEXT)
