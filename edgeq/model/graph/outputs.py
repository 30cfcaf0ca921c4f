"""What a graph gives: each output with its type and shape, as far as that is known before the network runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

__all__ = ["NO_TENSOR", "GraphOutput", "describe_tensors", "read_outputs"]

NO_TENSOR: Final = "no tensor"
_FLOATS: Final = ("float", "double", "float16", "bfloat16")
_CHANNELS: Final = (1, 3, 4)
_IMAGE_AXES: Final = 4


@dataclass(frozen=True)
class GraphOutput:
    """One output.

    Attributes:
        name: of the tensor.
        kind: of its elements, in ONNX's words, such as `float`; `no tensor` for sequences, maps and the like.
        shape: for one image, or as many as the graph is fixed to; None for an axis, or for all of it, where that is not
            known before the network runs.
        batched: the first axis is that of the images.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None
    batched: bool = True

    def __str__(self) -> str:
        """Name, type and shape for a person."""
        if self.kind == NO_TENSOR:
            return f"{self.name} ({NO_TENSOR})"
        if self.shape is None:
            return f"{self.name} {self.kind}, shape not known"
        axes = ["?" if axis is None else str(axis) for axis in self.shape]
        return f"{self.name} {self.kind} [{', '.join(['batch', *axes[1:]] if self.batched else axes)}]"

    @property
    def numbers(self) -> int | None:
        """Of one image, where the output is one vector for each: at most one axis behind the first is not 1."""
        if not self.batched or not self.shape or None in self.shape[1:]:
            return None
        axes = [int(axis or 0) for axis in self.shape[1:]]
        return math.prod(axes) if sum(axis != 1 for axis in axes) <= 1 else None

    @property
    def is_float(self) -> bool:
        """Whether its elements are floating point."""
        return self.kind in _FLOATS


def read_outputs(model: onnx.ModelProto, image: tuple[int, int] | None = None) -> tuple[GraphOutput, ...]:
    """The outputs of a graph with what ONNX's inference finds of them; where it finds nothing, what the file claims.

    Args:
        model: nodes in order; weights need not be there.
        image: height and width in pixels that a free size of the input stands for; None leaves it free.
    """
    return describe_tensors(model, [value.name for value in model.graph.output], image)


def describe_tensors(
    model: onnx.ModelProto, names: Sequence[str], image: tuple[int, int] | None = None
) -> tuple[GraphOutput, ...]:
    """As `read_outputs`, for any tensors of the graph.

    Args:
        model, image: as there.
        names: of the tensors.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    del bare.graph.output[:]
    bare.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    images = _fix_input(bare, image)
    try:
        graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
        found = {value.name: value for value in (*graph.value_info, *graph.output) if value.HasField("type")}
    except (onnx.shape_inference.InferenceError, ValueError):  # contradictions, or more than 2 GB
        found = {}
    claimed = {value.name: value for value in model.graph.output}
    return tuple(_read(name, found.get(name), claimed.get(name), images) for name in names)


def _fix_input(model: onnx.ModelProto, image: tuple[int, int] | None) -> int:
    """One image, of the size that is known, or as many images as the graph is fixed to; their number."""
    images = 1
    for value in model.graph.input[:1]:
        axes = value.type.tensor_type.shape.dim
        if axes and not axes[0].dim_value:
            axes[0].dim_value = 1
        images = axes[0].dim_value if axes else 1
        if image is None or len(axes) != _IMAGE_AXES:
            continue
        last = axes[3].dim_value in _CHANNELS and axes[1].dim_value not in _CHANNELS
        for axis, side in zip((1, 2) if last else (2, 3), image, strict=True):
            if not axes[axis].dim_value:
                axes[axis].dim_value = side
    return images


def _read(
    name: str, inferred: onnx.ValueInfoProto | None, claimed: onnx.ValueInfoProto | None, images: int
) -> GraphOutput:
    import onnx

    known = [value for value in (inferred, claimed) if value is not None and value.type.WhichOneof("value")]
    if not known:
        return GraphOutput(name, "float", None)
    if not known[0].type.HasField("tensor_type"):
        return GraphOutput(name, NO_TENSOR, None)
    shapes = [_shape(each) for each in (inferred, claimed)]
    kind = onnx.TensorProto.DataType.Name(known[0].type.tensor_type.elem_type).lower()
    shape = _joined(*shapes)
    return GraphOutput(name, kind, shape, shape is not None and shape[:1] == (images,))


def _shape(value: onnx.ValueInfoProto | None) -> tuple[int | None, ...] | None:
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
        for axis in value.type.tensor_type.shape.dim
    )


def _joined(
    inferred: tuple[int | None, ...] | None, claimed: tuple[int | None, ...] | None
) -> tuple[int | None, ...] | None:
    """What was inferred, and the claimed length of axes of which inference says nothing."""
    if inferred is None or claimed is None or len(inferred) != len(claimed):
        return claimed if inferred is None else inferred
    return tuple(other if axis is None else axis for axis, other in zip(inferred, claimed, strict=True))
