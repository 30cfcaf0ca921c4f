"""`vision.json`: the vision half of a model as graphs, and what was proved of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeq.errors import ArtifactError
from edgeq.files import atomic_write, sha256_file
from edgeq.quality.token_parity import TokenParity

__all__ = [
    "FEATURES",
    "PIXELS",
    "VISION",
    "VISION_FP16",
    "VISION_FP32",
    "GraphFiles",
    "HalfReport",
    "VisionReport",
]

VISION_FP32: Final = "vision.fp32.onnx"
VISION_FP16: Final = "vision.fp16.onnx"
VISION: Final = "vision.json"
PIXELS, FEATURES = "pixel_values", "image_features"
"""Names of a vision graph's input and output."""


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
        input_name, input_dtype: of the pixels.
        image: their shape without the batch axis, (3, H, W).
        output_name, output_dtype: of the features [batch, image_tokens, hidden].
        image_tokens: features of one picture, which is a tile where the processor cuts photographs into tiles.
        hidden: width of the language model.
        opset, ir_version: of the graphs.
        parameters: numbers of encoder and connector; layers that no feature depends on are not in the graph.
        fp32: the FP32 graph.
        parity: transformers' own modules in FP32 against it, on photographs.
        fp16: the FP16 graph, once it is made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.vision/1"] = "edgeq.vision/1"
    model_type: str
    input_name: str = PIXELS
    input_dtype: Literal["float32"] = "float32"
    image: tuple[int, int, int]
    output_name: str = FEATURES
    output_dtype: Literal["float32"] = "float32"
    image_tokens: int
    hidden: int
    opset: int
    ir_version: int
    parameters: int
    fp32: GraphFiles
    parity: TokenParity
    fp16: HalfReport | None = None

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
            report = cls.model_validate_json((directory / VISION).read_bytes())
        except (OSError, ValidationError) as error:
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
