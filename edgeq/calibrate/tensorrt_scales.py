"""Between scales and a TensorRT calibration cache: which tensors, on which ranges.

TensorRT wants a scale for every tensor of its network, between a convolution and its ReLU too. It warns about each that
is missing and runs the layers around it in a wider format. `activation_tensors` lists what has to be observed for that.
Absent from a cache written here, because only TensorRT can name them, are the tensors that its parser adds, such as
`(Unnamed Layer* 3) [Shuffle]_output`, and constants. That TensorRT accepts a cache written here has not been seen: no
engine was built from one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeq.calibrate.scales import Scales, TensorRange, TensorScale
from edgeq.engine.registry import BUILT
from edgeq.errors import CalibrationError
from edgeq.model.graph.tensors import constant_tensors
from edgeq.tensorrt.calibration_cache import CalibrationCache
from edgeq.tensorrt.version import Version

if TYPE_CHECKING:
    import onnx

__all__ = [
    "TRT_CACHE_METHOD",
    "activation_tensors",
    "amax_from_cache",
    "cache_from_scales",
    "non_negative_tensors",
    "scales_from_cache",
]

TRT_CACHE_METHOD: Final = "trt-cache"
"""The method of scales that were read from a cache."""

Constants = Mapping[str, "onnx.TensorProto"]

_STEPS: Final = 127.0
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_MOST_NAMED = 8

_NEVER_NEGATIVE: Final = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Sqrt"})
_NOT_BELOW_ALL_INPUTS: Final = frozenset({"Add", "Concat"})
_NOT_BELOW_FIRST_INPUT: Final = frozenset(
    {"AveragePool", "Dropout", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


def cache_from_scales(scales: Scales, version: Version, *, groups: Iterable[frozenset[str]] = ()) -> CalibrationCache:
    """The cache with a line for each calibrated tensor, in the order of `scales`: its amax for TensorRT, over 127.

    Args:
        scales: of every tensor that the cache shall list.
        version: the release that will build the engine.
        groups: sets of tensors without a common member, each on one grid: both sides of an addition, both ends of a
            layer that computes nothing. Each gets the largest amax of its members; members without a scale are
            passed over.

    Raises:
        CalibrationError: a tensor has no range, or one that float32 cannot hold.
        ArtifactError: a tensor's name cannot be written into a cache.
    """
    amax = {tensor: _checked_amax(scales, tensor) for tensor in scales.tensors}
    for members in groups:
        present = [tensor for tensor in members if tensor in amax]
        amax.update(dict.fromkeys(present, max((amax[tensor] for tensor in present), default=0.0)))
    return CalibrationCache(version, tuple((tensor, float(np.float32(a / _STEPS))) for tensor, a in amax.items()))


def amax_from_cache(cache: CalibrationCache) -> dict[str, float]:
    """Largest magnitude of each tensor: 127 times its scale, exact in float64."""
    return {tensor: scale * _STEPS for tensor, scale in cache.scales}


def scales_from_cache(
    cache: CalibrationCache,
    model: onnx.ModelProto,
    tensors: Sequence[str],
    *,
    graph_sha256: str,
    preprocess_sha256: str,
) -> Scales:
    """The ranges of `tensors` as a cache has them, under the method name `trt-cache`.

    A cache does not say whether a tensor is ever negative: `low` is 0 where the graph rules it out, else -amax. It has
    neither histograms nor a number of images: the digest is empty, the number 0.

    Args:
        cache: made by TensorRT, or here.
        model: the FP32 graph that was calibrated.
        tensors: those that need a scale; what else the cache lists is left out.
        graph_sha256: of the graph's file.
        preprocess_sha256: digest of the preprocessing that the images are taken to have gone through.

    Raises:
        CalibrationError: tensors are missing in the cache; all are counted, the first are named.
    """
    amax = amax_from_cache(cache)
    _require_all(tensors, amax)
    floor = non_negative_tensors(model)
    return Scales(
        graph_sha256=graph_sha256,
        preprocess_sha256=preprocess_sha256,
        images=0,
        method=TRT_CACHE_METHOD,
        tensors={name: _tensor_scale(0.0 if name in floor else -amax[name], amax[name]) for name in tensors},
    )


def activation_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """The float32 tensors that depend on the values of the graph's input, in the graph's order, the input first.

    Left out are constants, what is computed from them or from shapes alone, other types, tensors inside If and Loop,
    and tensors whose type shape inference cannot tell (behind an operator that ONNX does not know).

    Args:
        model: a graph that the export stage wrote; it is not changed.
    """
    float32 = _float32_names(model)
    return tuple(name for name in _data_names(model.graph) if name in float32)


def non_negative_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Names of tensors that are >= 0 whatever the input: behind a ReLU, a Clip from 0 up, a pooling of such, ..."""
    constants = constant_tensors(model.graph)
    found: set[str] = set()
    for node in model.graph.node:
        if _is_non_negative(node, found, constants):
            found.update(name for name in node.output if name)
    return frozenset(found)


