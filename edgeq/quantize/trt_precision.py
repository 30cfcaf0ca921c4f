"""Lower a plan to TensorRT's weakly typed road (10.x): the precision and output types to set on each layer.

A builder sets `layer.precision = getattr(trt, entry.precision)` and `layer.set_output_type(i, getattr(trt, type))` for
the network's layer of that name, with BuilderFlag.OBEY_PRECISION_CONSTRAINTS. TensorRT's ONNX parser names layers after
ONNX nodes; the layers that it adds itself ("(Unnamed Layer* 3) [Shuffle]") are in no plan and are left alone.

Left out are layers that take no precision or have nothing to choose: constants and what follows from constants alone,
shapes (TensorRT computes them as integers), Concat (it moves what its neighbours made; NVIDIA's own INT8 sample leaves
it out), Cast (it says its type itself), and whatever writes no floating-point tensor. The network's own outputs stay
float32: set_output_type changes the layer, not the binding, whose `dtype` the builder sets. TensorRT 11 has no such
constraints: there the Q/DQ graph says it all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import onnx
from onnx import TensorProto
from pydantic import BaseModel, ConfigDict, ValidationError

from edgeq.errors import ArtifactError, QuantizeError
from edgeq.files import atomic_write
from edgeq.model.graph import constant_names
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import CARRIERS
from edgeq.quantize.half import element_types

__all__ = ["DataType", "LayerPrecision", "load_precisions", "save_precisions", "tensorrt_precisions", "verify_tensorrt"]

VERSION: Final = "edgeq.trt-precisions/1"

DataType = Literal["float32", "float16", "int8"]
"""Names as TensorRT's Python module has them."""

_DATA_TYPES: Final[dict[Precision, DataType]] = {
    Precision.FP32: "float32",
    Precision.FP16: "float16",
    Precision.INT8: "int8",
}

_LEFT_OUT: Final = frozenset({"Cast", "Concat", "Constant", "ConstantOfShape", "Range", "Shape", "Size"})
_MAY_VANISH: Final = CARRIERS | {"Dropout", "Identity"}
"""Layers that compute nothing; TensorRT merges them into others without a word."""

_SAID: Final[dict[DataType, re.Pattern[str]]] = {
    "int8": re.compile(r"int8", re.IGNORECASE),
    "float16": re.compile(r"fp16|float16|half", re.IGNORECASE),
    "float32": re.compile(r"fp32|float32|float$", re.IGNORECASE),
}
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_BLOCK = re.compile(r"ForeignNode\[(.+)\.\.\.(.+)\]")


