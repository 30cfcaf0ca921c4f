"""Give ONNX Runtime's first convolution the camera's own eight bits.

Preprocessing turns each pixel p, an integer in 0..255, into x = step * (p - offset), per channel. A per-tensor grid for
x rounds it a second time, and on a small network that was the largest single error of the whole INT8 graph. So the
graph is made to take p back out of x, which is exact, and the convolution's weights and bias take in step and offset.
Its zero padding becomes a Pad before that; a zero there is stored as the integer nearest to the offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from edgeq.model.images.preprocess import Preprocess
from edgeq.quantize.int8.grid import Grid

__all__ = ["PIXEL_GRID", "PixelInput", "pixel_input", "take_pixels"]

PIXEL_GRID: Final = Grid(1.0, 0, "uint8")
"""The grid of the pixels themselves."""

_CHANNEL_MULTIPLE = 4
_NEAR_TIE = 0.1


@dataclass(frozen=True)
class PixelInput:
    """x = step * (p - offset) for the integer p in 0..255 of each of C channels.

    Attributes:
        step: float64 [C], > 0.
        offset: float64 [C].
    """

    step: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def of(cls, preprocess: Preprocess) -> PixelInput:
        """Read step and offset off what black and white become."""
        black, white = (preprocess.values[:, value].astype(np.float64) for value in (0, 255))
        step = (white - black) / 255.0
        return cls(step, -black / step)

    @property
    def stored(self) -> bool:
        """Whether a zero pixel offset fits eight bits, so that zero padding has an integer to be."""
        return bool(np.all((self.offset >= 0.0) & (self.offset <= 255.0)))


def pixel_input(preprocess: Preprocess | None) -> PixelInput | None:
    """Where a graph's input comes from; None where it is no image."""
    return None if preprocess is None else PixelInput.of(preprocess)


def take_pixels(graph: gs.Graph, pixels: PixelInput, int8: frozenset[str]) -> bool:
    """Rewrite the INT8 convolution that reads the graph's input; False where its surroundings do not allow it.

    Args:
        graph: is changed where this is True.
        pixels: where its input comes from.
        int8: names of the layers planned INT8.
    """
    source = graph.inputs[0]
    users = [user for user in source.outputs if user.op != "Shape"]  # which looks at no number
    if len(users) != 1 or users[0].name not in int8 or not _fits(users[0], len(pixels.step)) or not pixels.stored:
        return False
    node = users[0]
    _fold(node, pixels)
    node.inputs[0] = _integers(graph, node, source, pixels)
    node.attrs.pop("auto_pad", None)  # NOTSET or VALID; ONNX Runtime takes it or pads, not both
    node.attrs["pads"] = [0, 0, 0, 0]
    return True


def _fits(node: gs.Node, channels: int) -> bool:
    weight = node.inputs[1]
    return bool(
        node.op == "Conv"
        and isinstance(weight, gs.Constant)
        and weight.values.ndim == 4
        and weight.values.shape[1] == channels
        and node.attrs.get("group", 1) == 1
        and node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _fold(node: gs.Node, pixels: PixelInput) -> None:
    """W x + b = (W step) p + (b - sum of W step offset); the channel added meets zero weights."""
    weight = node.inputs[1].values.astype(np.float64) * pixels.step.reshape(1, -1, 1, 1)
    shift = (weight * pixels.offset.reshape(1, -1, 1, 1)).sum(axis=(1, 2, 3))
    bias = node.inputs[2].values.astype(np.float64) if len(node.inputs) > 2 else np.zeros(len(weight))
    padded = np.pad(weight, ((0, 0), (0, _CHANNEL_MULTIPLE - len(pixels.step)), (0, 0), (0, 0)))
    node.inputs = [
        node.inputs[0],
        gs.Constant(f"{node.name}.pixel_weight", padded.astype(np.float32)),
        gs.Constant(f"{node.name}.pixel_bias", (bias - shift).astype(np.float32)),
    ]


def _integers(graph: gs.Graph, node: gs.Node, source: gs.Variable, pixels: PixelInput) -> gs.Variable:
    """x, padded and turned back into pixels behind a DequantizeLinear of scale 1."""
    missing = _CHANNEL_MULTIPLE - len(pixels.step)
    top, left, bottom, right = node.attrs.get("pads", [0, 0, 0, 0])
    pads = np.array([0, 0, top, left, 0, missing, bottom, right], np.int64)
    value = _append(graph, "Pad", f"{source.name}.padded", [source, gs.Constant(f"{source.name}.pads", pads)])
    # p - offset rounds to p - round(offset), unless the offset lies halfway between integers: then it is added first.
    tie = np.abs(pixels.offset % 1.0 - 0.5).min() < _NEAR_TIE
    zero = _appended(np.zeros(len(pixels.step)) if tie else np.rint(pixels.offset), 0.0).astype(np.uint8)
    if tie:
        shift = _appended(pixels.step * pixels.offset, 0.0).astype(np.float32).reshape(1, _CHANNEL_MULTIPLE, 1, 1)
        value = _append(graph, "Add", f"{source.name}.shifted", [value, gs.Constant(f"{source.name}.shift", shift)])
    step = gs.Constant(f"{source.name}.step", _appended(pixels.step, 1.0).astype(np.float32))
    zeros = gs.Constant(f"{source.name}.offset", zero)
    stored = _append(graph, "QuantizeLinear", f"{source.name}.q", [value, step, zeros], np.uint8, {"axis": 1})
    scale = gs.Constant(f"{source.name}.scale", np.array(PIXEL_GRID.scale, np.float32))
    nothing = gs.Constant(f"{source.name}.zero", np.array(PIXEL_GRID.zero_point, np.uint8))
    return _append(graph, "DequantizeLinear", f"{source.name}.dq", [stored, scale, nothing])


def _appended(values: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    """[C] filled up to the multiple that integer kernels take."""
    return np.append(values, [value] * (_CHANNEL_MULTIPLE - len(values)))


def _append(
    graph: gs.Graph,
    op: str,
    name: str,
    inputs: list[gs.Tensor],
    dtype: type[np.generic] = np.float32,
    attributes: dict[str, int] | None = None,
) -> gs.Variable:
    output = gs.Variable(name, dtype=dtype)
    graph.nodes.append(gs.Node(op, f"{name}.{op}", attrs=attributes or {}, inputs=inputs, outputs=[output]))
    return output