def _checked_amax(scales: Scales, tensor: str) -> float:
    amax = scales.range_of(tensor, BUILT.name).amax
    if not 0.0 <= amax <= _FLOAT32_MAX:
        raise CalibrationError(
            f"tensor {tensor} has amax {amax:g}",
            expected="a number from 0 to the largest float32",
            causes=("the scales file was edited",),
            next_step="run edgeq calibrate again",
        )
    return amax + 0.0  # a negative zero is a zero


def _require_all(tensors: Sequence[str], amax: dict[str, float]) -> None:
    missing = [name for name in tensors if name not in amax]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise CalibrationError(
            f"the cache lacks {len(missing)} of {len(tensors)} tensors: {', '.join(missing[:_MOST_NAMED])}{more}",
            causes=(
                "TensorRT was given another graph: names must be those of EXPORTED/model.fp32.onnx",
                "the file was cut short",
            ),
            next_step="calibrate EXPORTED/model.fp32.onnx with TensorRT again, or use --images",
        )


def _tensor_scale(low: float, high: float) -> TensorScale:
    kept = TensorRange(amax=high, low=low + 0.0, high=high)
    return TensorScale(minimum=kept.low, maximum=high, ranges={TRT_CACHE_METHOD: kept}, histogram_sha256="")


def _float32_names(model: onnx.ModelProto) -> frozenset[str]:
    """Names whose type is a float32 tensor, as far as shape inference can tell."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    typed = (*graph.input, *graph.value_info, *graph.output)
    return frozenset(value.name for value in typed if value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _data_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the inputs, and of all that is computed from their values rather than from their shapes alone."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in constants]
    yield from inputs
    known = set(inputs)
    for node in graph.node:
        inside = any(attribute.HasField("g") for attribute in node.attribute)  # it may read any tensor outside it
        if inside or (node.op_type not in ("Shape", "Size") and known.intersection(node.input)):
            made = [name for name in node.output if name]
            yield from made
            known.update(made)


def _is_non_negative(node: onnx.NodeProto, known: set[str], constants: Constants) -> bool:
    """Whether the outputs are >= 0, given the tensors that are and the constants."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _NEVER_NEGATIVE:
        return True
    if node.op_type in _NOT_BELOW_ALL_INPUTS:
        return all(name in known or _smallest(name, constants) >= 0.0 for name in node.input)
    first = bool(node.input) and node.input[0] in known
    if node.op_type == "Clip":
        from_zero = _bound(node, 1, constants, missing=-math.inf) >= 0.0
        return from_zero or (first and _bound(node, 2, constants, missing=math.inf) >= 0.0)
    if node.op_type == "Pad":
        return first and _bound(node, 2, constants, missing=0.0) >= 0.0
    return first and node.op_type in _NOT_BELOW_FIRST_INPUT


def _bound(node: onnx.NodeProto, slot: int, constants: Constants, *, missing: float) -> float:
    """The smallest value of an input; `missing` where the node has none."""
    if len(node.input) <= slot or not node.input[slot]:
        return missing
    return _smallest(node.input[slot], constants)


def _smallest(name: str, constants: Constants) -> float:
    """The smallest value of a constant; -inf where it is no constant, is empty or holds no real numbers."""
    from onnx import numpy_helper

    if name not in constants:
        return -math.inf
    values = numpy_helper.to_array(constants[name])
    return float(values.min()) if values.size and values.dtype.kind in "fiu" else -math.inf
