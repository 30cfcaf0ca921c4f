"""Put QuantizeLinear/DequantizeLinear pairs into an FP32 graph: one plan and one set of scales, lowered per backend.

| | ONNX Runtime | TensorRT |
|---|---|---|
| activations | UINT8, own zero point | INT8, symmetric |
| weights | INT8, stored as INT8 behind a DequantizeLinear | the same |
| bias | INT32 on the accumulator's grid | FP32 (TensorRT takes no INT32 DequantizeLinear) |
| activation functions that the grid's own saturation repeats | removed | left for the builder to fuse |
| the network's input | the image's own eight bits (`edgeq.quantize.int8.pixels`) | INT8, symmetric |
| layers that only move values | move integers | between pairs on one grid |
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

from edgeq.calibrate.scales import Scales
from edgeq.export.simplify import quiet
from edgeq.model.graph.external_data import has_external_data
from edgeq.plan.precision import Backend, Precision, PrecisionPlan
from edgeq.plan.rules import CARRIERS, FUSED_ACTIVATIONS, WEIGHTED
from edgeq.quantize.int8.grid import Grid, quantize_bias, round_weight, weight_amax, weight_scale
from edgeq.quantize.int8.grids import choose_grids
from edgeq.quantize.int8.keep_float_regions import keep_float_regions
from edgeq.quantize.int8.pixels import PIXEL_GRID, PixelInput, take_pixels
from edgeq.quantize.int8.placement import Placement, place
from edgeq.quantize.int8.verify import verify_lowering

__all__ = [
    "StoredWeights",
    "calibrated_tensors",
    "lower",
    "many_lowerings",
    "placement_of",
    "scales_to_give",
    "take_scales",
]

_INT32_LIMIT = float(2**31 - 1)


@dataclass(frozen=True)
class _Stored:
    """A weight in INT8: its magnitudes, and its integers at these scales."""

    amax: NDArray[np.float64]
    scale: NDArray[np.float32]
    integers: NDArray[np.int8]


StoredWeights = dict[tuple[str, int | None], _Stored]
"""What several lowerings of one graph need not quantize twice: by tensor and axis of the scales."""


def calibrated_tensors(model: onnx.ModelProto, plan: PrecisionPlan) -> tuple[str, ...]:
    """Names of the tensors that need a scale for any backend, in the graph's order."""
    backends: tuple[Backend, ...] = ("onnxruntime", "tensorrt")
    return tuple(dict.fromkeys(name for placement in _placements(model, plan, backends) for name in placement.ranged))


def lower(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    backend: Backend,
    *,
    pixels: PixelInput | None = None,
    stored: StoredWeights | None = None,
) -> onnx.ModelProto:
    """The INT8 graph of `model` for `backend`.

    Args:
        model: FP32, folded, with the node names of `plan`; it is not changed.
        plan: for that graph.
        scales: for that graph.
        backend: which lowering.
        pixels: where the graph's input comes from; ONNX Runtime's first convolution then takes the pixels themselves.
        stored: weights that other lowerings of `model` have made, and where this one leaves its own.

    Raises:
        CalibrationError: a tensor of the plan has no scale.
        QuantizeError: the graph made differs from the plan.
    """
    with quiet():
        lowered = _lower(gs.import_onnx(model), plan, scales, backend, pixels, {} if stored is None else stored)
    gc.collect()  # graphsurgeon's graphs refer to themselves: without this their weights pile up
    lowered.ir_version = model.ir_version
    del lowered.graph.value_info[:]
    verify_lowering(lowered, plan, backend)
    return lowered


def placement_of(model: onnx.ModelProto, plan: PrecisionPlan, backend: Backend) -> Placement:
    """Where `lower` puts its pairs."""
    return _placements(model, plan, (backend,))[0]


def _placements(model: onnx.ModelProto, plan: PrecisionPlan, backends: Sequence[Backend]) -> list[Placement]:
    with quiet():
        graph = gs.import_onnx(model)
        placements = [place(graph, plan, backend) for backend in backends]
    del graph
    if not has_external_data(model):
        gc.collect()  # as in `lower`: the graph would hold the weights until somebody collects
    return placements


def take_scales(lowered: onnx.ModelProto, placement: Placement) -> None:
    """Let TensorRT's graph be given its activations' scales at each run: no other number in it depends on them.

    Args:
        lowered: what `lower` made for TensorRT; it is changed.
        placement: of its pairs.
    """
    for name in placement.tensors:
        scale = onnx.helper.make_tensor_value_info(f"{name}.scale", onnx.TensorProto.FLOAT, ())
        lowered.graph.input.append(scale)


def scales_to_give(placement: Placement, scales: Scales) -> dict[str, NDArray[np.float32]]:
    """What a graph of `take_scales` is given for `scales`: name of its input -> scale, float32 []."""
    grids = choose_grids(placement, scales, "tensorrt")
    return {f"{name}.scale": np.array(grid.scale, np.float32) for name, grid in grids.items()}


@contextmanager
def many_lowerings() -> Iterator[None]:
    """Each lowering collects garbage: within, what was there before is not looked through again every time.

    At the end of one that stands inside another, or where the process had set objects aside before, they stay so.
    """
    outermost = not gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if outermost:
            gc.unfreeze()


