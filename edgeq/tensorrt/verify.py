"""Whether an engine that was built computes as planned, as far as its inspector shows.

A kernel stands for several layers of the network, and shows the types of what it reads and writes and of its weights.
What that proves:

- a layer with weights computes in the type of the weights; where they are not shown, in the narrowest type it reads;
- any other layer computes in a type that its kernel reads or writes;
- inside a kernel that holds a Cast, or a block of which only the two ends are named, other types may be computed in
  than are read and written: a layer whose planned type does not appear there is not shown;
- with explicit quantization TensorRT keeps to the graph's types, and an INT8 layer without weights may run wider where
  the Q/DQ pairs around it were moved away;
- there a kernel that reads INT8 and shows no weights may hold the DequantizeLinear, and compute behind it in the type
  that was planned, as an activation function behind an INT8 convolution does; and one that names a QuantizeLinear may
  compute behind that in INT8, whatever it reads.

So of a Q/DQ graph in FP16, INT8 layers with weights must show INT8 weights, the head FP32, and all others FP16. What
is not shown is reported. It is left to the canaries.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeq.errors import QuantizeError
from edgeq.plan.rules import STORED_IN_INT8
from edgeq.tensorrt.inspector import EngineLayer
from edgeq.tensorrt.loading import QuantizationMode
from edgeq.tensorrt.precisions import VANISHING, DataType, LayerPrecision

__all__ = ["verify_tensorrt"]

_ONNX_LAYER: Final = re.compile(r"\[ONNX Layer: (.*?)(?: \| [^\]]*)?\](?=[^\w/]*(?:\[|$))")
_BLOCK: Final = re.compile(r"ForeignNode\[(.+)\.\.\.(.+)\]")
_UNNAMED: Final = re.compile(r"\(Unnamed Layer\* \d+\) \[\w+\]")
_QUANTIZE: Final = ".QuantizeLinear"
"""How the lowered graph's nodes of that operator end: `edgeq.quantize.int8.pairs`."""
_WIDTH: Final[dict[DataType, int]] = {"int8": 1, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class _Kernel:
    """An engine's layer with the ONNX nodes that it stands for; `hides` is whether it may compute in other types."""

    layer: EngineLayer
    nodes: tuple[str, ...]
    hides: bool


def verify_tensorrt(
    planned: Sequence[LayerPrecision],
    engine: Sequence[EngineLayer],
    *,
    casts: Collection[str] = (),
    quantization: QuantizationMode = "implicit",
) -> tuple[str, ...]:
    """Compare what was planned with what an engine shows.

    Args:
        planned: in the graph's order.
        engine: its layers. Their names may stand for several of the network: "a + b", "PWN(a, b)",
            "{ForeignNode[a...b]}" for all from a to b; metadata, where there is any, goes before names. Reformatting
            layers are passed over. The forms are those that engines were seen to write in public; no engine was
            built here.
        casts: names of the graph's Cast nodes.
        quantization: on which it was built.

    Returns:
        The planned layers that the engine does not show, a sentence each, but for those that compute nothing.

    Raises:
        QuantizeError: with every layer that computes in something else, and every one with weights that no name stands
            for.
    """
    precisions = {layer.name: layer.precision for layer in planned}
    kernels = [_kernel(layer, precisions, frozenset(casts)) for layer in engine if not _moves(layer)]
    found: dict[str, list[_Kernel]] = {}
    for kernel in kernels:
        for name in kernel.nodes:
            found.setdefault(name, []).append(kernel)
    lost = any(_loses_names(kernel) for kernel in kernels)
    faults: list[str] = []
    unseen: list[str] = []
    for layer in planned:
        wrong, unknown = _judge(layer, found.get(layer.name, []), quantization, lost=lost)
        faults += wrong
        unseen += unknown
    if faults:
        raise QuantizeError(
            f"the engine differs from its plan in {len(set(faults))} places",
            causes=tuple(dict.fromkeys(faults)),
            next_step="look at the builder's log for the constraints it left",
        )
    return tuple(dict.fromkeys(unseen))


def _moves(layer: EngineLayer) -> bool:
    return layer.kind in ("NoOp", "Reformat") or layer.name.startswith("Reformatting CopyNode")


def _loses_names(kernel: _Kernel) -> bool:
    """A block between layers that nobody planned, or metadata that was cut short, which the parser does at 4,000."""
    return (_BLOCK.search(kernel.layer.name) is not None and not kernel.nodes) or " ... " in kernel.layer.metadata


def _judge(
    layer: LayerPrecision, kernels: Sequence[_Kernel], quantization: QuantizationMode, *, lost: bool
) -> tuple[list[str], list[str]]:
    """The faults of one layer, and what is not shown of it."""
    if not kernels:
        missing = f"{layer.name}: planned {layer.precision}, and the engine does not name it"
        if layer.op in VANISHING:
            return [], []
        return ([missing], []) if layer.op in STORED_IN_INT8 and not lost else ([], [missing])
    if layer.op in STORED_IN_INT8:  # kernels that prepare its input may bear its name as well
        kernels = [kernel for kernel in kernels if kernel.layer.weights] or kernels
    faults: list[str] = []
    unseen: list[str] = []
    for kernel in kernels:
        shown = _computes(layer, kernel.layer)
        if layer.precision in shown or (shown and _may_widen(layer, quantization)):
            continue
        said = f"{layer.name}: planned {layer.precision}, the engine has {_words(kernel.layer)}{_inside(layer, kernel)}"
        hidden = kernel.hides or not shown or (quantization == "explicit" and _converts(layer, kernel))
        (unseen if hidden else faults).append(said)
    return faults, unseen


def _computes(layer: LayerPrecision, kernel: EngineLayer) -> frozenset[DataType]:
    """The types that a layer may compute in, given its kernel."""
    if layer.op not in STORED_IN_INT8:
        return frozenset((*kernel.reads, *kernel.writes, *([kernel.weights] if kernel.weights else [])))
    if kernel.weights:
        return frozenset({kernel.weights})
    return frozenset(sorted(kernel.reads, key=_WIDTH.__getitem__)[:1])


def _may_widen(layer: LayerPrecision, quantization: QuantizationMode) -> bool:
    return quantization == "explicit" and layer.precision == "int8" and layer.op not in STORED_IN_INT8


def _converts(layer: LayerPrecision, kernel: _Kernel) -> bool:
    """Whether a layer's kernel may hold the Q/DQ node before it, and so read another type than the layer does."""
    shown = kernel.layer.weights is not None and layer.op in STORED_IN_INT8  # otherwise they are another layer's in it
    if layer.precision == "int8":
        return not shown and any(name.endswith(_QUANTIZE) for name in kernel.nodes)
    return not shown and "int8" in kernel.layer.reads


def _words(kernel: EngineLayer) -> str:
    if not (kernel.reads or kernel.writes or kernel.weights):
        return "types that it does not show"
    weights = f" with {kernel.weights} weights" if kernel.weights else ""
    return f"{'/'.join(kernel.reads) or 'nothing'} to {'/'.join(kernel.writes) or 'nothing'}{weights}"


def _inside(layer: LayerPrecision, kernel: _Kernel) -> str:
    return "" if kernel.layer.name == layer.name else f" in {kernel.layer.name[:200]}"


def _kernel(layer: EngineLayer, planned: Mapping[str, DataType], casts: frozenset[str]) -> _Kernel:
    if listed := _ONNX_LAYER.findall(layer.metadata) or _ONNX_LAYER.findall(layer.name):
        return _Kernel(layer, tuple(dict.fromkeys(listed)), hides=not casts.isdisjoint(listed))
    if block := _BLOCK.search(layer.name):
        nodes = _between(block[1], block[2], list(planned))
        return _Kernel(layer, nodes, hides=bool(casts) or len({planned[name] for name in nodes}) > 1)
    names = tuple(_names(layer.name))
    return _Kernel(layer, names, hides=not casts.isdisjoint(names))


def _between(first: str, last: str, order: Sequence[str]) -> tuple[str, ...]:
    """All layers from `first` to `last`; none where an end has no name that was planned."""
    ends = [[name for name in _names(end) if name in order] for end in (first, last)]
    if not all(ends):
        return ()
    return tuple(order[order.index(ends[0][0]) : order.index(ends[1][-1]) + 1])


def _names(engine_layer: str) -> Iterator[str]:
    """The names in "a + PWN(b, c) + (Unnamed Layer* 3) [Shuffle]"."""
    for name in re.split(r" \+ |, ", _UNNAMED.sub("", engine_layer)):
        inner = name
        while inner.startswith("PWN("):
            inner = inner.removeprefix("PWN(")
        yield inner.rstrip(")") if "PWN(" in engine_layer else inner
