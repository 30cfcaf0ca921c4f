"""Write a whole checkpoint tensor by tensor: of the weights, no more than one is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import ModelError
from edgeq.files import atomic_write, sha256_file
from edgeq.handover.form import Form
from edgeq.handover.whole import Copied, Packed, WholeModel
from edgeq.model.checkpoint.safetensors_file import SafetensorsFile, TensorSlot
from edgeq.model.checkpoint.stored import FLOATS
from edgeq.quantize.nf4.language import Source
from edgeq.quantize.nf4.read import read_tensors
from edgeq.quantize.nf4.write import SHARD_BYTES

if TYPE_CHECKING:
    import torch

__all__ = ["Progress", "write_tensors", "written_config"]

_INDEX: Final = "model.safetensors.index.json"
_STAGE: Final = "checkpoint"

Progress = Callable[[str, int, int], None]
"""Called as (stage, numbers done, numbers in total)."""


def write_tensors(
    directory: Path,
    whole: WholeModel,
    form: Form,
    digests: Mapping[Path, str],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Write the tensors of a checkpoint, and their index where they take several files.

    Args:
        directory: that is being filled.
        whole: what is written.
        form: made of its layout.
        digests: SHA-256 in hexadecimal of files that are looked at before they are read.
        shard_bytes: the longest file.
        progress: called after each tensor.

    Returns:
        Names of the files.

    Raises:
        ModelError: a file is not what its header or its digest says.
        QuantizeError: a tensor of the source holds what the 16-bit type does not.
    """
    for path, digest in digests.items():
        if sha256_file(path) != digest:
            raise ModelError(
                f"{path} is not the file that the bundle's manifest lists",
                causes=("it was changed or damaged since the bundle was made",),
                next_step="edgeq verify the bundle, or make it again",
            )
    shards = list(_shards(whole, form, shard_bytes))
    total = sum(_numbers(item) for items, _ in shards for item in items)
    done, places = 0, dict[str, str]()
    for number, (items, slots) in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        places |= {slot.name: name for slot in slots}
        with (directory / name).open("xb") as file, SafetensorsFile(file, slots) as made:
            for item in items:
                for key, value in _tensors(item, whole, form):
                    made.put(key, value)
                done += _numbers(item)
                if progress:
                    progress(_STAGE, done, total)
    names = tuple(dict.fromkeys(places.values()))
    if len(shards) == 1:
        return names
    size = sum((directory / name).stat().st_size for name in names)
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    atomic_write(directory / _INDEX, (json.dumps(content, indent=1) + "\n").encode())
    return (*names, _INDEX)


def written_config(config: Mapping[str, Any], whole: WholeModel, form: Form) -> str:
    """config.json: as it was, with the type that the tensors have now, and how they are quantized."""
    found = {**_typed(config, whole.kind), "quantization_config": form.config()}
    if not found.keys() & {"dtype", "torch_dtype"}:
        found["dtype"] = whole.kind
    return json.dumps(found, indent=2) + "\n"


def _typed(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A config with one dtype wherever it names one."""
    return {
        key: kind
        if key in ("dtype", "torch_dtype") and isinstance(value, str)
        else _typed(value, kind)
        if isinstance(value, dict)
        else value
        for key, value in config.items()
    }


def _shards(
    whole: WholeModel, form: Form, limit: int
) -> Iterator[tuple[Sequence[Copied | Packed], Sequence[TensorSlot]]]:
    """The items in order with their tensors, in files of at most `limit` bytes or of one item."""
    items: list[Copied | Packed] = []
    slots: list[TensorSlot] = []
    for item in whole.items:
        own = _slots(item, whole, form)
        if items and sum(slot.most_bytes for slot in (*slots, *own)) > limit:
            yield items, slots
            items, slots = [], []
        items.append(item)
        slots += own
    yield items, slots


def _slots(item: Copied | Packed, whole: WholeModel, form: Form) -> tuple[TensorSlot, ...]:
    if isinstance(item, Packed):
        return form.slots(item.layer)
    stored = item.source.stored
    return (TensorSlot(item.name, whole.layout.dtype if stored.dtype in FLOATS else stored.dtype, stored.shape),)


def _tensors(item: Copied | Packed, whole: WholeModel, form: Form) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(item, Packed):
        (scale,) = read_tensors([item.scale], whole.kind)
        yield from form.tensors(item.layer, _as_stored(item.packed), scale).items()
    elif item.source.stored.dtype in FLOATS:
        (tensor,) = read_tensors([item.source], whole.kind)
        yield item.name, tensor
    else:
        yield item.name, _as_stored(item.source)


def _as_stored(source: Source) -> torch.Tensor:
    """A tensor of integers."""
    from safetensors import safe_open

    with safe_open(source.file, framework="pt", device="cpu") as file:
        tensor: torch.Tensor = file.get_tensor(source.name)
    return tensor


def _numbers(item: Copied | Packed) -> int:
    """How much of the work an item is."""
    source = item.packed if isinstance(item, Packed) else item.source
    return source.stored.elements
