"""Bring a model to an opset which all its readers know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import ModelError, first_line

if TYPE_CHECKING:
    import onnx

__all__ = ["MAX_OPSET", "MIN_OPSET", "opset_of", "to_supported_opset"]

MIN_OPSET = 17
"""The oldest opset worked with: LayerNormalization is one node from here on."""
MAX_OPSET = 18
"""The newest opset worked with: TensorRT 10.3, the newest on JetPack 6 for Orin, is sure of it."""

_WHY = "opset 17 or 18: TensorRT 10.3 on Jetson Orin does not read all of what is newer"
_NEXT_STEP = "export the model with opset_version=17 or 18"


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set; 0 when the model does not say it."""
    return max((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), default=0)


def to_supported_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model itself when its opset is 17 or 18, else a converted copy, checked, with the same inputs and outputs.

    Raises:
        ModelError: the model cannot be converted.
    """
    version = opset_of(model)
    if MIN_OPSET <= version <= MAX_OPSET:
        return model
    target = MIN_OPSET if version < MIN_OPSET else MAX_OPSET
    converted = _convert(model, version, target, path)
    if opset_of(converted) != target or _signature(converted) != _signature(model):
        raise ModelError(
            f"{path}: the conversion from opset {version} to {target} changed the inputs or outputs",
            next_step=_NEXT_STEP,
        )
    return converted


def _convert(model: onnx.ModelProto, version: int, target: int, path: Path) -> onnx.ModelProto:
    """Convert with ONNX's own converter and check what it made, shapes included."""
    import onnx
    from onnx import version_converter

    try:
        converted = version_converter.convert_version(model, target)
        onnx.checker.check_model(converted, full_check=True)
    except (
        Exception
    ) as error:  # the converter raises RuntimeError, ValueError, ConvertError, DecodeError, InferenceError
        reason = first_line(error)
        raise ModelError(
            f"{path} has opset {version} and cannot be converted to {target}: {reason}",
            expected=_WHY,
            next_step=_NEXT_STEP,
        ) from error
    return converted


def _signature(model: onnx.ModelProto) -> tuple[tuple[str, int], ...]:
    """Names and element types of the inputs and outputs."""
    values = [*model.graph.input, *model.graph.output]
    return tuple((value.name, value.type.tensor_type.elem_type) for value in values)
