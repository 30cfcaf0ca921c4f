"""Inputs of other types and layouts, brought to float32 [batch, C, H, W] at the graph's edge.

- FP16 becomes FP32 in the whole graph; weights stay what they are.
- uint8 becomes float32 that holds the pixels 0..255; the Cast behind it is then a no-op.
- Where pixels are fed as they are, what the graph does to each channel first, subtracting a mean or dividing by a
  deviation, goes into the preprocessing: so the first convolution can take its eight bits from the pixels
  (`edgeq.quantize.int8.pixels`), as it does where normalization was never inside.
- Channels last become channels first by a Transpose, which takes out the exporter's own.

The reference of the proof is the graph as it came; `InputAdapter.raw` gives it what it takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgeq.errors import ModelError
from edgeq.export.image_input import channels_first, check_input, image_channels, image_size, is_channels_last
from edgeq.export.parity import BOUND
from edgeq.export.rewrites.half import has_half, to_float32
from edgeq.model.checkpoint.source import ModelSource, find_graph, open_model
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.graph.outline import load_outline
from edgeq.model.graph.wiring import Wiring, attribute, label, operator
from edgeq.model.images.preprocess import GREY, Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags

__all__ = ["InputAdapter", "adapt_input", "open_image_model"]

_MOVES: Final = frozenset(
    {"Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""They move pixels and compute nothing, so that they do the same to float32."""
_PIXEL_READERS: Final = frozenset({"Cast", "Shape", "Size"})
_DTYPES: Final[dict[int, type[np.generic]]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8,
}
_AFFINE: Final = frozenset({"Add", "Div", "Mul", "Sub"})


