"""A graph with one layer changed: INT8 in an FP32 graph, or left in floating point in an INT8 graph.

Only the pieces that a change touches are made again. Before and behind them the unchanged graph is run, and every
tensor keeps the grid that it has in the whole INT8 graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import helper

from edgeq.calibrate.scales import Scales, TensorRange
from edgeq.plan.conditions import FUSED_ACTIVATIONS
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.grid import Grid
from edgeq.quantize.int8.grids import choose_grids
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import lower, placement_of
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.search.pieces import Cut, Cutter

__all__ = ["Variant", "Workbench"]

_SIGNED_STEPS = 127
"""On either side of zero."""


@dataclass(frozen=True)
class Variant:
    """One layer changed.

    Attributes:
        layer: its name.
        source, target: the cuts between which the graph differs from the unchanged one.
        plan: of the nodes between them.
    """

    layer: str
    source: str
    target: str
    plan: PrecisionPlan


class Workbench:
    """Makes variants of one graph.

    Args:
        model: FP32, folded, with the node names of `plan`.
        plan: INT8, for that graph.
        scales: for that graph.
        pixels: as in `lower`.
        lowering: whose INT8 graph it is.

    Attributes:
        whole: the FP32 graph and its cuts.
        int8: the INT8 graph and its cuts.
        cuts: those of the FP32 graph that are cuts of the INT8 graph too.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        plan: PrecisionPlan,
        scales: Scales,
        pixels: PixelInput | None,
        lowering: Lowering = USUAL,
    ) -> None:
        plan = lowering.planned(model, plan)
        self.whole = Cutter(model)
        self.int8 = Cutter(lower(model, plan, scales, lowering, pixels=pixels))
        shared = {cut.tensor for cut in self.int8.cuts}
        self.cuts = tuple(cut for cut in self.whole.cuts if cut.tensor in shared)
        self._plan = plan
        self._pixels = pixels
        self._lowering = lowering
        grids = choose_grids(placement_of(model, plan, lowering), scales, lowering)
        self._scales = _hold(scales, grids, lowering)

    def alone(self, layer: str) -> Variant:
        """The FP32 graph with this layer, and the activation that it applies, in INT8."""
        return self.together((layer,))

    def together(self, layers: Collection[str]) -> Variant:
        """As `alone`, for several layers at once; it goes by the name of the first in the graph's order."""
        nodes = frozenset[str]().union(*map(self._with_activation, layers))
        others = frozenset(decision.layer for decision in self._plan.decisions) - nodes
        first = next(decision.layer for decision in self._plan.decisions if decision.layer in nodes)
        return self._variant(first, nodes, _in_floating_point(self._plan, others))

    def released(self, layer: str) -> Variant:
        """The INT8 graph with this layer, and the activation that it applies, in floating point."""
        nodes = self._with_activation(layer)
        # What reads the layer is made again as well: it decides whether the tensor between them is stored.
        touched = nodes | _readers(self.whole.model, nodes)
        return self._variant(layer, touched, _in_floating_point(self._plan, nodes))

    def make(self, variant: Variant, ranges: Mapping[str, TensorRange] | None = None) -> onnx.ModelProto:
        """The model `source` -> `target` of a variant, float32 both; what it writes is stored as in the whole graph.

        Args:
            variant: of this graph.
            ranges: of some tensors, in the place of those that they have in the whole graph.
        """
        piece = self.whole.extract(variant.source, variant.target)
        if variant.target != self.cuts[-1].tensor:
            _read_target(piece)  # so that the target is no graph output, which would never be stored
        pixels = self._pixels if variant.source == self.cuts[0].tensor else None
        scales = _hold_ranges(self._scales, ranges, self._lowering) if ranges else self._scales
        return lower(piece, variant.plan, scales, self._lowering, pixels=pixels)

    def _with_activation(self, layer: str) -> frozenset[str]:
        """An INT8 layer, and the activation that it applies while it writes."""
        int8 = self._plan.layers(Precision.INT8)
        nodes = self.whole.model.graph.node
        written = {name for node in nodes if node.name == layer for name in node.output}
        applied = (node for node in nodes if node.op_type in FUSED_ACTIVATIONS and node.input[0] in written)
        return frozenset({layer, *(node.name for node in applied if node.name in int8)})

    def _variant(self, layer: str, nodes: frozenset[str], plan: PrecisionPlan) -> Variant:
        order = self.whole.model.graph.node
        positions = [index for index, node in enumerate(order) if node.name in nodes]
        source = max((cut for cut in self.cuts if cut.position <= min(positions)), key=_position)
        target = min((cut for cut in self.cuts if cut.position > max(positions)), key=_position)
        inside = {node.name for node in order[source.position : target.position]}
        decisions = tuple(decision for decision in plan.decisions if decision.layer in inside)
        return Variant(layer, source.tensor, target.tensor, plan.model_copy(update={"decisions": decisions}))


def _in_floating_point(plan: PrecisionPlan, layers: frozenset[str]) -> PrecisionPlan:
    """The plan with `layers` in FP32 and every other decision as it is."""
    decisions = (
        decision.model_copy(update={"precision": Precision.FP32}) if decision.layer in layers else decision
        for decision in plan.decisions
    )
    return plan.model_copy(update={"decisions": tuple(decisions)})


def _position(cut: Cut) -> int:
    return cut.position


def _hold(scales: Scales, grids: dict[str, Grid], lowering: Lowering) -> Scales:
    """Scales that give each tensor of `grids` that very grid, whatever it is placed beside."""
    return _hold_ranges(scales, {name: _range(grid) for name, grid in grids.items()}, lowering)


def _range(grid: Grid) -> TensorRange:
    """The range that a grid is made of."""
    if grid.dtype == "int8":
        amax = _SIGNED_STEPS * grid.scale
        return TensorRange(amax=amax, low=-amax, high=amax)
    low, high = -grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale
    return TensorRange(amax=max(-low, high), low=low, high=high)


def _hold_ranges(scales: Scales, ranges: Mapping[str, TensorRange], lowering: Lowering) -> Scales:
    """Scales that give each tensor of `ranges` that very range."""
    method, tensors = scales.method_for(lowering.ranges_of), dict(scales.tensors)
    for name, kept in ranges.items():
        tensors[name] = tensors[name].model_copy(update={"ranges": {method: kept}})
    return scales.model_copy(update={"tensors": tensors})


def _readers(model: onnx.ModelProto, nodes: frozenset[str]) -> frozenset[str]:
    written = {name for node in model.graph.node if node.name in nodes for name in node.output}
    return frozenset(node.name for node in model.graph.node if written.intersection(node.input))


def _read_target(piece: onnx.ModelProto) -> None:
    """Let an Identity read the piece's output, and give what it writes instead."""
    output = piece.graph.output[0]
    name = f"{output.name}.out"
    piece.graph.node.append(helper.make_node("Identity", [output.name], [name], name=name))
    output.name = name
