"""`engine.json`: what the device must know of a bundle's graphs to build engines of them without reading ONNX.

The workshop writes it when a bundle is made; the device plans a build from it alone. A bundle with several encoders has
one for each, in a directory of the encoder's name. There is one graph for each quantization:

| bundle | implicit quantization (TensorRT 10, on request) | explicit quantization (TensorRT 10 and 11) |
|---|---|---|
| classifier | `model.fp32.onnx`, ranges from calibration | `model.int8.trt.onnx`, Q/DQ pairs in it |
| classifier kept in floating point | `model.fp32.onnx`, layers set to FP16 | `model.fp16.onnx` |
| classifier with both | `engine.json` and `engine.fp16.json`: both lines above | both lines above |
| vision-language | `vision.fp16.onnx` | `vision.fp16.onnx` |
| retrieval, `vision` | `vision.fp16.onnx` | `vision.fp16.onnx` |
| retrieval, `text` | none | `text/model.int8.trt.onnx`, Q/DQ pairs in it |
| retrieval, `text` kept in floating point | `text/model.fp16.onnx` | `text/model.fp16.onnx` |
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from edgeq.artifact import Artifact, LaterFields
from edgeq.families.base import AxisRange
from edgeq.tensorrt.precisions import BindingType, LayerPrecision

__all__ = ["BATCH", "ENGINE_INPUTS", "FP16_INPUTS", "MOST_PROFILES", "Binding", "EngineGraph", "EngineInputs"]

ENGINE_INPUTS: Final = "engine.json"
"""The file's name in a bundle."""

FP16_INPUTS: Final = "engine.fp16.json"
"""The name of a second one, of a classifier in FP16: whether that or INT8 is quicker is measured on the device."""

BATCH: Final = "batch"
"""The free axis of images of a classifier, of texts of a text encoder, and of pictures (an image, or a tile where the
processor cuts images into tiles) of a vision encoder."""


MOST_PROFILES: Final = 8
"""Of one engine: each is tuned for itself, and takes as long to build as an engine."""


class Binding(BaseModel):
    """An input or output of a graph.

    Attributes:
        name: the ONNX tensor's.
        dtype: of its numbers.
        shape: axes in order; the name of one that the graph leaves free, None where it has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: BindingType
    shape: tuple[int | str | None, ...]

    @field_validator("shape")
    @classmethod
    def _batch_first(cls, shape: tuple[int | str | None, ...]) -> tuple[int | str | None, ...]:
        """A first axis without a name is the batch: it has none in files of the first release."""
        return (BATCH, *shape[1:]) if shape[:1] == (None,) else shape


class EngineGraph(LaterFields):
    """One ONNX file to build an engine from.

    Attributes:
        file: its name below the bundle.
        sha256: of that file, in hexadecimal. Weights in a file beside it are not in here; the manifest has theirs.
        weight_bytes: of all its constants as they are stored, those in a file beside it too.
        inputs, outputs: as its caller sees them, without constants.
        layers: what each layer shall compute in. They are set with implicit quantization, and the engine that was built
            is compared with them on both modes. In graphs with Casts (FP16) they are the types that the graph has; in a
            Q/DQ graph they are the plan's, since its layers have float types beside their Q/DQ pairs.
        casts: names of its Cast nodes. A kernel that holds one computes in other types than it reads and writes.
        half: it has FP16 numbers and no Cast: the scales of a Q/DQ graph alone say what is FP16.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    later: ClassVar[tuple[str, ...]] = ("half",)

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    weight_bytes: int = Field(ge=0)
    inputs: tuple[Binding, ...] = Field(min_length=1)
    outputs: tuple[Binding, ...] = Field(min_length=1)
    layers: tuple[LayerPrecision, ...]
    casts: tuple[str, ...] = ()
    half: bool = False


class EngineInputs(Artifact):
    """The graphs of one bundle.

    Attributes:
        precision: what most of its layers compute in. "int8": a classifier, or a text encoder. "fp16": a vision
            encoder, or what was kept in floating point; neither is calibrated.
        graphs: quantization -> graph. The two modes of quantization may share a file; either may be missing.
        pictures: most pictures that the image processor makes of one image: 1, or its tiles with the overview.
        ranges: of the inputs' free axes, by name; the batch's only where it is not that of one image's pictures.
        buckets: of a free axis, the ranges that each get an optimization profile with kernels of its own; by name, and
            in place of a range in `ranges`.
        plan_sha256: of the plan's file in the bundle, in hexadecimal; it is part of the engine's key.
    """

    otherwise = "does not say what an engine is built from"
    made_by = "edgeq prepare"

    version: Literal["edgeq.engine-inputs/1"] = "edgeq.engine-inputs/1"
    precision: Literal["int8", "fp16"]
    graphs: dict[Literal["implicit", "explicit"], EngineGraph]
    pictures: int = Field(default=1, ge=1)
    ranges: dict[str, AxisRange] = Field(default_factory=dict)
    buckets: dict[str, tuple[AxisRange, ...]] = Field(default_factory=dict)
    plan_sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _has_a_graph(self) -> Self:
        if not self.graphs:
            raise ValueError("no graph")
        if len(self.buckets) > 1 or any(not 0 < len(each) <= MOST_PROFILES for each in self.buckets.values()):
            raise ValueError(f"buckets are for one axis, 1 to {MOST_PROFILES} of them")
        return self
