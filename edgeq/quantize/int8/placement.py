"""Where the Q/DQ pairs go, for each backend, and which tensors share a grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import CARRIERS, FUSED_ACTIVATIONS, POOLS, PRODUCTS, STORED_IN_INT8

if TYPE_CHECKING:
    from edgeq.quantize.int8.base import Lowering

__all__ = ["Placement", "place", "unite"]


@dataclass(frozen=True)
class Placement:
    """The Q/DQ pairs of one lowering.

    Attributes:
        tensors: names of the tensors that get a pair, in the graph's order.
        ranged: those that need a range: these, and whatever else an INT8 layer writes for layers inside the graph.
        uses: tensor -> names of the layers that read the pair's output instead of the tensor.
        same_grid: sets of tensors on one scale and zero point, because a layer between them computes nothing.
        same_scale: pairs of tensors on one scale, the two sides of an addition.
    """

    tensors: tuple[str, ...]
    ranged: tuple[str, ...]
    uses: dict[str, frozenset[str]]
    same_grid: tuple[frozenset[str], ...]
    same_scale: tuple[frozenset[str], ...]

    def groups(self) -> list[frozenset[str]]:
        """The sets of tensors that have one scale, for either reason."""
        return unite((*self.same_grid, *self.same_scale))


def place(graph: gs.Graph, plan: PrecisionPlan, lowering: Lowering) -> Placement:
    """Choose the pairs of a graph for a backend.

    Args:
        graph: FP32, folded, nodes named as in `plan`.
        plan: for that graph.
        lowering: of the backend.
    """
    int8, half = plan.layers(Precision.INT8), plan.layers(Precision.FP16)
    layers = [node for node in graph.nodes if node.name in int8 and node.op not in FUSED_ACTIVATIONS]
    inputs = {node.name: tuple(_read(node, int8, lowering)) for node in layers}
    inputs |= {node.name: tuple(lowering.also_reads(node)) for node in graph.nodes if node.name in half}
    read = {tensor.name for tensors in inputs.values() for tensor in tensors}
    given = {tensor.name for tensor in graph.outputs}
    written = {_written(node, int8).name for node in layers} - given
    stored = {_written(node, int8).name for node in layers if _stores(node, int8, read)} - given
    in_pairs = read | stored if lowering.stores_outputs else read
    tensors = tuple(name for name in _in_order(graph) if name in in_pairs)
    users = _users(graph, inputs, stored if lowering.stores_outputs else set())
    return Placement(
        tensors=tensors,
        ranged=tuple(name for name in _in_order(graph) if name in read | written),
        uses={name: frozenset(users.get(name, ())) for name in tensors},
        same_grid=tuple(unite(_carried(layers, inputs, int8))),
        same_scale=tuple(_added(layers, inputs)) if plan.shared_add else (),
    )


def _read(node: gs.Node, int8: frozenset[str], lowering: Lowering) -> Iterator[gs.Variable]:
    """The tensors that an INT8 layer reads through a pair."""
    values = [tensor for tensor in node.inputs if isinstance(tensor, gs.Variable) and not _is_dequantized(tensor)]
    if node.op in STORED_IN_INT8 or node.op in POOLS or node.op in CARRIERS - {"Concat"}:
        values = values[:1]
    yield from lowering.reads(node, values, int8)


def _is_dequantized(tensor: gs.Variable) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == "DequantizeLinear"


def _written(node: gs.Node, int8: frozenset[str]) -> gs.Variable:
    """What an INT8 layer writes, behind the activation that it applies itself."""
    output = node.outputs[0]
    after = output.outputs[0] if len(output.outputs) == 1 else None
    if after is not None and after.op in FUSED_ACTIVATIONS and after.name in int8:
        return after.outputs[0]
    return output


def _stores(node: gs.Node, int8: frozenset[str], read: set[str]) -> bool:
    """Whether an INT8 layer writes integers where they are stored; `read` names what INT8 layers read."""
    output = _written(node, int8)
    return node.op not in PRODUCTS or output is not node.outputs[0] or output.name in read


def _in_order(graph: gs.Graph) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.inputs)
    yield from (tensor.name for node in graph.nodes for tensor in node.outputs)


def _users(graph: gs.Graph, inputs: dict[str, tuple[gs.Variable, ...]], nothing_else: set[str]) -> dict[str, set[str]]:
    """The layers that read a pair's output, by tensor.

    Of what an INT8 layer stores (`nothing_else`), nothing else is left to read. Otherwise a
    floating-point layer reads the exact tensor: a residual beside INT8 layers is not rounded.
    """
    users: dict[str, set[str]] = {}
    for node in graph.nodes:
        planned = {value.name for value in inputs.get(node.name, ())}
        reads = {value.name for value in node.inputs}
        for tensor in planned | (reads & nothing_else):
            users.setdefault(tensor, set()).add(node.name)
    return users


def _carried(
    layers: list[gs.Node], inputs: dict[str, tuple[gs.Variable, ...]], int8: frozenset[str]
) -> Iterator[frozenset[str]]:
    for node in layers:
        if node.op in CARRIERS:
            yield frozenset({tensor.name for tensor in inputs[node.name]} | {_written(node, int8).name})


def _added(layers: list[gs.Node], inputs: dict[str, tuple[gs.Variable, ...]]) -> Iterator[frozenset[str]]:
    for node in layers:
        names = frozenset(tensor.name for tensor in inputs[node.name])
        if node.op == "Add" and len(names) == 2:
            yield names


def unite(sets: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Join the sets that have a member in common."""
    joined: list[frozenset[str]] = []
    for members in sets:
        touching = [other for other in joined if other & members]
        joined = [other for other in joined if not other & members] + [members.union(*touching)]
    return joined
