"""What each layer of an engine shall compute in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeq.errors import ArtifactError
from edgeq.files import atomic_write
from edgeq.plan.rules import CARRIERS

__all__ = ["VANISHING", "BindingType", "DataType", "LayerPrecision", "load_precisions", "save_precisions"]

VERSION: Final = "edgeq.trt-precisions/1"

DataType = Literal["float32", "float16", "int8"]
"""Names as TensorRT's Python module has them."""

BindingType = Literal[DataType, "int64"]
"""What an engine is given and gives; no layer computes in int64."""

VANISHING: Final = CARRIERS | {"Dropout", "Identity"}
"""Operators that compute nothing; TensorRT merges them into others without a word."""


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
