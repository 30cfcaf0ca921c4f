"""How a graph is quantized for a backend: one file `edgeq/quantize/int8/NAME.py`, and a line in `registry`.

The file holds a `LOWERING`, an object of a class that begins with `Lowering`. Each method here is one question in which
backends differ, with the answer that most give; `edgeq.quantize.int8.qdq` asks them in this order:

0. `planned`: which of the planned INT8 layers has it a kernel for?
1. `prepare`: may the graph be changed before anything is placed (such as an input that takes pixels)?
2. `reads`: which of a layer's tensors are read through a Q/DQ pair (`also_reads`: of one in floating point)? `stores`:
   is what it writes stored as integers?
3. `grids`: which grid has each of these tensors? The ranges are those that calibration chose for `ranges_of`.
4. `integer_bias`: is a bias stored as INT32 on the grid of the accumulator, or left in FP32?
5. `before_pairs`, `after_pairs`: what else must the backend's own fusions find, or not find?
6. `types`: which float types has the graph beside its pairs?
7. `check`: is each planned layer an integer kernel in what the backend makes of the file?

`edgeq.quantize.int8.verify` reads each graph back against the plan by `activation_types` and `unquantized_inputs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import onnx
import onnx_graphsurgeon as gs

from edgeq.calibrate.scales import TensorRange
from edgeq.engine.base import EngineBackend
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.grid import Grid
from edgeq.quantize.int8.grids import unsigned_grids
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.placement import Placement

__all__ = ["Lowering"]


class Lowering:
    """The usual answers: UINT8 activations with a pair on every input and output, INT32 biases.

    Attributes:
        backend: that runs the graph.
        ranges_of: name of the backend whose choice of ranges it takes: its own, unless another's grids are the same.
        activation_types: ONNX element types that an INT8 layer may read.
        integer_bias: biases are INT32 on the accumulator's grid.
        stores_outputs: what an INT8 layer writes is stored as integers, and read as that by every layer.
        half_scales: scales are numbers of FP16 (`edgeq.quantize.int8.grid.half_scale`).
        always: its graph is in every bundle; otherwise where the backend is asked for.
    """

    backend: ClassVar[EngineBackend]
    ranges_of: ClassVar[str]
    activation_types: ClassVar[frozenset[int]] = frozenset({onnx.TensorProto.UINT8})
    integer_bias: ClassVar[bool] = True
    stores_outputs: ClassVar[bool] = True
    half_scales: ClassVar[bool] = False
    always: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The backend's."""
        return self.backend.name

    @property
    def file(self) -> str:
        """The graph's file name in a bundle."""
        return self.backend.graph

    def planned(self, model: onnx.ModelProto, plan: PrecisionPlan) -> PrecisionPlan:  # noqa: ARG002
        """The plan that the backend's graph follows: the one given, with layers in FP16 that it has no INT8 kernel for.

        Args:
            model: FP32, with the node names of `plan`; weights' shapes are looked at, not their values.
            plan: for every backend. One that this method gave is given back as it is.
        """
        return plan

    def prepare(self, graph: gs.Graph, pixels: PixelInput | None, int8: frozenset[str]) -> dict[str, Grid]:  # noqa: ARG002
        """Change the graph before pairs are placed.

        Args:
            graph: FP32; may be changed.
            pixels: where the graph's input comes from; None where that is not known.
            int8: names of the layers planned INT8.

        Returns:
            Grids of tensors that stand behind a DequantizeLinear from now on.
        """
        return {}

    def reads(
        self,
        node: gs.Node,  # noqa: ARG002
        tensors: Sequence[gs.Variable],
        int8: frozenset[str],  # noqa: ARG002
    ) -> Sequence[gs.Variable]:
        """Which of an INT8 layer's tensors it reads through a pair.

        Args:
            node: the layer.
            tensors: its variable inputs that a pair could stand on.
            int8: names of the layers planned INT8.
        """
        return tensors

    def also_reads(self, node: gs.Node) -> Sequence[gs.Variable]:  # noqa: ARG002
        """Which tensors of a layer planned FP16 it reads through a pair, because its kernel takes integers there."""
        return ()

    def grids(self, ranges: dict[str, TensorRange], placement: Placement) -> dict[str, Grid]:
        """A grid for each tensor, from its range; those that must share one have been given one range already."""
        return unsigned_grids(ranges, placement)

    def before_pairs(self, graph: gs.Graph, grids: dict[str, Grid], int8: frozenset[str]) -> None:
        """Change the graph when weights are quantized and before pairs are put in.

        Args:
            graph: is changed.
            grids: tensor -> grid.
            int8: names of the layers planned INT8.
        """

    def after_pairs(self, graph: gs.Graph, grids: dict[str, Grid], int8: frozenset[str]) -> None:
        """Change the graph once all pairs are in; as `before_pairs`."""

    def types(self, lowered: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:  # noqa: ARG002
        """The graph as it is stored: with the float types beside its pairs that the backend keeps to.

        Args:
            lowered: as `edgeq.quantize.int8.qdq.lower` made it, float32 beside its pairs.
            plan: for that graph.
        """
        return lowered

    def unquantized_inputs(self, node: onnx.NodeProto) -> int:  # noqa: ARG002
        """How many inputs of an INT8 layer may stay unquantized."""
        return 0

    def check(self, graph: Path, plan: PrecisionPlan) -> None:
        """Raise QuantizeError unless the backend runs each planned layer of the file with integers.

        A backend that cannot be asked here (TensorRT, without a GPU) leaves it to the device.
        """
