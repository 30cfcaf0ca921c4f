"""QuantizeLinear/DequantizeLinear pairs: one, all of a placement, and stored integers behind a DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from edgeq.quantize.int8.grid import Grid
from edgeq.quantize.int8.placement import Placement

__all__ = ["dequantized", "insert_pairs", "pair"]


def dequantized(graph: gs.Graph, name: str, integers: np.ndarray, scale: np.ndarray, axis: int | None) -> gs.Variable:
    """A stored integer tensor behind its DequantizeLinear.

    Args:
        graph: is changed.
        name: that the new tensors begin with.
        integers: INT8 or INT32, of any shape.
        scale: float32, a scalar or one for each index of `axis`.
        axis: of the scales; None for one scale.
    """
    output = gs.Variable(f"{name}.dq", dtype=np.float32, shape=integers.shape)
    inputs = [
        gs.Constant(f"{name}.q", integers),
        gs.Constant(f"{name}.scale", np.asarray(scale)),
        gs.Constant(f"{name}.zero", np.zeros(scale.shape, integers.dtype)),
    ]
    attributes = {} if axis is None else {"axis": axis}
    node = gs.Node("DequantizeLinear", f"{name}.DequantizeLinear", attrs=attributes, inputs=inputs, outputs=[output])
    graph.nodes.append(node)
    return output


def insert_pairs(graph: gs.Graph, placement: Placement, grids: Mapping[str, Grid]) -> None:
    """Put all pairs of a placement into the graph, each with the layers that read it.

    Args:
        graph: is changed.
        placement: of its pairs.
        grids: tensor -> grid, for each tensor of the placement.
    """
    by_name = {node.name: node for node in graph.nodes}
    tensors = graph.tensors()
    for name in placement.tensors:
        tensor = tensors[name]
        read = pair(graph, tensor, grids[name])
        for user in placement.uses[name]:
            node = by_name[user]
            for slot, value in enumerate(node.inputs):
                if value is tensor:
                    node.inputs[slot] = read


def pair(graph: gs.Graph, tensor: gs.Variable, grid: Grid) -> gs.Variable:
    """Put a pair behind `tensor` and return what it writes; nothing reads that yet.

    Args:
        graph: is changed.
        tensor: float32; the new names begin with its own.
        grid: of the integers between.
    """
    scale = gs.Constant(f"{tensor.name}.scale", np.array(grid.scale, np.float32))
    zero = gs.Constant(f"{tensor.name}.zero", np.array(grid.zero_point, grid.dtype))
    integers = gs.Variable(f"{tensor.name}.q", dtype=np.dtype(grid.dtype), shape=tensor.shape)
    output = gs.Variable(f"{tensor.name}.dq", dtype=np.float32, shape=tensor.shape)
    names = (f"{tensor.name}.QuantizeLinear", f"{tensor.name}.DequantizeLinear")
    graph.nodes.append(gs.Node("QuantizeLinear", names[0], inputs=[tensor, scale, zero], outputs=[integers]))
    graph.nodes.append(gs.Node("DequantizeLinear", names[1], inputs=[integers, scale, zero], outputs=[output]))
    return output
