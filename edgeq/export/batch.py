"""A dynamic batch axis for graphs that were exported with a fixed one."""

from __future__ import annotations

import onnx

from edgeq.errors import ModelError

__all__ = ["image_size", "with_dynamic_batch"]


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose first axis is called `batch` on its input and its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes:
            axes[0].dim_param = "batch"
    del copy.graph.value_info[:]
    return copy


def image_size(model: onnx.ModelProto) -> tuple[int | None, int | None]:
    """Height and width of the graph's input, None where an axis is dynamic.

    Raises:
        ModelError: the graph does not take one tensor float32 [batch, 3, H, W].
    """
    inputs = model.graph.input
    tensor = inputs[0].type.tensor_type if inputs else None
    axes = [axis.dim_value or None for axis in tensor.shape.dim] if tensor is not None else []
    fits = len(inputs) == 1 and len(axes) == 4 and axes[1] in (None, 3)
    if tensor is None or not fits or tensor.elem_type != onnx.TensorProto.FLOAT:
        found = ", ".join(f"{value.name} of rank {len(value.type.tensor_type.shape.dim)}" for value in inputs)
        raise ModelError(
            f"the graph takes {found or 'no input'}",
            expected="one input, float32 [batch, 3, height, width]",
            causes=("it is not an image classifier", "it was exported in channels-last order"),
        )
    return axes[2], axes[3]
