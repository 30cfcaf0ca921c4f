"""The tensors of a transformer's blocks that decide whether eight bits are enough, found by structure.

An attention is a product of two computed tensors that reaches a softmax, and a product behind it (as in
`edgeq.model.graph.roles`); its sides are query and key, the softmax's output and the value. A GELU's output is what a
feed-forward linear layer reads behind another and a smooth function; a normalization's is what linear layers read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import onnx

from edgeq.errors import ModelError
from edgeq.model.graph.roles import Role, roles
from edgeq.plan.conditions import Surroundings

__all__ = ["BlockTensor", "TensorRole", "find_tensors"]

TensorRole = Literal["softmax", "GELU", "LayerNorm", "query", "key", "value"]

_MOVES: Final = frozenset(
    {
        *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"),
        *("Transpose", "Unsqueeze"),
    }
)
_BEFORE_SOFTMAX: Final = _MOVES | {"Add", "Div", "Mul", "Where"}  # scaling, bias and mask
_SMOOTH: Final = frozenset({"Erf", "FastGelu", "Gelu", "QuickGelu", "Sigmoid", "Tanh"})
_FORMULA: Final = _SMOOTH | {"Add", "Cast", "Div", "Identity", "Mul", "Pow", "Sub"}
_NORMALIZATIONS: Final = ("LayerNormalization", "SimplifiedLayerNormalization")


@dataclass(frozen=True)
class BlockTensor:
    """One tensor.

    Attributes:
        tensor: its name.
        role: what it is.
        block: number of the transformer block, from 0; None for a normalization before or behind all of them.
        foldable: scales of its channels can be folded away: the normalization has a weight and nothing but linear
            layers reads it.
    """

    tensor: str
    role: TensorRole
    block: int | None
    foldable: bool = False


@dataclass(frozen=True)
class _Attention:
    """Places of an attention: the softmax's index among the nodes, and the tensors of its two products."""

    place: int
    query: str
    key: str
    softmax: str
    value: str


def find_tensors(model: onnx.ModelProto) -> tuple[BlockTensor, ...]:
    """The tensors of all blocks, in the graph's order, each once.

    Args:
        model: FP32 and folded, with uniquely named nodes.

    Raises:
        ModelError: the graph has no attention.
    """
    graph, parts = Surroundings.of(model), roles(model)
    attentions = tuple(_attentions(model, graph))
    if not attentions:
        raise ModelError(
            "the graph has no attention that is written as products around a softmax",
            expected="a vision transformer",
            next_step="for other networks: edgeq sensitivity without --kind vit",
        )
    found = {
        tensor.tensor: tensor
        for tensor in (
            *_attention_tensors(attentions),
            *_gelus(model, graph, parts, attentions),
            *_norms(model, graph, parts, attentions),
        )
    }
    made = (output for node in model.graph.node for output in node.output)
    return tuple(found[name] for name in made if name in found)


def _attentions(model: onnx.ModelProto, graph: Surroundings) -> Iterator[_Attention]:
    for place, node in enumerate(model.graph.node):
        if node.op_type != "Softmax":
            continue
        scores = [met for met in _back(graph, node.input[0], _BEFORE_SOFTMAX) if _is_product(met, graph)]
        mixes = [met for met in _ahead(graph, node, _MOVES) if _is_product(met, graph)]
        if scores and mixes:
            query, key = graph.values(scores[0])
            sides = graph.values(mixes[0])
            behind = {side: any(met is node for met in _back(graph, side, _MOVES)) for side in sides}
            yield _Attention(
                place,
                query,
                key,
                softmax=next(side for side in sides if behind[side]),
                value=next((side for side in sides if not behind[side]), sides[-1]),
            )


def _attention_tensors(attentions: tuple[_Attention, ...]) -> Iterator[BlockTensor]:
    for block, attention in enumerate(attentions):
        yield BlockTensor(attention.query, "query", block)
        yield BlockTensor(attention.key, "key", block)
        yield BlockTensor(attention.softmax, "softmax", block)
        yield BlockTensor(attention.value, "value", block)


