"""What gives each pixel a class: its output brought to the size of the network's input, and a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from edgeq.errors import EngineError, ModelError
from edgeq.model.heads.seen import Seen, Shape

__all__ = ["MAX_CLASSES", "MaskHead", "recognise_masks"]

MAX_CLASSES: Final = 10_000

_SHOWN: Final = 8
_AXES: Final = 4


class MaskHead(BaseModel):
    """The output of a network that segments.

    Attributes:
        output: of the graph: scores [n, C, h, w], or [n, h, w, C].
        channels: of it: one for each class, or a single one for all that is not background.
        height, width: of the network's input, in pixels; the output may be smaller.
        channels_last: whether it is [n, h, w, C].
        threshold: of a single channel, above which a pixel is not background.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    channels: int = Field(ge=1, le=MAX_CLASSES)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels_last: bool = False
    threshold: float = 0.0

    @property
    def classes(self) -> int:
        """Background is one of two where there is a single channel."""
        return max(self.channels, 2)

    def class_maps(self, values: NDArray[Any]) -> Iterator[NDArray[np.uint16]]:
        """The class of each pixel of the input, uint16 [height, width], of one image after the other.

        The scores are brought to the input's size by bilinear interpolation; the largest of them is the class.

        Args:
            values: what the output gave, float32 [n, ...].

        Raises:
            EngineError: it has another form.
        """
        if values.ndim != _AXES or values.shape[3 if self.channels_last else 1] != self.channels:
            raise EngineError(
                f"the output {self.output} gave {list(values.shape)}",
                expected=f"{self.channels} channels " + ("at the end" if self.channels_last else "before the pixels"),
            )
        for image in values:
            yield self._class_map(image.transpose(2, 0, 1) if self.channels_last else image)

    def _class_map(self, scores: NDArray[Any]) -> NDArray[np.uint16]:
        """Of one image [C, h, w]; one channel at a time is brought to size, so that memory does not grow with them."""
        best = self._enlarged(scores[0])
        if self.channels == 1:
            return (best > self.threshold).astype(np.uint16)
        found = np.zeros(best.shape, np.uint16)
        for number in range(1, self.channels):
            other = self._enlarged(scores[number])
            larger = other > best
            found[larger] = number
            best = np.where(larger, other, best)
        return found

    def _enlarged(self, plane: NDArray[Any]) -> NDArray[np.float32]:
        exact = np.ascontiguousarray(plane, np.float32)
        if exact.shape == (self.height, self.width):
            return exact
        resized = Image.fromarray(exact).resize((self.width, self.height), Image.Resampling.BILINEAR)
        return np.asarray(resized, np.float32)


def recognise_masks(seen: Seen) -> MaskHead:
    """Which output gives each pixel a class, and how.

    Args:
        seen: what is known of the network.

    Raises:
        ModelError: there is none; the error names the outputs.
    """
    for name, shape in seen.shapes.items():
        axis = _channel_axis(seen, shape)
        channels = None if axis is None else shape[axis]
        if channels is None or "aux" in name.lower():
            continue
        return MaskHead(
            output=name,
            channels=channels,
            height=seen.height,
            width=seen.width,
            channels_last=axis == _AXES - 1,
            threshold=_threshold(None if seen.values is None else seen.values[name]),
        )
    outputs = ", ".join(f"{name} {list(shape)}" for name, shape in list(seen.shapes.items())[:_SHOWN])
    names = seen.names
    raise ModelError(
        f"no output gives each pixel a class: {outputs}"
        + ("" if names is None else f"; the model has {len(names)} classes"),
        expected="scores [N, C, h, w] or [N, h, w, C] with a channel for each class, or one channel",
        causes=("the class is chosen inside the graph (ArgMax): export the scores", "config.json is another model's"),
        next_step="give the model a config.json with id2label, one name for each channel",
    )


def _channel_axis(seen: Seen, shape: Shape) -> int | None:
    """The axis of the channels, 1 or 3; None where it is no output of this kind."""
    if len(shape) != _AXES:
        return None
    wanted = _wanted(seen.names)
    return next((axis for axis in (1, 3) if _is_channels(seen, shape, axis, wanted)), None)


def _wanted(names: Sequence[str] | None) -> tuple[int, ...]:
    """How many channels there may be; none where any number may."""
    if names is None:
        return ()
    return (len(names), 1) if len(names) == 2 else (len(names),)


def _is_channels(seen: Seen, shape: Shape, axis: int, wanted: tuple[int, ...]) -> bool:
    """Whether an axis counts channels: as many as there are classes, and what is left has the input's aspect ratio."""
    length, (rows, columns) = shape[axis], shape[2:] if axis == 1 else shape[1:3]
    if length is None or length > MAX_CLASSES or (wanted and length not in wanted):
        return False
    if rows is None or columns is None:
        return bool(wanted) or axis == 1
    return abs(rows * seen.width - columns * seen.height) <= max(seen.width, seen.height)


def _threshold(values: NDArray[np.float32] | None) -> float:
    """One half for probabilities, 0 for logits."""
    if values is None or not values.size:
        return 0.0
    return 0.5 if float(values.min()) >= 0.0 and float(values.max()) <= 1.0 else 0.0
