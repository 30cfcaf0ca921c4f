"""Look for layers that would overflow FP16, in FP32, where their numbers can still be seen.

A LayerNorm whose squares leave FP16 is the classic case: nothing fails, and the answers are wrong. So the FP32 graph is
run on real images, and every tensor is reduced to its largest magnitude inside the graph: memory stays that of one
image's forward pass, however many tensors and images there are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.graph.element_types import SHAPE_READERS, element_types, fp16_inputs, fp16_outputs, opset_of
from edgeq.model.graph.external_data import is_external
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.model.graph.tensors import constant_tensors

__all__ = ["Feeds", "layers_beyond", "peaks", "to_look_at"]

Feeds = Mapping[str, NDArray[Any]]
"""An array for each input of a graph."""

_SQUARE_INPUT: Final = frozenset(
    {
        *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization"),
        *("SimplifiedLayerNormalization",),
    }
)
"""Operators that square their input on the way; the square of the largest number stands for all of that."""

_SQUARE_OUTPUT: Final = frozenset({"ReduceL2"})
"""Operators that end with a square root: what was under it is the square of their output."""

_NO_LARGER: Final = frozenset(
    {
        *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("Abs", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Neg", "Relu", "Reshape", "Slice"),
        *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Operators whose output has no number larger in magnitude than their first input."""


def layers_beyond(model: onnx.ModelProto, reached: Mapping[str, float], limit: float) -> tuple[str, ...]:
    """The layers that read, write or square a number beyond `limit`, in the graph's order.

    A layer that reads such a number is named as well as the one that writes it: with only the writer in FP32 the Cast
    between the two would overflow. Infinities that the network makes on purpose (masks) do not count; FP16 has them.
    NaN, which no precision mends, is not looked for. Sums are taken to be accumulated in FP32.

    Args:
        model: float32 graph with named nodes.
        reached: of `peaks`; tensors that are not in it are passed over.
        limit: where FP16 ends, or less for a margin.
    """
    version = opset_of(model)
    return tuple(node.name for node in model.graph.node if _largest(node, reached, version) > limit)


def _largest(node: onnx.NodeProto, found: Mapping[str, float], version: int) -> float:
    """The largest magnitude that `node` would have to hold in FP16."""
    if node.op_type in SHAPE_READERS:
        return 0.0
    slots = zip(node.input, fp16_inputs(node, version), strict=True)
    reads = [found[name] for name, half in slots if half and name in found]
    writes = [found[name] for name in node.output if name in found]
    squares = [peak * peak for peak in reads[:1] if node.op_type in _SQUARE_INPUT]
    squares += [peak * peak for peak in writes[:1] if node.op_type in _SQUARE_OUTPUT]
    return max([0.0, *reads, *writes, *squares])


def peaks(
    model: onnx.ModelProto,
    runs: Iterable[Feeds],
    *,
    known: Mapping[str, float] | None = None,
    layers: Collection[str] | None = None,
    threads: int | None = None,
) -> dict[str, float]:
    """The largest finite magnitude of each float32 tensor that could be FP16.

    Args:
        model: float32 graph.
        runs: what the graph is given, one image at a time; not looked at where all is known.
        known: magnitudes that were seen already, by tensor; these tensors are not looked at again, nor are those that
            an operator makes of them which only moves, picks or averages numbers.
        layers: names of nodes; tensors that none of them reads or writes are left out. None stands for all.
        threads: of one operator.

    Raises:
        EngineError: the graph does not take these runs.
    """
    names = to_look_at(model, known=known, layers=layers)
    found = dict.fromkeys(names, 0.0)
    if names:
        engine = _probe(model, names, threads)
        for feeds in runs:
            values = engine.run(feeds, [f"{name}.peak" for name in names])
            found = {name: max(found[name], float(values[f"{name}.peak"])) for name in names}
    constants = {
        name: _peak(numpy_helper.to_array(tensor))
        for name, tensor in constant_tensors(model.graph).items()
        if tensor.data_type == TensorProto.FLOAT and not is_external(tensor)
    }
    return constants | _bounded(model, known or {}) | found


def to_look_at(
    model: onnx.ModelProto, *, known: Mapping[str, float] | None = None, layers: Collection[str] | None = None
) -> tuple[str, ...]:
    """The tensors whose magnitude only a run tells; as for `peaks`."""
    constants, bounded = constant_tensors(model.graph), _bounded(model, known or {})
    nodes = [node for node in model.graph.node if layers is None or node.name in layers]
    touched = {name for node in nodes for name in (*node.input, *node.output)}
    computed = dict.fromkeys(_computed(model))
    return tuple(name for name in computed if name in touched and name not in constants and name not in bounded)


def _bounded(model: onnx.ModelProto, known: Mapping[str, float]) -> dict[str, float]:
    """`known`, and what follows from it without a run."""
    found = dict(known)
    for node in model.graph.node:
        if node.op_type in _NO_LARGER and node.input[0] in found:
            found |= {name: found[node.input[0]] for name in node.output if name not in found}
    return found


def _peak(values: NDArray[np.float32]) -> float:
    return float(np.abs(values[~np.isinf(values)]).max(initial=0.0))


def _computed(model: onnx.ModelProto) -> list[str]:
    """The float32 tensors that a layer could write in FP16, and the graph's float32 inputs."""
    types, version = element_types(model), opset_of(model)
    names = [value.name for value in model.graph.input]
    for node in model.graph.node:
        slots = zip(node.output, fp16_outputs(node, version), strict=True)
        names += [name for name, half in slots if half]
    return [name for name in names if types.get(name) == TensorProto.FLOAT]


def _probe(model: onnx.ModelProto, names: Sequence[str], threads: int | None) -> OnnxRuntimeEngine:
    """The graph that gives the peaks; its weights go into a file of their own, which ONNX Runtime maps.

    ONNX Runtime goes backwards from the graph's ends, the last of them first: so the last is the peak that is known
    first. The other way about it would compute the whole graph, and only then the peaks of all tensors, all held.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "peak.zero"))
    for name in reversed(names):
        probe.graph.node.extend(_reduce(name))
        probe.graph.output.append(helper.make_tensor_value_info(f"{name}.peak", TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "probe.onnx"
        save_onnx(probe, path, external_over=0)
        del probe
        return OnnxRuntimeEngine(path, threads=threads)


def _reduce(name: str) -> tuple[onnx.NodeProto, ...]:
    return (
        helper.make_node("IsInf", [name], [f"{name}.infinite"]),
        helper.make_node("Where", [f"{name}.infinite", "peak.zero", name], [f"{name}.finite"]),
        helper.make_node("Abs", [f"{name}.finite"], [f"{name}.magnitude"]),
        helper.make_node("ReduceMax", [f"{name}.magnitude"], [f"{name}.peak"], keepdims=0),
    )