def _gelus(
    model: onnx.ModelProto, graph: Surroundings, parts: dict[str, Role], attentions: tuple[_Attention, ...]
) -> Iterator[BlockTensor]:
    """What feed-forward linear layers read behind a smooth function of one other; a gate's product is none."""
    for place, node in enumerate(model.graph.node):
        if parts.get(node.name) != "feed-forward":
            continue
        tensor = graph.values(node)[0]
        met = list(_back(graph, tensor, _FORMULA))
        begun = [before for before in met if before.op_type not in _FORMULA]
        if len(begun) == 1 and _is_linear(begun[0], graph) and any(before.op_type in _SMOOTH for before in met):
            yield BlockTensor(tensor, "GELU", _block(place, attentions))


def _norms(
    model: onnx.ModelProto, graph: Surroundings, parts: dict[str, Role], attentions: tuple[_Attention, ...]
) -> Iterator[BlockTensor]:
    """Outputs of normalizations: of the block whose attention or feed-forward part they lead to."""
    places = {node.name: place for place, node in enumerate(model.graph.node)}
    for node in model.graph.node:
        if node.op_type not in _NORMALIZATIONS:
            continue
        readers = [met for met in _ahead(graph, node, _MOVES) if met.op_type not in _MOVES | {"Shape"}]
        ways = [(parts.get(met.name), places[met.name]) for met in readers]
        attends = [place for role, place in ways if role in ("attention query/key", "attention value/output")]
        feeds = [place for role, place in ways if role == "feed-forward"]
        block = _next_block(attends[0], attentions) if attends else _block(feeds[0], attentions) if feeds else None
        linear = bool(readers) and all(_is_linear(met, graph) for met in readers)
        yield BlockTensor(node.output[0], "LayerNorm", block, foldable=linear and len(node.input) > 1)


def _is_linear(node: onnx.NodeProto, graph: Surroundings) -> bool:
    """Whether a node is a linear layer: a product of one computed tensor with a constant."""
    return node.op_type in ("Gemm", "MatMul") and len(graph.values(node)) == 1


def _is_product(node: onnx.NodeProto, graph: Surroundings) -> bool:
    return node.op_type == "MatMul" and len(graph.values(node)) == 2


def _block(place: int, attentions: tuple[_Attention, ...]) -> int:
    """The block of a node behind its attention."""
    return max(sum(attention.place < place for attention in attentions) - 1, 0)


def _next_block(place: int, attentions: tuple[_Attention, ...]) -> int:
    """The block of a node before its softmax."""
    return min(sum(attention.place < place for attention in attentions), len(attentions) - 1)


def _back(graph: Surroundings, tensor: str, passed: frozenset[str]) -> Iterator[onnx.NodeProto]:
    """The nodes on every way back from a tensor: those that are passed, and the first that are not."""

    def before(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        yield from (graph.producer[name] for name in graph.values(node) if name in graph.producer)

    return _walk([graph.producer[tensor]] if tensor in graph.producer else [], before, passed)


def _ahead(graph: Surroundings, start: onnx.NodeProto, passed: frozenset[str]) -> Iterator[onnx.NodeProto]:
    """The nodes on every way on from a node: those that are passed, and the first that are not."""

    def behind(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        yield from (user for name in node.output for user in graph.consumers.get(name, []))

    return _walk(list(behind(start)), behind, passed)


def _walk(
    waiting: list[onnx.NodeProto],
    following: Callable[[onnx.NodeProto], Iterator[onnx.NodeProto]],
    passed: frozenset[str],
) -> Iterator[onnx.NodeProto]:
    seen: set[str] = set()
    while waiting:
        node = waiting.pop(0)
        if node.name in seen:
            continue
        seen.add(node.name)
        yield node
        if node.op_type in passed:
            waiting += following(node)
