"""What TensorRT's engine inspector says of an engine's layers.

Its JSON is documented nowhere. The form read here is that of engines that others published (TensorRT 8 to 10, among
them those of NVIDIA's engine explorer): a list `Layers` of objects with `Name`, `LayerType`, `Inputs` and `Outputs`
(each with `Format/Datatype`), and, where they apply, `Weights` with a `Type`, `TacticName`, and `Metadata` with the
ONNX nodes behind the layer. Without detailed profiling verbosity the layers are bare names. Of engines with a free
batch axis tensors are often `N/A due to dynamic shapes`; an execution context with shapes is bound against that, and
where it does not help, weights and the names of the kernels are left. Of an engine with several optimization profiles
the layers of each are listed, and a number may stand behind a name: ` [profile 1]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from edgeq.errors import EngineError
from edgeq.tensorrt.precisions import DataType
from edgeq.tensorrt.settings import ShapeRange

__all__ = ["EngineLayer", "data_type", "engine_information", "read_layers"]

_SAID: Final[dict[DataType, re.Pattern[str]]] = {
    "int8": re.compile(r"(?<!u)int8", re.IGNORECASE),
    "float16": re.compile(r"(?<!b)fp16|(?<!b)float16|\bhalf", re.IGNORECASE),
    "float32": re.compile(r"fp32|float32|\bfloat$", re.IGNORECASE),
}
_PROFILE: Final = re.compile(r" \[profile \d+\]$", re.IGNORECASE)
_OPERANDS = re.compile(r"_(i8|f16|f32)(?:i8|i32|f16|f32)_")
_SHORT: Final[dict[str, DataType]] = {"i8": "int8", "f16": "float16", "f32": "float32"}


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine, which may stand for many of the network.

    Attributes:
        name: TensorRT's, without the optimization profile that the layer is of.
        kind: TensorRT's `LayerType`, such as "CaskConvolution" or "Reformat".
        metadata: the ONNX nodes behind it, `[ONNX Layer: NODE]` each; empty in engines that have none.
        reads, writes: types of its tensors, in order; other types than the three, and those not told, are left out.
        weights: type of its weights, as it says itself or as the kernel's name has it; None where neither does.
    """

    name: str
    kind: str = ""
    metadata: str = ""
    reads: tuple[DataType, ...] = ()
    writes: tuple[DataType, ...] = ()
    weights: DataType | None = None


def data_type(text: str) -> DataType | None:
    """The type in the inspector's words ("Int8", "Half", "Row major linear FP16 format"); None for any other."""
    return next((kind for kind, pattern in _SAID.items() if pattern.search(text)), None)


def engine_information(trt: ModuleType, engine: Any, profile: Sequence[ShapeRange]) -> str:
    """The inspector's JSON of a deserialized engine (`ICudaEngine`), for `read_layers`.

    Args:
        trt: TensorRT.
        engine: built with detailed profiling verbosity.
        profile: the ranges that it was built for, of the first of several.
    """
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is not None:  # it lives until the inspector is done; without one only shapes are missing
        for entry in profile:
            context.set_input_shape(entry.input, entry.opt)
        inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def read_layers(text: str) -> tuple[EngineLayer, ...]:
    """The layers in the inspector's JSON, in the order in which they run.

    Raises:
        EngineError: it is no JSON of this form, or has names only.
    """
    try:
        layers = json.loads(text, strict=False)["Layers"]  # names are joined by control characters
        if all(isinstance(layer, str) for layer in layers):
            raise TypeError("layers by name only" if layers else "no layers")
        return tuple(_layer(layer) for layer in layers if isinstance(layer, dict))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            "what TensorRT's inspector says of the engine cannot be read",
            expected="JSON with the layers in detail",
            causes=(f"{type(error).__name__}: {error}"[:200], "the engine was built without detailed verbosity"),
        ) from error


def _layer(raw: dict[str, Any]) -> EngineLayer:
    return EngineLayer(
        name=_PROFILE.sub("", str(raw["Name"])),
        kind=str(raw.get("LayerType") or ""),
        metadata=str(raw.get("Metadata") or ""),
        reads=_types(raw.get("Inputs", [])),
        writes=_types(raw.get("Outputs", [])),
        weights=_weights(raw),
    )


def _types(tensors: list[dict[str, Any]]) -> tuple[DataType, ...]:
    said = [str(tensor.get("Format/Datatype") or tensor.get("Datatype") or "") for tensor in tensors]
    return tuple(kind for kind in map(data_type, said) if kind is not None)


def _weights(raw: dict[str, Any]) -> DataType | None:
    """As the layer says; else the first operand in a name like `sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_nhwc`."""
    said = raw.get("Weights")
    if isinstance(said, dict) and (kind := data_type(str(said.get("Type", "")))):
        return kind
    found = _OPERANDS.search(str(raw.get("TacticName", "")))
    return _SHORT[found[1]] if found else None
