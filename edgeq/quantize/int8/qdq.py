"""Put QuantizeLinear/DequantizeLinear pairs into an FP32 graph: one plan and one set of scales, lowered per backend.

| | ONNX Runtime | TensorRT | OpenVINO |
|---|---|---|---|
| activations | UINT8, own zero point | INT8, symmetric | UINT8, own zero point |
| weights | INT8, stored as INT8 behind a DequantizeLinear | the same | the same |
| bias | INT32 on the accumulator's grid | FP16 (TensorRT takes no INT32 DequantizeLinear) | FP32 |
| scales | FP32 | FP16, of 2**-14 at least | FP32 |
| beside the pairs | FP32 | FP16, the head FP32 (`half_types`) | FP32 |
| activation functions that the grid's own saturation repeats | removed | left for the builder to fuse | removed |
| the network's input | the image's own eight bits (`pixels`) | INT8, symmetric | as ONNX Runtime |
| layers that only move values | move integers | between pairs on one grid | move integers |

In what they differ is asked of the backend's lowering (`base`).
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

from edgeq.calibrate.corrections import LayerCorrection
from edgeq.calibrate.scales import Scales
from edgeq.export.simplify import quiet
from edgeq.model.graph.external_data import has_external_data
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import STORED_IN_INT8
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.grid import Grid, half_scale, quantize_bias, round_weight, weight_amax, weight_scale
from edgeq.quantize.int8.grids import choose_grids
from edgeq.quantize.int8.pairs import dequantized, insert_pairs
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.placement import Placement, place
from edgeq.quantize.int8.registry import LOWERINGS
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT
from edgeq.quantize.int8.verify import verify_lowering

__all__ = [
    "Lowered",
    "StoredWeights",
    "calibrated_tensors",
    "lower",
    "lowered_constants",
    "many_lowerings",
    "placement_of",
    "scales_to_give",
    "take_constants",
    "take_scales",
]

_WEIGHT, _BIAS = "weight", "bias"
_OF_GRIDS = (np.float32, np.uint8, np.int8)
_INT32_LIMIT = float(2**31 - 1)
_UNCORRECTED = LayerCorrection()


@dataclass(frozen=True)
class Lowered:
    """A lowered graph without its weights: what may differ between two sets of scales.

    Attributes:
        nodes: operator, name, inputs and outputs of each.
        constants: those that lowering made, by name: scales, zero points, biases; the weights' as `stored` has them.
    """

    nodes: frozenset[tuple[str, str, tuple[str, ...], tuple[str, ...]]]
    constants: Mapping[str, NDArray[Any]]

    def settable(self) -> frozenset[str]:
        """Names of the constants that activations' ranges may change: scales, zero points and integer biases."""
        return frozenset(
            name
            for name, value in self.constants.items()
            if f".{_BIAS}." in name or (value.dtype in _OF_GRIDS and value.ndim == 0 and f".{_WEIGHT}." not in name)
        )

    def differences(self, other: Lowered) -> frozenset[str] | None:
        """Names of the constants that are others there; None where more than constants differs."""
        if self.nodes != other.nodes or self.constants.keys() != other.constants.keys():
            return None
        pairs = ((name, value, other.constants[name]) for name, value in self.constants.items())
        return frozenset(
            name for name, mine, theirs in pairs if mine is not theirs and not np.array_equal(mine, theirs)
        )


@dataclass(frozen=True)
class _Stored:
    """A weight in INT8: its magnitudes, and its integers at these scales."""

    amax: NDArray[np.float64]
    scale: NDArray[np.float32]
    integers: NDArray[np.int8]


StoredWeights = dict[tuple[str, int | None, str], _Stored]
"""What several lowerings of one graph need not quantize twice: by tensor, axis of the scales, and how it is rounded."""


def calibrated_tensors(model: onnx.ModelProto, plan: PrecisionPlan) -> tuple[str, ...]:
    """Names of the tensors that need a scale for any backend, in the graph's order."""
    return tuple(dict.fromkeys(name for placement in _placements(model, plan, LOWERINGS) for name in placement.ranged))


