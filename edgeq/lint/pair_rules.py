"""TRT1: are the pairs of QuantizeLinear and DequantizeLinear such as TensorRT has: symmetric, INT8, constant scales."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from edgeq.lint.base import API, GUIDE, PARSER, Rule
from edgeq.lint.graph import PAIR, LintGraph, number, type_name

__all__ = ["PAIR_RULES", "SMALLEST_SCALE"]

SMALLEST_SCALE: Final = 2.0**-14
"""FP16's smallest normal number."""

_QUANTIZED: Final = frozenset({TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN})
_HALF: Final = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_QUANTIZATION: Final = f"{GUIDE}, Quantization"


def _scale(graph: LintGraph, node: onnx.NodeProto) -> np.ndarray | None:
    held = graph.values(node.input[1]) if len(node.input) > 1 else None
    return None if held is None else np.asarray(held, np.float64)


def _kind(graph: LintGraph, node: onnx.NodeProto) -> int:
    """The type of a pair's integers; ONNX's default is UINT8, of which TensorRT makes INT8."""
    name = node.output[0] if node.op_type == PAIR[0] else node.input[0]
    if node.op_type == PAIR[0] and len(node.input) < 3 and not number(node, "output_dtype", 0):
        return TensorProto.INT8
    return graph.types.get(name, 0)


def _zero_point(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        zero = graph.values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is not None and np.asarray(zero, np.float64).any():
            shown = np.asarray(zero, np.float64).reshape(-1)
            yield node.name, f"zero point {shown[shown != 0][0]:g}"


def _integers(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        kind = _kind(graph, node)
        if kind and kind not in _QUANTIZED and kind != TensorProto.INT32:
            yield node.name, f"integers of {type_name(kind)}"


def _integer_bias(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        if _kind(graph, node) == TensorProto.INT32:
            yield node.name, "dequantizes INT32, a bias"


def _positive(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        scale = _scale(graph, node)
        wrong = np.empty(0) if scale is None else scale[~(np.isfinite(scale) & (scale > 0))]
        if wrong.size:
            yield node.name, f"a scale of {wrong[0]:g}" + (f", of {wrong.size} such" if wrong.size > 1 else "")


def _constant(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        if any(name and not graph.is_fixed(name) for name in node.input[1:3]):
            yield node.name, "its scale is computed from the image"


def _activation(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        scale = graph.shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
        if not graph.is_fixed(node.input[0]) and int(np.prod(scale, dtype=np.int64)) > 1:
            yield node.name, f"{int(np.prod(scale))} scales for an activation"


def _axis(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.quantized_layers:
        pair = graph.maker(node.input[1], PAIR[1])
        if pair is None:  # axes are moved between, which is not followed
            continue
        shape, scale = graph.shapes.get(pair.input[0], ()), graph.shapes.get(pair.input[1], ())
        if not shape or int(np.prod(scale, dtype=np.int64)) == 1:
            continue
        wanted = _outputs_axis(node, len(shape))
        if graph.axis(pair, len(shape)) != wanted:
            yield (
                node.name,
                f"scales along axis {graph.axis(pair, len(shape))} of its weight, outputs are axis {wanted}",
            )


def _outputs_axis(node: onnx.NodeProto, rank: int) -> int:
    if node.op_type == "Gemm":
        return 0 if number(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, rank - 1)


def _count(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        shape, scale = graph.shapes.get(node.input[0], ()), graph.shapes.get(node.input[1], ())
        count = int(np.prod(scale, dtype=np.int64))
        if count == 1 or not graph.is_fixed(node.input[0]) or not shape or number(node, "block_size", 0):
            continue
        axis = graph.axis(node, len(shape))
        if len(scale) != 1 or not 0 <= axis < len(shape) or shape[axis] != count:
            yield node.name, f"scales of shape {list(scale)} for a weight of shape {list(shape)}, along axis {axis}"


def _blocks(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        size = number(node, "block_size", 0)
        if size and _kind(graph, node) not in (TensorProto.INT4, 0):
            yield node.name, f"a scale for each {size} numbers, which is for weights of 4 bits"


def _vanishing(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        scale = _scale(graph, node)
        if graph.types.get(node.input[1]) in _HALF and scale is not None and (scale < SMALLEST_SCALE).any():
            yield node.name, f"a scale of {scale.min():.3g}; below {SMALLEST_SCALE:.3g} FP16 loses digits"


def _alone(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        if node.op_type == PAIR[1]:
            if not graph.is_fixed(node.input[0]) and graph.maker(node.input[0], PAIR[0]) is None:
                yield node.name, f"dequantizes {node.input[0]}, which no QuantizeLinear makes"
            continue
        users = graph.readers.get(node.output[0], [])
        if node.output[0] in graph.outputs or any(user.op_type != PAIR[1] for user in users):
            yield node.name, "its integers go elsewhere than to a DequantizeLinear"


def _twice(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.pairs():
        if node.op_type == PAIR[0] and graph.is_paired(node.input[0]) and len(graph.readers[node.input[0]]) == 1:
            yield node.name, "quantizes what was dequantized just before, which rounds twice and costs a pass"


def _two_scales(graph: LintGraph) -> Iterator[tuple[str, str]]:
    seen: dict[str, set[float]] = {}
    for node in graph.pairs():
        scale = _scale(graph, node)
        if node.op_type == PAIR[0] and not graph.is_fixed(node.input[0]) and scale is not None and scale.size == 1:
            seen.setdefault(node.input[0], set()).add(float(scale.reshape(-1)[0]))
    for tensor, scales in seen.items():
        if len(scales) > 1:
            yield tensor, f"quantized with {len(scales)} scales: it is written once for each"


PAIR_RULES: Final = (
    Rule("TRT101", "zero-point", "error", "quantize symmetrically", f"{PARSER}, DequantizeLinear", _zero_point),
    Rule("TRT102", "unsigned", "error", "quantize to signed INT8", f"{PARSER}, QuantizeLinear", _integers),
    Rule(
        "TRT103",
        "integer-bias",
        "error",
        "leave the bias in floating point",
        f"{PARSER}, DequantizeLinear",
        _integer_bias,
    ),
    Rule("TRT104", "scale", "error", "calibrate again: such a scale quantizes nothing", API, _positive),
    Rule(
        "TRT105",
        "computed-scale",
        "error",
        "quantize statically: scales are constants when an engine is built",
        API,
        _constant,
    ),
    Rule("TRT106", "activation-channels", "error", "give an activation one scale", _QUANTIZATION, _activation),
    Rule("TRT107", "weight-axis", "warning", "put weights' scales along their output channels", _QUANTIZATION, _axis),
    Rule("TRT108", "scale-count", "error", "give a weight one scale, or one for each output channel", API, _count),
    Rule("TRT109", "blocks", "error", "use one scale for each channel", _QUANTIZATION, _blocks),
    Rule(
        "TRT110",
        "small-scale",
        "warning",
        "round scales to FP16 before weights, and up to that number",
        API,
        _vanishing,
    ),
    Rule(
        "TRT111",
        "pair-alone",
        "warning",
        "Q and DQ are fused as a pair alone",
        f"{GUIDE}, Explicit Quantization",
        _alone,
    ),
    Rule("TRT112", "pair-twice", "warning", "take one of the two pairs out", f"{GUIDE}, Explicit Quantization", _twice),
    Rule(
        "TRT113",
        "two-scales",
        "note",
        "let readers share one pair",
        f"{GUIDE}, Q/DQ Layer-Placement Recommendations",
        _two_scales,
    ),
)