def _lower(
    graph: gs.Graph,
    plan: PrecisionPlan,
    scales: Scales,
    backend: Backend,
    pixels: PixelInput | None,
    stored: StoredWeights,
) -> onnx.ModelProto:
    int8 = plan.layers(Precision.INT8)
    weighted = [node for node in graph.nodes if node.name in int8 and node.op in WEIGHTED]
    taken = backend == "onnxruntime" and pixels is not None and take_pixels(graph, pixels, int8)
    placement = place(graph, plan, backend)
    grids = choose_grids(placement, scales, backend)
    if taken:
        grids[f"{graph.inputs[0].name}.dq"] = PIXEL_GRID
    for node in weighted:
        _quantize_parameters(graph, node, grids[node.inputs[0].name], plan, backend, stored)
    if backend == "onnxruntime":
        _drop_saturated(graph, grids, int8)
    _insert_pairs(graph, placement, grids)
    if backend == "onnxruntime":
        _store_before_activations(graph, grids, int8)
        _carry_integers(graph, grids, int8)
        keep_float_regions(graph, int8)
    lowered: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort())
    return lowered


def _quantize_parameters(
    graph: gs.Graph, node: gs.Node, grid: Grid, plan: PrecisionPlan, backend: Backend, stored: StoredWeights
) -> None:
    bias = node.inputs[2].values.astype(np.float32) if len(node.inputs) > 2 else None
    axis = _channel_axis(node, len(node.inputs[1].shape)) if plan.weights == "per-channel" else None
    floor = _smallest_scale(bias, grid, axis) if bias is not None and backend == "onnxruntime" else None
    integers, scale = _quantize_weight(node.inputs[1], axis, floor, stored)
    node.inputs[1] = _dequantized(graph, f"{node.name}.weight", integers, scale, axis)
    if bias is None or backend == "tensorrt":
        return
    bias_scale = np.float32(grid.scale) * scale
    integer_bias = quantize_bias(bias, bias_scale)
    node.inputs[2] = _dequantized(graph, f"{node.name}.bias", integer_bias, bias_scale, None if axis is None else 0)


def _quantize_weight(
    weight: gs.Constant, axis: int | None, floor: np.ndarray | None, stored: StoredWeights
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales; a weight that lies in `stored` is not even read, unless the floor lifts a scale."""
    found = stored.get((weight.name, axis))
    if found is None or not np.array_equal(found.scale, weight_scale(found.amax, floor)):
        floats = _floats(weight)
        amax = weight_amax(floats, axis)
        scale = weight_scale(amax, floor)
        found = stored[weight.name, axis] = _Stored(amax, scale, round_weight(floats, axis, scale))
    return found.integers, found.scale


def _floats(constant: gs.Constant) -> NDArray[np.float32]:
    """The numbers of a constant. Its `values` would keep them until the graph is collected."""
    held = constant._values
    return np.asarray(held.load() if isinstance(held, LazyValues) else held, np.float32)


def _channel_axis(node: gs.Node, rank: int) -> int:
    """The axis of the output channels."""
    if node.op == "Conv":
        return 0
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return rank - 1


def _smallest_scale(bias: np.ndarray, grid: Grid, axis: int | None) -> np.ndarray:
    """Weight scales under which the bias would leave INT32: a channel of tiny weights and a large bias."""
    magnitude = np.abs(bias.astype(np.float64))
    needed = (magnitude if axis is not None else magnitude.max()) / (grid.scale * _INT32_LIMIT)
    return np.asarray(needed)


def _dequantized(graph: gs.Graph, name: str, integers: np.ndarray, scale: np.ndarray, axis: int | None) -> gs.Variable:
    """A stored integer tensor behind its DequantizeLinear."""
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


def _drop_saturated(graph: gs.Graph, grids: Mapping[str, Grid], int8: frozenset[str]) -> None:
    """Take out activations whose bounds are those of the UINT8 grid behind them: storing saturates there anyway."""
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
            node.inputs[0] = _pair(graph, node.inputs[0], grid)


def _carry_integers(graph: gs.Graph, grids: Mapping[str, Grid], int8: frozenset[str]) -> None:
    """Let carriers move the integers themselves: both sides lie on one grid, so the pairs between say nothing."""
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


def _insert_pairs(graph: gs.Graph, placement: Placement, grids: Mapping[str, Grid]) -> None:
    by_name = {node.name: node for node in graph.nodes}
    tensors = graph.tensors()
    for name in placement.tensors:
        tensor = tensors[name]
        output = _pair(graph, tensor, grids[name])
        for user in placement.uses[name]:
            node = by_name[user]
            for slot, value in enumerate(node.inputs):
                if value is tensor:
                    node.inputs[slot] = output


def _pair(graph: gs.Graph, tensor: gs.Variable, grid: Grid) -> gs.Variable:
    scale = gs.Constant(f"{tensor.name}.scale", np.array(grid.scale, np.float32))
    zero = gs.Constant(f"{tensor.name}.zero", np.array(grid.zero_point, grid.dtype))
    integers = gs.Variable(f"{tensor.name}.q", dtype=np.dtype(grid.dtype), shape=tensor.shape)
    output = gs.Variable(f"{tensor.name}.dq", dtype=np.float32, shape=tensor.shape)
    names = (f"{tensor.name}.QuantizeLinear", f"{tensor.name}.DequantizeLinear")
    graph.nodes.append(gs.Node("QuantizeLinear", names[0], inputs=[tensor, scale, zero], outputs=[integers]))
    graph.nodes.append(gs.Node("DequantizeLinear", names[1], inputs=[integers, scale, zero], outputs=[output]))
    return output