def lower(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    lowering: Lowering,
    *,
    pixels: PixelInput | None = None,
    stored: StoredWeights | None = None,
) -> onnx.ModelProto:
    """The INT8 graph of `model` for a backend, float32 beside its pairs (`Lowering.types` makes the file of it).

    Args:
        model: FP32, folded, with the node names of `plan`; it is not changed.
        plan: for that graph.
        scales: for that graph.
        lowering: of the backend.
        pixels: where the graph's input comes from; ONNX Runtime's first convolution then takes the pixels themselves.
        stored: weights that other lowerings of `model` have made, and where this one leaves its own.

    Raises:
        CalibrationError: a tensor of the plan has no scale.
        ArtifactError: a correction of `scales` does not fit its layer.
        QuantizeError: the graph made differs from the plan.
    """
    plan = lowering.planned(model, plan)
    with quiet():
        graph = _with_pairs(gs.import_onnx(model), plan, scales, lowering, pixels, {} if stored is None else stored)
        lowered: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort())
    del graph
    gc.collect()  # graphsurgeon's graphs refer to themselves: without this their weights pile up
    lowered.ir_version = model.ir_version
    del lowered.graph.value_info[:]
    verify_lowering(lowered, plan, lowering)
    return lowered


def lowered_constants(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    lowering: Lowering,
    *,
    pixels: PixelInput | None = None,
    stored: StoredWeights | None = None,
) -> Lowered:
    """What `lower` makes of the same, in less time: no weight is copied.

    Args:
        model, plan, scales, lowering, pixels, stored: as for `lower`.
    """
    plan = lowering.planned(model, plan)
    with quiet():
        graph = _with_pairs(gs.import_onnx(model), plan, scales, lowering, pixels, {} if stored is None else stored)
    nodes = frozenset(
        (node.op, node.name, tuple(each.name for each in node.inputs), tuple(each.name for each in node.outputs))
        for node in graph.nodes
    )
    inputs = {each.name: each for node in graph.nodes for each in node.inputs if isinstance(each, gs.Constant)}
    made = {name: each._values for name, each in inputs.items() if not isinstance(each._values, LazyValues)}
    return Lowered(nodes, made)


def placement_of(model: onnx.ModelProto, plan: PrecisionPlan, lowering: Lowering) -> Placement:
    """Where `lower` puts its pairs.

    Args:
        model: FP32, folded, with the node names of `plan`; it is not changed.
        plan: for that graph.
        lowering: of the backend.
    """
    return _placements(model, plan, (lowering,))[0]


def _placements(model: onnx.ModelProto, plan: PrecisionPlan, lowerings: Sequence[Lowering]) -> list[Placement]:
    with quiet():
        graph = gs.import_onnx(model)
        placements = [place(graph, lowering.planned(model, plan), lowering) for lowering in lowerings]
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


def take_constants(fused: onnx.ModelProto, names: Collection[str]) -> None:
    """Let a graph be given some of its constants at each run; its own inputs stay the first.

    Args:
        fused: of ONNX Runtime (`edgeq.engine.onnxruntime.fused_graph`); it is changed.
        names: of the constants; those that it does not have are passed over.
    """
    constants = fused.graph.initializer
    for index in reversed(range(len(constants))):
        tensor = constants[index]
        if tensor.name in names:
            fused.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            del constants[index]


def scales_to_give(placement: Placement, scales: Scales) -> dict[str, NDArray[np.float32]]:
    """What a graph of `take_scales` is given for `scales`: name of its input -> scale, float32 []."""
    grids = choose_grids(placement, scales, TENSORRT)
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


def _with_pairs(
    graph: gs.Graph,
    plan: PrecisionPlan,
    scales: Scales,
    lowering: Lowering,
    pixels: PixelInput | None,
    stored: StoredWeights,
) -> gs.Graph:
    int8 = plan.layers(Precision.INT8)
    weighted = [node for node in graph.nodes if node.name in int8 and node.op in STORED_IN_INT8]
    prepared = lowering.prepare(graph, pixels, int8)
    placement = place(graph, plan, lowering)
    grids = {**choose_grids(placement, scales, lowering), **prepared}
    for node in weighted:
        correction = scales.corrections.get(node.name, _UNCORRECTED)
        _quantize_parameters(graph, node, grids[node.inputs[0].name], plan, lowering, stored, correction)
    lowering.before_pairs(graph, grids, int8)
    insert_pairs(graph, placement, grids)
    lowering.after_pairs(graph, grids, int8)
    return graph


