"""What a checkpoint says it stores: name, dtype and shape of every tensor, from safetensors headers alone.

A header is believed only where it agrees with itself: the bytes that a tensor's shape and dtype call for are the bytes
that its offsets give it, and the tensors lie one behind the other without gap or overlap, as the format asks
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeq.errors import ModelError
from edgeq.files import read_json_object
from edgeq.model.checkpoint.safetensors_header import read_safetensors_header

__all__ = ["FLOATS", "StoredTensor", "check_header", "read_stored"]

_INDEX: Final = "model.safetensors.index.json"

FLOATS: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of an element for the dtypes that a model's own weights come in."""

_BYTES: Final = FLOATS | {
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8},
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        dtype: as the header has it: F16, BF16, U8, ...
        shape: its dimensions.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_stored(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor in a directory's safetensors files; empty where it has none.

    Raises:
        ModelError: a shard is missing, cut short, not a safetensors file, or its header contradicts itself; or two
            shards store the same tensor.
    """
    found: dict[str, StoredTensor] = {}
    for path in _shards(directory):
        tensors = check_header(path.name, read_safetensors_header(path))
        twice = found.keys() & tensors.keys()
        if twice:
            raise ModelError(f"{path} stores {min(twice)}, which another file of {directory} stores too")
        found |= tensors
    return found


def check_header(file: str, header: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """The tensors of one header.

    Args:
        file: the file's name, for errors.
        header: tensor name -> `dtype`, `shape`, `data_offsets`.

    Raises:
        ModelError: an entry is malformed, or its offsets do not agree with its shape or with its neighbours.
    """
    tensors, spans = {}, []
    for name, entry in header.items():
        try:
            tensor = StoredTensor(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
            start, end = (int(offset) for offset in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise _lie(file, f"the entry of {name} is malformed") from error
        wanted = tensor.elements * _BYTES[tensor.dtype] if tensor.dtype in _BYTES else end - start
        if min(tensor.shape, default=0) < 0 or end - start != wanted:
            raise _lie(
                file, f"{name} is {tensor.dtype} {list(tensor.shape)}, {wanted:,} bytes, and gets {end - start:,}"
            )
        tensors[name] = tensor
        spans.append((start, end, name))
    _check_spans(file, spans)
    return tensors


def _check_spans(file: str, spans: list[tuple[int, int, str]]) -> None:
    """Raise ModelError unless the tensors lie one behind the other from 0 on."""
    place = 0
    for start, end, name in sorted(spans):
        if start != place:
            raise _lie(file, f"{name} starts at byte {start:,}, the tensor before it ends at {place:,}")
        place = end


def _lie(file: str, what: str) -> ModelError:
    """The error for a header that contradicts itself."""
    return ModelError(
        f"{file}: the header does not agree with itself: {what}",
        causes=("the file is damaged", "it was made to mislead"),
        next_step=f"get {file} again from where the model came",
    )


def _shards(directory: Path) -> list[Path]:
    """The safetensors files that hold the model: those of its index, else all there are."""
    index = directory / _INDEX
    if not index.exists():
        return sorted(directory.glob("*.safetensors"))
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{index} has no weight_map from tensor to file")
    shards = [directory / Path(name).name for name in sorted(set(weight_map.values()))]
    missing = [path.name for path in shards if not path.is_file()]
    if missing and len(missing) < len(shards):
        raise ModelError(
            f"{directory} lacks {len(missing)} of its {len(shards)} weight files, the first is {missing[0]}",
            next_step="download the rest of the model",
        )
    return [] if missing else shards
