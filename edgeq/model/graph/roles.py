"""What the linear layers of a transformer do, found by structure in the graph and not by name.

An attention is a MatMul of two computed tensors whose result reaches a Softmax, and a MatMul behind it:

    x -> query -> ... \\
                       MatMul -> ... -> Softmax -> ... \\
    x -> key ---> ... /                                  MatMul -> ... -> output -> ...
    x -> value ----------------------------------> ... /

A projection that makes query or key and the value as well (a fused one) counts as query/key, the more sensitive part.
Two linear layers with nothing but a function of each number between them are feed-forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edgeq.model.graph.head import head_nodes
from edgeq.model.graph.tensors import constant_names, node_names

if TYPE_CHECKING:
    import onnx

__all__ = ["Role", "roles"]

Role = Literal["attention query/key", "attention value/output", "feed-forward"]

_QUERY_KEY: Final = "attention query/key"
_VALUE_OUTPUT: Final = "attention value/output"
_FEED_FORWARD: Final = "feed-forward"

_MOVES: Final = frozenset(
    {
        *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
        *("Transpose", "Unsqueeze"),
    }
)
# Scaling, bias, mask and rotary embedding; some networks normalize query and key.
_BETWEEN: Final = _MOVES | {"Add", "Div", "LayerNormalization", "Mul", "Neg", "Sub", "Where"}
_EACH_NUMBER: Final = frozenset(
    {
        *("Add", "Cast", "Clip", "Div", "Elu", "Erf", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
        *("LeakyRelu", "Mish", "Mul", "PRelu", "Pow", "QuickGelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign"),
        *("Sub", "Tanh"),
    }
)
_LINEAR: Final = ("Gemm", "MatMul")


def roles(model: onnx.ModelProto) -> dict[str, Role]:
    """The role of each linear layer of a transformer, by node name (as `node_names` gives it).

    The head has none, nor has a linear layer that is neither in an attention nor feed-forward. A network without
    attention has no roles at all.
    """
    graph = _Graph.of(model)
    query_key, value_output = _attention(graph)
    if not query_key:
        return {}
    head = set(head_nodes(model))
    found: dict[int, Role] = dict.fromkeys(_feed_forward(graph), _FEED_FORWARD)
    found |= dict.fromkeys(value_output, _VALUE_OUTPUT)
    found |= dict.fromkeys(query_key, _QUERY_KEY)
    return {graph.names[index]: role for index, role in sorted(found.items()) if graph.names[index] not in head}


@dataclass(frozen=True)
class _Graph:
    """The links between the nodes, which go by their index."""

    nodes: tuple[onnx.NodeProto, ...]
    names: tuple[str, ...]
    fixed: frozenset[str]
    producer: dict[str, int]
    consumers: dict[str, list[int]]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Graph:
        nodes = tuple(model.graph.node)
        consumers: dict[str, list[int]] = {}
        for index, node in enumerate(nodes):
            for name in node.input:
                consumers.setdefault(name, []).append(index)
        producer = {name: index for index, node in enumerate(nodes) for name in node.output}
        return cls(nodes, node_names(model), constant_names(model.graph), producer, consumers)

    def computed(self, index: int) -> list[str]:
        """The inputs of a node that depend on the network's input."""
        return [name for name in self.nodes[index].input if name and name not in self.fixed]

    def is_linear(self, index: int) -> bool:
        """A product of one computed tensor with a constant one."""
        return self.nodes[index].op_type in _LINEAR and len(self.computed(index)) == 1

    def is_product(self, index: int) -> bool:
        """A product of two computed tensors."""
        return self.nodes[index].op_type == "MatMul" and len(self.computed(index)) == 2

    def back(self, tensor: str, ops: frozenset[str]) -> Iterator[int]:
        """The first nodes on every way back from `tensor` whose operator is not one of `ops`."""
        waiting, seen = [tensor], {tensor}
        while waiting:
            index = self.producer.get(waiting.pop())
            if index is None:
                continue
            if self.nodes[index].op_type not in ops:
                yield index
                continue
            following = [name for name in self.computed(index) if name not in seen]
            seen.update(following)
            waiting += following

    def ahead(self, start: int, ops: frozenset[str], *, sums: bool = True) -> Iterator[int]:
        """The first nodes on every way on from a node whose operator is not one of `ops`.

        Args:
            start: index of the node.
            ops: operators that are passed.
            sums: pass additions of two computed tensors too.
        """
        waiting, seen = [start], {start}
        while waiting:
            users = [user for name in self.nodes[waiting.pop()].output for user in self.consumers.get(name, [])]
            for user in users:
                if user in seen:
                    continue
                seen.add(user)
                is_sum = self.nodes[user].op_type == "Add" and len(self.computed(user)) == 2
                if self.nodes[user].op_type not in ops or (is_sum and not sums):
                    yield user
                else:
                    waiting.append(user)


def _attention(graph: _Graph) -> tuple[set[int], set[int]]:
    """The linear layers that make query and key, and those that make the value and the output."""
    query_key: set[int] = set()
    value_output: set[int] = set()
    for softmax in (index for index, node in enumerate(graph.nodes) if node.op_type == "Softmax"):
        scores = {index for index in graph.back(graph.nodes[softmax].input[0], _BETWEEN) if graph.is_product(index)}
        mixed = {index for index in graph.ahead(softmax, _MOVES) if graph.is_product(index)}
        if not scores or not mixed:
            continue
        query_key.update(_makers(graph, {name for index in scores for name in graph.computed(index)}))
        values = {name for index in mixed for name in graph.computed(index) if not _is_behind(graph, name, softmax)}
        value_output.update(_makers(graph, values))
        outputs = (user for index in mixed for user in graph.ahead(index, _MOVES))
        value_output.update(index for index in outputs if graph.is_linear(index))
    return query_key, value_output


def _makers(graph: _Graph, tensors: set[str]) -> Iterator[int]:
    """The linear layers that make some tensors."""
    for tensor in tensors:
        yield from (index for index in graph.back(tensor, _BETWEEN) if graph.is_linear(index))


def _is_behind(graph: _Graph, tensor: str, softmax: int) -> bool:
    return softmax in graph.back(tensor, _MOVES)


def _feed_forward(graph: _Graph) -> Iterator[int]:
    """Pairs of linear layers with nothing but a function of each number, or a gate, between them."""
    for index in range(len(graph.nodes)):
        if graph.is_linear(index):
            behind = [user for user in graph.ahead(index, _EACH_NUMBER, sums=False) if graph.is_linear(user)]
            if behind:
                yield from (index, *behind)