@dataclass(frozen=True, eq=False)
class InputAdapter:
    """What a graph took before it was adapted.

    Attributes:
        kind: `onnx.TensorProto` element type of its input.
        half: whether any of it was FP16.
        channels: of its images; None where it did not say.
        channels_last: whether it took [batch, H, W, C].
        size: height and width in pixels, None where dynamic.
        nodes: of the graph, for the bound of the proof.
        step: float64 [C], what each pixel was multiplied by inside, and is now outside; ones where nothing was.
        shift: float64 [C], what was added then.
    """

    kind: int
    half: bool
    channels: int | None
    channels_last: bool
    size: tuple[int | None, int | None]
    nodes: int
    step: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def takes_pixels(self) -> bool:
        """Whether its input is of whole numbers, which can only be pixels 0..255 as they are."""
        return self.kind == TensorProto.UINT8

    @property
    def changes(self) -> bool:
        """Whether anything that is done to each channel was taken out of the graph."""
        return bool((self.step != 1.0).any() or self.shift.any())

    @property
    def bound(self) -> float:
        """The largest difference from the original that counts as the same network, as a part of the output's range.

        In FP16 each node rounds what it gives by up to 2^-11 of it, which FP32 does not. Roundings are independent, so
        that they add up as the square root of their number; twice that is allowed.
        """
        return max(BOUND, 2.0**-10 * math.sqrt(self.nodes)) if self.half else BOUND

    def raw(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        """What the original takes, for what the adapted graph takes.

        Args:
            pixels: float32 [n, C, H, W].

        Returns:
            [n, C, H, W] or [n, H, W, C], uint8, float16 or float32.
        """
        given: NDArray[Any] = pixels
        if self.takes_pixels or self.changes:
            column = (1, len(self.step), 1, 1)
            exact = (pixels.astype(np.float64) - self.shift.reshape(column)) / self.step.reshape(column)
            given = np.rint(exact).clip(0, 255)
        given = given.astype(_DTYPES[self.kind])
        return np.ascontiguousarray(given.transpose(0, 2, 3, 1)) if self.channels_last else given

    def preprocessing(
        self, preprocess: Preprocess | PreprocessFlags | None, *, alone: bool
    ) -> Preprocess | PreprocessFlags:
        """The preprocessing that was given, with what the graph's input says of it.

        Args:
            preprocess: what was given; None where nothing was.
            alone: whether the model has no file that says more.

        Raises:
            ModelError: they contradict each other.
        """
        if isinstance(preprocess, Preprocess):
            plain = {"scale": 1.0, "rescale_offset": False, "mean": (), "std": (), "include_top": False}
            return replace(preprocess, **plain) if self.takes_pixels else preprocess  # type: ignore[arg-type]
        flags = preprocess or PreprocessFlags()
        if self.takes_pixels:
            flags = replace(flags, as_pixels=True)
        if self.channels == 1 and flags.channel_order is None:
            flags = replace(flags, channel_order=GREY)
        height, width = self.size
        if alone and flags.size is None and height is not None and width is not None:
            flags = replace(flags, size=(height, width))
        return flags

    def over(self, preprocess: Preprocess) -> Preprocess:
        """With the normalization that was taken out of the graph; `preprocess` gives pixels as they are."""
        if not self.changes:
            return preprocess
        order = slice(None, None, -1 if preprocess.channel_order == "bgr" else 1)  # `mean` is in R,G,B
        mean, std = (-self.shift / self.step)[order], (1.0 / self.step)[order]
        pad = preprocess.pad
        if pad is not None and pad.value is None:  # zero, and of pixels as they are that is black
            pad = replace(pad, value=0)
        return replace(preprocess, mean=tuple(map(float, mean)), std=tuple(map(float, std)), pad=pad)


def open_image_model(model: str | Path, *, preprocess: Preprocess | PreprocessFlags | None = None) -> ModelSource:
    """As `open_model`, with the preprocessing that the graph's own input asks for: grey, or pixels as they are.

    Args:
        model: as for `open_model`.
        preprocess: as for `open_model`.

    Raises:
        ModelError: as `open_model`; the graph takes no images, or something that contradicts what was given.
    """
    path = find_graph(model)
    if path is None:
        return _open_checkpoint(model, preprocess)
    if _is_plain(path):
        source = open_model(model, preprocess=preprocess)
        return _with_normalization(source, path) if _gives_pixels(source.preprocess) else source
    adapter = adapt_input(load_onnx(path))[1]
    file = path.parent / "preprocessor_config.json"
    source = open_model(model, preprocess=adapter.preprocessing(preprocess, alone=not file.exists()))
    notes = (_PIXELS,) if adapter.takes_pixels and file.exists() and not isinstance(preprocess, Preprocess) else ()
    source = replace(source, notes=notes)
    return _with_normalization(source, path) if _gives_pixels(source.preprocess) else source


def _gives_pixels(preprocess: Preprocess) -> bool:
    """Whether pixels stay as they are, 0..255."""
    return preprocess.scale == 1.0 and not (preprocess.std or preprocess.rescale_offset)


def _with_normalization(source: ModelSource, path: Path) -> ModelSource:
    """With what the graph does to each channel of the pixels first."""
    adapter = adapt_input(load_onnx(path), take_normalization=True)[1]
    return replace(source, preprocess=adapter.over(source.preprocess), takes_normalization=adapter.changes)


_PIXELS: Final = (
    "the graph takes uint8, pixels as they are: what preprocessor_config.json says of rescaling and normalization is "
    "not done"
)


def _open_checkpoint(model: str | Path, preprocess: Preprocess | PreprocessFlags | None) -> ModelSource:
    """A Hugging Face directory; its config may say one channel."""
    if not isinstance(preprocess, Preprocess) and (preprocess is None or preprocess.channel_order is None):
        source = open_model(model, preprocess=preprocess)
        if source.config.get("num_channels") != 1:
            return source
        preprocess = replace(preprocess or PreprocessFlags(), channel_order=GREY)
    return open_model(model, preprocess=preprocess)


def _is_plain(path: Path) -> bool:
    """Whether there is nothing to find out: float32 of three channels, or what is refused later, in better words."""
    try:
        model = load_outline(path)
    except ModelError:
        return True
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        return True
    kind = inputs[0].type.tensor_type
    axes = [axis.dim_value for axis in kind.shape.dim]
    return (kind.elem_type == TensorProto.FLOAT and 1 not in axes[1:2] + axes[3:4]) or len(axes) != 4


def adapt_input(model: onnx.ModelProto, *, take_normalization: bool = False) -> tuple[onnx.ModelProto, InputAdapter]:
    """A copy that takes float32 [batch, C, H, W], and what was changed.

    Args:
        model: as `edgeq.model.graph.onnx_file.load_onnx` gives it.
        take_normalization: take out what it does to each channel first; the caller then does it to the pixels.

    Raises:
        ModelError: its input is none that is understood: names the type, the axes, and why.
    """
    check_input(model)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kind, half = model.graph.input[0].type.tensor_type.elem_type, has_half(model)
    channels, last = image_channels(made), is_channels_last(made)
    if half:
        to_float32(made)
    count = channels or 3
    step, shift = np.ones(count), np.zeros(count)
    if kind == TensorProto.UINT8:
        _as_float(made)
    if take_normalization:
        step, shift = _take_normalization(made, count, 3 if last else 1)
    made = channels_first(made) if last else made
    return made, InputAdapter(kind, half, channels, last, image_size(made), len(made.graph.node), step, shift)


def _as_float(model: onnx.ModelProto) -> None:
    """Let a uint8 input be float32, up to the Cast behind it; in `model` itself."""
    wiring, seen = Wiring(model), set[str]()
    waiting = [model.graph.input[0].name]
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if wiring.is_output(tensor):
            raise _not_moved(tensor, "the graph's output")
        for node in wiring.readers(tensor):
            if operator(node) == "Cast" and attribute(node, "to", 0) == TensorProto.FLOAT:
                continue
            if operator(node) not in (_MOVES | _PIXEL_READERS) or operator(node) == "Cast":
                raise _not_moved(label(node), operator(node))
            if operator(node) in _MOVES:
                waiting.extend(node.output)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.value_info[:]


def _not_moved(place: str, what: str) -> ModelError:
    return ModelError(
        f"the graph takes uint8, and its pixels go as such into {what} ({place})",
        expected="a Cast to float32 before anything is computed",
        next_step="export it with float32 at its edge",
    )


def _take_normalization(
    model: onnx.ModelProto, channels: int, axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take what is done to each channel first out of the graph.

    Args:
        model: is changed.
        channels: of its input.
        axis: of the channels in its input.

    Returns:
        The factor and what is added, float64 [C] each; ones and zeros where nothing was taken out.
    """
    wiring = Wiring(model)
    step, shift = np.ones(channels), np.zeros(channels)
    found: list[onnx.NodeProto] = []
    tensor = model.graph.input[0].name
    while (node := _only_reader(wiring, tensor)) is not None:
        if operator(node) in _AFFINE:
            made = _affine(wiring, node, tensor, channels, axis)
            if made is None:
                break
            step, shift = step * made[0], shift * made[0] + made[1]
            found.append(node)
        elif operator(node) == "Transpose":
            order = attribute(node, "perm", [3, 2, 1, 0])
            axis = list(order).index(axis)
        elif operator(node) not in ("Cast", "Identity"):
            break
        tensor = node.output[0]
    if not (np.isfinite(step).all() and np.isfinite(shift).all() and (step > 0).all()):
        return np.ones(channels), np.zeros(channels)
    for node in found:
        _bypass(wiring, node, _moving_input(wiring, node))
    wiring.finish()
    return step, shift


def _only_reader(wiring: Wiring, tensor: str) -> onnx.NodeProto | None:
    """The one node that reads a tensor's numbers, and itself makes one that is no output; None for several."""
    readers = [node for node in wiring.readers(tensor) if operator(node) not in ("Shape", "Size")]
    if len(readers) != 1 or len(readers[0].output) != 1 or wiring.is_output(readers[0].output[0]):
        return None
    return readers[0]


def _moving_input(wiring: Wiring, node: onnx.NodeProto) -> str:
    return str(next(name for name in node.input if wiring.constant(name) is None))


def _affine(
    wiring: Wiring, node: onnx.NodeProto, tensor: str, channels: int, axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Factor and addend of one node, float64 [C]; None where it is none by channel."""
    if len(node.input) != 2:
        return None
    first = node.input[0] == tensor
    constant = wiring.constant(node.input[1 if first else 0])
    if constant is None or node.input[0] == node.input[1]:
        return None
    values = _by_channel(constant.astype(np.float64), channels, axis)
    if values is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    kind = operator(node)
    if kind == "Mul":
        return values, zero
    if kind == "Add":
        return one, values
    if kind == "Sub":
        return (one, -values) if first else (-one, values)
    with np.errstate(divide="ignore"):
        return (1.0 / values, zero) if first else None


def _by_channel(values: NDArray[np.float64], channels: int, axis: int) -> NDArray[np.float64] | None:
    """A constant as [C], where it differs by channel at the most; None for others."""
    if values.size == 1:
        return np.full(channels, values.reshape(-1)[0])
    shape = (1,) * (4 - values.ndim) + values.shape
    if len(shape) != 4 or shape[axis] != channels or values.size != channels:
        return None
    return values.reshape(-1)


def _bypass(wiring: Wiring, node: onnx.NodeProto, source: str) -> None:
    """Let the readers of a node read what it reads."""
    result = node.output[0]
    for reader in list(wiring.readers(result)):
        for place, name in enumerate(reader.input):
            if name == result:
                wiring.set_input(reader, place, source)
    wiring.remove(node)