def _quantize_parameters(
    graph: gs.Graph,
    node: gs.Node,
    grid: Grid,
    plan: PrecisionPlan,
    lowering: Lowering,
    stored: StoredWeights,
    correction: LayerCorrection,
) -> None:
    bias = _corrected_bias(node, correction, lowering)
    axis = _channel_axis(node, len(node.inputs[1].shape)) if plan.weights == "per-channel" else None
    floor = _smallest_scale(bias, grid, axis) if bias is not None and lowering.integer_bias else None
    integers, scale = _quantize_weight(node, axis, floor, lowering, stored, correction)
    node.inputs[1] = dequantized(graph, f"{node.name}.{_WEIGHT}", integers, scale, axis)
    if bias is None or not lowering.integer_bias:
        return
    bias_scale = np.float32(grid.scale) * scale
    integer_bias = quantize_bias(bias, bias_scale)
    node.inputs[2] = dequantized(graph, f"{node.name}.{_BIAS}", integer_bias, bias_scale, None if axis is None else 0)


def _corrected_bias(node: gs.Node, correction: LayerCorrection, lowering: Lowering) -> NDArray[np.float32] | None:
    """The bias, with what the correction adds to it for the backend; None where there is none."""
    bias = node.inputs[2].values.astype(np.float32) if len(node.inputs) > 2 else None
    channels = node.inputs[1].shape[_channel_axis(node, len(node.inputs[1].shape))]
    shift = correction.shift(node.name, lowering.ranges_of, channels)
    if shift is None:
        return bias
    bias = shift if bias is None else bias + shift
    node.inputs = [*node.inputs[:2], gs.Constant(f"{node.name}.corrected_bias", bias)]
    return bias


def _quantize_weight(
    node: gs.Node,
    axis: int | None,
    floor: np.ndarray | None,
    lowering: Lowering,
    stored: StoredWeights,
    correction: LayerCorrection,
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales; a weight that is in `stored` is not even read, unless its scales are other ones here."""

    def scale_of(amax: NDArray[np.float64]) -> NDArray[np.float32]:
        scale = weight_scale(amax, floor)
        return half_scale(scale) if lowering.half_scales else scale

    weight = node.inputs[1]
    key = (weight.name, axis, correction.rounding and node.name)
    found = stored.get(key)
    if found is None or not np.array_equal(found.scale, scale_of(found.amax)):
        floats = _floats(weight)
        amax = weight_amax(floats, axis)
        scale = scale_of(amax)
        deltas = correction.deltas(node.name, floats.shape)
        if deltas is not None:
            floats = _rounded(floats, deltas, axis, weight_scale(amax))
        found = stored[key] = _Stored(amax, scale, round_weight(floats, axis, scale))
    return found.integers, found.scale


def _rounded(
    floats: NDArray[np.float32], deltas: NDArray[np.int8], axis: int | None, scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A weight on its grid, rounded as a correction wants it; the nearest integers of that are its own."""
    integers = np.clip(round_weight(floats, axis, scale).astype(np.int16) + deltas, -127, 127)
    shape = [-1 if place == axis else 1 for place in range(floats.ndim)] if axis is not None else [1] * floats.ndim
    on_grid: NDArray[np.float32] = integers.astype(np.float32) * scale.reshape(shape)
    return on_grid


def _floats(constant: gs.Constant) -> NDArray[np.float32]:
    """The numbers of a constant. Its `values` would keep them until the graph is collected."""
    held = constant._values
    return np.asarray(held.load() if isinstance(held, LazyValues) else held, np.float32)


def _channel_axis(node: gs.Node, rank: int) -> int:
    """The axis of the output channels."""
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return rank - 1


def _smallest_scale(bias: np.ndarray, grid: Grid, axis: int | None) -> np.ndarray:
    """Weight scales under which the bias would leave INT32: a channel of tiny weights and a large bias."""
    magnitude = np.abs(bias.astype(np.float64))
    needed = (magnitude if axis is not None else magnitude.max()) / (grid.scale * _INT32_LIMIT)
    return np.asarray(needed)
