"""Write a safetensors file tensor by tensor, in any order, without ever holding the whole of it.

The library's own writer wants all tensors at once. The format asks for a header in front with every offset, and that
tensors lie without gaps (https://github.com/huggingface/safetensors#format): so places are given out beforehand, the
widest elements first, which keeps each tensor aligned to its own size. Byte strings whose length shows only when they
are made come last. Room for the header is kept free and filled with spaces, as the format allows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from edgeq.errors import QuantizeError

if TYPE_CHECKING:
    import torch

__all__ = ["SafetensorsFile", "TensorSlot"]

_BYTES: Final = {"I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1}
_TORCH: Final = {
    **{"I64": "int64", "F32": "float32", "I32": "int32"},
    **{"F16": "float16", "BF16": "bfloat16", "U8": "uint8"},
}
_METADATA: Final = {"format": "pt"}
_LONGEST: Final = 10**12
"""An offset longer than any real one, for the room that the header will need."""

_ENTRY: Final = 192
"""No entry of the header is longer beside its name, for two dimensions and such offsets."""

_TEXT: Final = 512
"""No quantization state is longer."""


@dataclass(frozen=True)
class TensorSlot:
    """A tensor to come.

    Attributes:
        name: in the file.
        dtype: I64, F32, I32, F16, BF16 or U8.
        shape: its dimensions; None for a byte string of a length not yet known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    @property
    def bytes(self) -> int:
        """Its size; 0 where that is not known."""
        return 0 if self.shape is None else math.prod(self.shape) * _BYTES[self.dtype]

    @property
    def most_bytes(self) -> int:
        """What it takes of a file at most, with its entry in the header."""
        return (_TEXT if self.shape is None else self.bytes) + len(self.name) + _ENTRY


class SafetensorsFile:
    """One file in the making, a context manager; the header is written at its end.

    Args:
        file: a new binary file, which the caller closes.
        slots: every tensor that will be put.
    """

    def __init__(self, file: BinaryIO, slots: Sequence[TensorSlot]) -> None:
        self._file, self._slots = file, {slot.name: slot for slot in slots}
        self._offsets = _places(slots)
        self._end = max((end for _, end in self._offsets.values()), default=0)
        unknown = {slot.name: (_LONGEST, _LONGEST) for slot in slots if slot.shape is None}
        self._room = -(-len(self._header(self._offsets | unknown)) // 8) * 8
        self._left = set(self._slots)

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor into its place.

        Raises:
            QuantizeError: it has another dtype or shape than its slot, or comes twice.
        """
        slot = self._slots[name]
        shape = tuple(tensor.shape) if slot.shape is None else slot.shape
        if name not in self._left or str(tensor.dtype) != f"torch.{_TORCH[slot.dtype]}" or tuple(tensor.shape) != shape:
            raise QuantizeError(f"{name} is {tensor.dtype} {list(tensor.shape)}, and {slot} was expected, once")
        if slot.shape is None:
            self._offsets[name] = (self._end, self._end + tensor.numel())
            self._end += tensor.numel()
        self._left.remove(name)
        self._file.seek(8 + self._room + self._offsets[name][0])
        self._file.write(_raw(tensor))

    def __enter__(self) -> SafetensorsFile:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the header, unless something went wrong."""
        if kind is not None:
            return
        if self._left:
            raise QuantizeError(f"{len(self._left)} tensors were never written, such as {min(self._left)}")
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + self._header(self._offsets).ljust(self._room))

    def _header(self, offsets: Mapping[str, tuple[int, int]]) -> bytes:
        entries: dict[str, Any] = {"__metadata__": _METADATA}
        for name, (start, end) in offsets.items():
            slot = self._slots[name]
            shape = [end - start] if slot.shape is None else list(slot.shape)
            entries[name] = {"dtype": slot.dtype, "shape": shape, "data_offsets": [start, end]}
        return json.dumps(entries, separators=(",", ":")).encode()


def _places(slots: Iterable[TensorSlot]) -> dict[str, tuple[int, int]]:
    """Start and end of each tensor of known size, behind the header."""
    offsets, place = {}, 0
    for slot in sorted(slots, key=lambda slot: -_BYTES[slot.dtype]):
        if slot.shape is not None:
            offsets[slot.name] = (place, place + slot.bytes)
            place += slot.bytes
    return offsets


def _raw(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes, little-endian as on every machine that edgeq runs on."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
