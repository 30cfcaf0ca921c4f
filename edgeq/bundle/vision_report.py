"""`vision.json`: the vision half of a model as graphs, and what was proved of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeq.errors import ArtifactError
from edgeq.families.base import AxisRange
from edgeq.files import atomic_write, sha256_file
from edgeq.quality.token_parity import TokenParity
from edgeq.strict_json import read_model

__all__ = [
    "TOKENS",
    "VISION",
    "VISION_FP16",
    "VISION_FP32",
    "GraphFiles",
    "GraphTensor",
    "HalfReport",
    "VisionReport",
]

VISION_FP32: Final = "vision.fp32.onnx"
VISION_FP16: Final = "vision.fp16.onnx"
VISION: Final = "vision.json"
TOKENS: Final = "tokens"
"""The free axis of an output with as many rows as the image asks for."""


class GraphFiles(BaseModel):
    """An ONNX file, with the file of its weights where they are outside.

    Attributes:
        sha256: file name -> SHA-256 in hexadecimal.
        bytes: of all files together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: dict[str, str]
    bytes: int

    @classmethod
    def of(cls, path: Path) -> GraphFiles:
        """Measure the graph at `path`."""
        files = [file for file in (path, path.with_name(f"{path.name}.data")) if file.is_file()]
        return cls(
            sha256={file.name: sha256_file(file) for file in files}, bytes=sum(file.stat().st_size for file in files)
        )


class GraphTensor(BaseModel):
    """An input or output of a graph.

    Attributes:
        name: the ONNX tensor's.
        dtype: of its numbers.
        axes: the length of each axis, or the name of one that is free.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: Literal["float32", "int64"]
    axes: tuple[int | str, ...]


class HalfReport(BaseModel):
    """The FP16 graph.

    Attributes:
        files: where it lies.
        parity: the FP32 graph against it, every FP16 tensor rounded and sums accumulated in FP32, as a GPU does.
        fp16_layers: how many layers compute in FP16.
        fp32_layers: layer -> why it does not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: GraphFiles
    parity: TokenParity
    fp16_layers: int
    fp32_layers: dict[str, str]


class VisionReport(BaseModel):
    """The vision half of a model as graphs.

    Attributes:
        model_type: from config.json.
        inputs, outputs: of the graphs. The first output are the features, [batch, image_tokens, hidden] of pictures.
        image: of a graph that takes pictures, the shape of one, (3, H, W).
        lengths: free axis, but for the batch of pictures -> how long it was with the photographs.
        image_tokens: features of one picture, which is a tile where the processor cuts photographs into tiles; of the
            largest photograph where the graph takes no pictures.
        hidden: width of the language model.
        opset, ir_version: of the graphs.
        parameters: numbers of encoder and connector; layers that no feature depends on are not in the graph.
        fp32: the FP32 graph.
        parity: transformers' own modules in FP32 against it, on photographs.
        fp16: the FP16 graph, once it is made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.vision/2"] = "edgeq.vision/2"
    model_type: str
    inputs: tuple[GraphTensor, ...] = Field(min_length=1)
    outputs: tuple[GraphTensor, ...] = Field(min_length=1)
    image: tuple[int, int, int] | None = None
    lengths: dict[str, AxisRange] = Field(default_factory=dict)
    image_tokens: int
    hidden: int
    opset: int
    ir_version: int
    parameters: int
    fp32: GraphFiles
    parity: TokenParity
    fp16: HalfReport | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_input(cls, data: Any) -> Any:
        """Reports of version 1 are of graphs from pictures to features alone."""
        if not isinstance(data, dict) or data.get("version") != "edgeq.vision/1":
            return data
        old = {"input_name", "input_dtype", "output_name", "output_dtype"}
        axes = {"input": ["batch", *data["image"]], "output": ["batch", data["image_tokens"], data["hidden"]]}
        tensors = {
            f"{kind}s": [{"name": data[f"{kind}_name"], "dtype": data[f"{kind}_dtype"], "axes": shape}]
            for kind, shape in axes.items()
        }
        return {key: value for key, value in data.items() if key not in old} | tensors | {"version": "edgeq.vision/2"}

    def save(self, directory: Path) -> None:
        """Write `vision.json`, atomically."""
        atomic_write(directory / VISION, self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, directory: Path) -> VisionReport:
        """Read `vision.json`, and check that the graphs are the ones that were proved; a bundle may lack the FP32 one.

        Raises:
            ArtifactError: there is no report, or a graph was changed since.
        """
        try:
            report = read_model(cls, (directory / VISION).read_bytes())
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{directory} has no vision graph that edgeq made", expected=f"{VISION_FP32} and {VISION}"
            ) from error
        graphs = {VISION_FP32: report.fp32}
        if report.fp16:
            graphs[VISION_FP16] = report.fp16.files
            if not (directory / VISION_FP32).exists():
                del graphs[VISION_FP32]
        for name, files in graphs.items():
            if GraphFiles.of(directory / name) != files:
                raise ArtifactError(
                    f"{directory / name} is not the graph that {VISION} describes",
                    causes=("it was changed or lost since",),
                    next_step="export the model again",
                )
        return report