class LayerPrecision(BaseModel):
    """What to set on one layer of a network.

    Attributes:
        name: the layer's name, which is the ONNX node's.
        op: the ONNX operator.
        precision: for `layer.precision`.
        outputs: for `layer.set_output_type`, in order; None where the output is not floating point: set nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    op: str
    precision: DataType
    outputs: tuple[DataType | None, ...]


class _Saved(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.trt-precisions/1"] = VERSION
    layers: tuple[LayerPrecision, ...]


def tensorrt_precisions(plan: PrecisionPlan, model: onnx.ModelProto) -> tuple[LayerPrecision, ...]:
    """The precision and output types of each layer of the plan that takes them, in the graph's order.

    A layer writes what it computes in, with two exceptions: an INT8 layer that a floating-point layer reads writes that
    layer's type (the widest of several), and what the network gives its caller is float32.

    Args:
        plan: for that graph; FP32, FP16 and INT8.
        model: the float32 graph.

    Raises:
        QuantizeError: the plan asks for something that TensorRT's layers do not have, or is of another graph.
    """
    planned = {decision.layer: decision.precision for decision in plan.decisions}
    _check(planned, model)
    types, fixed, readers = element_types(model), constant_names(model.graph), _readers(model)
    given = {output.name for output in model.graph.output}

    def written(tensor: str, precision: Precision) -> DataType | None:
        if types.get(tensor) != TensorProto.FLOAT:
            return None
        if tensor in given:
            return "float32"
        return _widest(precision, [planned[name] for name in readers.get(tensor, []) if name in planned])

    return tuple(
        LayerPrecision(
            name=node.name,
            op=node.op_type,
            precision=_DATA_TYPES[planned[node.name]],
            outputs=tuple(written(name, planned[node.name]) for name in node.output),
        )
        for node in model.graph.node
        if node.name in planned
        and node.op_type not in _LEFT_OUT
        and any(types.get(name) == TensorProto.FLOAT and name not in fixed for name in node.output)
    )


def _check(planned: Mapping[str, Precision], model: onnx.ModelProto) -> None:
    present = {node.name for node in model.graph.node}
    faults = [f"{layer}: planned, but not in the graph" for layer in planned if layer not in present]
    faults += [f"{name}: TensorRT has no {kind.value}" for name, kind in planned.items() if kind not in _DATA_TYPES]
    _raise_if(faults, "the plan cannot be given to TensorRT", "plan this graph again")


def _readers(model: onnx.ModelProto) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    return readers


def _widest(precision: Precision, readers: Sequence[Precision]) -> DataType:
    """What a layer of this precision writes for these readers."""
    if precision is not Precision.INT8:
        return _DATA_TYPES[precision]
    return next((_DATA_TYPES[kind] for kind in (Precision.FP32, Precision.FP16) if kind in readers), "int8")


def verify_tensorrt(planned: Sequence[LayerPrecision], found: Mapping[str, str]) -> None:
    """Compare what was planned with what an engine inspector says.

    Args:
        planned: in the graph's order.
        found: the engine's layer -> the type it computes in, in the inspector's words ("Int8", "Half", "Row major
            linear FP16 format"). The engine's names may stand for several layers: "a + b", "PWN(a, b)",
            "{ForeignNode[a...b]}" for all from a to b, or a list of "[ONNX Layer: a]". Reformatting layers are
            passed over. The forms are those that engines were seen to write in public; no engine was built here.

    Raises:
        QuantizeError: with every layer that computes in something else, and every one that no name stands for. Layers
            that compute nothing may be missing.
    """
    order = [layer.name for layer in planned]
    said: dict[str, list[tuple[str, str]]] = {}
    for engine_layer, text in found.items():
        for name in _stands_for(engine_layer, order):
            said.setdefault(name, []).append((engine_layer, text))
    faults = [fault for layer in planned for fault in _faults(layer, said.get(layer.name, []))]
    _raise_if(faults, "the engine differs from its plan", "look at the builder's log for the constraints it left")


def _raise_if(faults: Sequence[str], what: str, next_step: str) -> None:
    if faults:
        raise QuantizeError(f"{what} in {len(faults)} places", causes=tuple(faults), next_step=next_step)


def _faults(layer: LayerPrecision, said: Sequence[tuple[str, str]]) -> Iterator[str]:
    if not said and layer.op not in _MAY_VANISH:
        yield f"{layer.name}: planned {layer.precision}, and the engine does not name it"
    for engine_layer, text in said:
        if not _SAID[layer.precision].search(text):
            inside = "" if engine_layer == layer.name else f" in {engine_layer}"
            yield f"{layer.name}: planned {layer.precision}, the engine has {text}{inside}"


def _stands_for(engine_layer: str, order: Sequence[str]) -> list[str]:
    """The ONNX nodes behind the name of an engine's layer."""
    if listed := _ONNX_LAYER.findall(engine_layer):
        return list(listed)
    if engine_layer.startswith("Reformatting CopyNode"):
        return []
    if block := _BLOCK.search(engine_layer):
        ends = [order.index(name) for name in block.groups() if name in order]
        return list(order[ends[0] : ends[1] + 1]) if len(ends) == 2 else []
    name = engine_layer.replace("PWN(", "").replace(")", "") if "PWN(" in engine_layer else engine_layer
    return re.split(r" \+ |, ", name)


def save_precisions(layers: Sequence[LayerPrecision], path: Path) -> None:
    """Write them as JSON, atomically."""
    atomic_write(path, (_Saved(layers=tuple(layers)).model_dump_json(indent=1) + "\n").encode())


def load_precisions(path: Path) -> tuple[LayerPrecision, ...]:
    """Read them back.

    Raises:
        ArtifactError: the file is missing, is not JSON, or is of another version.
    """
    try:
        return _Saved.model_validate_json(path.read_bytes()).layers
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"{path} has no layer precisions for TensorRT",
            expected=f"JSON with version {VERSION}",
            causes=(" ".join(str(error).split())[:300],),
        ) from error
