"""ONNX Runtime: UINT8 activations with their own zero points, INT32 biases, integers stored behind every INT8 layer.

It fuses DequantizeLinear - layer - QuantizeLinear into one integer kernel: it wants a pair on every input and every
output of an INT8 layer. A product of matrices may write floating point instead (MatMulIntegerToFloat, QGemm); it
does where no INT8 layer reads what it writes, as in a transformer, where a bias, a residual or a GELU comes next:
nothing is rounded, and nothing is turned back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from edgeq.engine.onnxruntime import BACKEND, executed_operators
from edgeq.errors import QuantizeError
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import CARRIERS, FUSED_ACTIVATIONS
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.grid import Grid
from edgeq.quantize.int8.keep_float_regions import keep_float_regions
from edgeq.quantize.int8.pairs import pair
from edgeq.quantize.int8.pixels import PIXEL_GRID, PixelInput, take_pixels
from edgeq.quantize.int8.verify import int8_layers

__all__ = ["LOWERING", "OnnxRuntimeLowering", "carry_integers", "drop_saturated"]

_INTEGER_KERNELS: Final = ("MatMulIntegerToFloat", "QLinearConv", "QLinearMatMul", "QGemm")


class OnnxRuntimeLowering(Lowering):
    """What ONNX Runtime's integer kernels on a CPU want."""

    backend = BACKEND
    ranges_of: ClassVar[str] = BACKEND.name

    def prepare(self, graph: gs.Graph, pixels: PixelInput | None, int8: frozenset[str]) -> dict[str, Grid]:
        """The first convolution takes the image's own eight bits where it can (`edgeq.quantize.int8.pixels`)."""
        if pixels is None or not take_pixels(graph, pixels, int8):
            return {}
        return {f"{graph.inputs[0].name}.dq": PIXEL_GRID}

    def before_pairs(self, graph: gs.Graph, grids: dict[str, Grid], int8: frozenset[str]) -> None:
        """Activation functions that the grid's own saturation repeats go."""
        drop_saturated(graph, grids, int8)

    def after_pairs(self, graph: gs.Graph, grids: dict[str, Grid], int8: frozenset[str]) -> None:
        """Kernels find integers on both sides; layers kept in floating point stay so."""
        _store_before_activations(graph, grids, int8)
        carry_integers(graph, grids, int8)
        keep_float_regions(graph, int8)

    def check(self, graph: Path, plan: PrecisionPlan) -> None:
        """Each layer planned INT8 must have become an integer kernel."""
        planned = len(int8_layers(plan))
        operators = executed_operators(graph)
        found = sum(operators[kernel] for kernel in _INTEGER_KERNELS)
        if found != planned:
            raise QuantizeError(
                f"ONNX Runtime runs {found} layers with integer kernels, {planned} were planned",
                expected="one integer kernel for every INT8 layer",
                causes=("this ONNX Runtime has no integer kernel for a layer of the plan",),
                next_step="report this with the model and the version of ONNX Runtime",
            )


LOWERING: Final = OnnxRuntimeLowering()


def drop_saturated(graph: gs.Graph, grids: Mapping[str, Grid], int8: frozenset[str]) -> None:
    """Take out activations whose bounds are those of the UINT8 grid behind them: storing saturates there anyway.

    Args:
        graph: is changed.
        grids: tensor -> grid.
        int8: names of the layers planned INT8; only these are taken out.
    """
    for node in graph.nodes:
        grid = grids.get(node.outputs[0].name) if node.name in int8 and node.outputs else None
        if grid is None or not _saturates(node, grid):
            continue
        before, after = node.inputs[0], node.outputs[0]
        maker = before.inputs[0]
        node.outputs.clear()
        maker.outputs[maker.outputs.index(before)] = after


def _saturates(node: gs.Node, grid: Grid) -> bool:
    if node.op == "Relu":
        return grid.zero_point == 0
    if node.op != "Clip":
        return False
    bounds = [tensor.values if isinstance(tensor, gs.Constant) else None for tensor in node.inputs[1:3]]
    if len(bounds) < 2 or bounds[0] is None or bounds[1] is None:
        return False
    # A bound less than half a step inside the grid's end still rounds to that end.
    low, high = -grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale
    half = grid.scale / 2
    return bool(float(bounds[0]) < low + half and float(bounds[1]) > high - half)


def _store_before_activations(graph: gs.Graph, grids: Mapping[str, Grid], int8: frozenset[str]) -> None:
    """Where an activation is left, store its input too: an integer kernel writes integers or is none.

    On the grid of the activation's output nothing is lost by that: what saturates there would be clipped behind it.
    """
    for node in list(graph.nodes):
        left = node.op in FUSED_ACTIVATIONS and node.name in int8 and node.outputs
        grid = grids.get(node.outputs[0].name) if left else None
        if grid is not None:
            node.inputs[0] = pair(graph, node.inputs[0], grid)


def carry_integers(graph: gs.Graph, grids: Mapping[str, Grid], int8: frozenset[str]) -> None:
    """Let carriers move the integers themselves: both sides are on one grid, so the pairs between say nothing.

    Args:
        graph: with all pairs in; is changed.
        grids: tensor -> grid.
        int8: names of the layers planned INT8; only these are carriers.
    """
    for node in graph.nodes:
        if node.op not in CARRIERS or node.name not in int8:
            continue
        grid = grids[node.outputs[0].name]
        for slot, value in enumerate(node.inputs):
            if isinstance(value, gs.Variable) and value.inputs and value.inputs[0].op == "DequantizeLinear":
                node.inputs[slot] = value.inputs[0].inputs[0]
        if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
            node.inputs = [*node.inputs[:2], gs.Constant(f"{node.name}.fill", np.array(grid.zero_point, grid.dtype))]
        quantizer = node.outputs[0].outputs[0]
        node.outputs[0] = quantizer.outputs[0]
        quantizer.outputs.clear()
