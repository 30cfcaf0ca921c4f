"""What a graph takes: one tensor of images, its type, its layout, its size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx
from onnx import TensorProto

from edgeq.errors import ModelError

__all__ = ["channels_first", "check_input", "image_channels", "image_size", "is_channels_last"]

_CHANNELS: Final = (1, 3)
_TAKEN: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)
_TO_LAST = (0, 2, 3, 1)  # [n, 3, H, W] -> [n, H, W, 3]
_EXPECTED = (
    "one input, float32, float16 or uint8, [batch, channels, height, width] or [batch, height, width, channels], of 3 "
    "channels or 1"
)


def is_channels_last(model: onnx.ModelProto) -> bool:
    """Whether the graph's first input says that it is [batch, height, width, channels], and not channels first."""
    axes = _axes(model.graph.input[0]) if model.graph.input else ()
    return len(axes) == 4 and axes[3] in _CHANNELS and axes[1] not in _CHANNELS


def channels_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes [batch, C, height, width] under the input's name, and gives its first nodes the old order.

    Exporters from TensorFlow begin with a Transpose of their own; `edgeq.export.simplify` takes both out.

    Args:
        model: whose first input is [batch, height, width, C].
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    value = made.graph.input[0]
    old = f"{value.name}/channels_last"
    for node in made.graph.node:
        for place, name in enumerate(node.input):
            if name == value.name:
                node.input[place] = old
    axes = value.type.tensor_type.shape.dim
    order = [onnx.TensorShapeProto.Dimension.FromString(axes[place].SerializeToString()) for place in (0, 3, 1, 2)]
    del axes[:]
    axes.extend(order)
    turn = onnx.helper.make_node("Transpose", [value.name], [old], name=old, perm=_TO_LAST)
    made.graph.node.insert(0, turn)
    del made.graph.value_info[:]
    return made


def check_input(model: onnx.ModelProto) -> None:
    """Raise ModelError unless the graph takes images in a form that can be adapted to float32 [batch, C, H, W].

    It names the type and the axes of each input, and what of them is not understood.
    """
    _refuse(model, tuple(_reasons(model, _TAKEN)))


def image_size(model: onnx.ModelProto) -> tuple[int | None, int | None]:
    """Height and width of the graph's input, None where an axis is dynamic.

    Raises:
        ModelError: the graph does not take one tensor float32 [batch, C, H, W]; names its type, its axes, and what of
            them is not understood.
    """
    _refuse(model, tuple(_reasons(model, (TensorProto.FLOAT,))))
    axes = _axes(model.graph.input[0])
    return axes[2], axes[3]


def image_channels(model: onnx.ModelProto) -> int | None:
    """Channels of the graph's input; None where it does not say."""
    axes = _axes(model.graph.input[0])
    return axes[3] if is_channels_last(model) else axes[1] if len(axes) == 4 else None


def _refuse(model: onnx.ModelProto, reasons: tuple[str, ...]) -> None:
    if reasons:
        found = "; ".join(_described(value) for value in model.graph.input)
        raise ModelError(f"the graph takes {found or 'no input'}", expected=_EXPECTED, causes=reasons)


def _reasons(model: onnx.ModelProto, taken: tuple[int, ...]) -> Iterator[str]:
    """Why the inputs are not those of an image network."""
    if len(model.graph.input) != 1:
        yield f"it has {len(model.graph.input)} inputs"
        return
    value = model.graph.input[0]
    kind, axes = value.type.tensor_type.elem_type, _axes(value)
    if kind not in taken:
        yield f"its type is {_type_name(kind)}: export it with float32 at its edge"
    if len(axes) != 4:
        yield f"it has {len(axes)} axes, images have 4"
    elif axes[1] not in (None, *_CHANNELS) and axes[3] not in _CHANNELS:
        last = axes[3] is not None and axes[3] <= 4 < axes[1]
        yield (
            f"it has {axes[3]} channels, last: images are decoded as RGB or grey"
            if last
            else f"it has {axes[1]} channels: images are decoded as RGB or grey"
        )


def _axes(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)


def _described(value: onnx.ValueInfoProto) -> str:
    dims = (str(axis.dim_value or axis.dim_param or "?") for axis in value.type.tensor_type.shape.dim)
    return f"{value.name}, {_type_name(value.type.tensor_type.elem_type)} [{', '.join(dims)}]"


def _type_name(kind: int) -> str:
    name: str = TensorProto.DataType.Name(kind)
    return name.lower()
