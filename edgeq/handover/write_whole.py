"""Write a whole checkpoint tensor by tensor: of the weights, no more than one is in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import ArtifactError
from edgeq.files import sha256_file
from edgeq.handover.form import Form
from edgeq.handover.whole import Copied, Packed, Unpacked, WholeModel
from edgeq.model.checkpoint.packed_weights import unpack_integers
from edgeq.model.checkpoint.safetensors_file import TensorSlot
from edgeq.model.checkpoint.stored import FLOATS
from edgeq.quantize.language.checkpoint import SHARD_BYTES, Item, Progress, write_tensors
from edgeq.quantize.language.read import read_tensors
from edgeq.quantize.language.source import Source

if TYPE_CHECKING:
    import torch

__all__ = ["as_stored", "check_digests", "write_whole", "written_config"]

_STAGE: Final = "checkpoint"
_ROWS: Final = 4096


def write_whole(
    directory: Path,
    whole: WholeModel,
    form: Form,
    digests: Mapping[Path, str],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write the tensors of a checkpoint, and their index where they take several files.

    Args:
        directory: that is being filled.
        whole: what is written.
        form: made of its layout.
        digests: SHA-256 in hexadecimal of files that are looked at before they are read.
        shard_bytes: the longest file.
        progress: called after each tensor.

    Raises:
        ArtifactError: a file is not the one that the bundle's manifest lists.
        ModelError: a file is not what its header says.
        QuantizeError: a tensor of the source holds what the 16-bit type does not.
    """
    check_digests(digests)
    items = [_item(item, whole, form) for item in whole.items]
    made = (_tensors(item, whole, form) for item in whole.items)
    write_tensors(directory, items, made, shard_bytes, stage=_STAGE, progress=progress)


def check_digests(digests: Mapping[Path, str]) -> None:
    """Compare files with what a bundle's manifest lists.

    Args:
        digests: SHA-256 in hexadecimal by file.

    Raises:
        ArtifactError: a file is another one.
    """
    for file, digest in digests.items():
        if sha256_file(file) != digest:
            raise ArtifactError(
                f"{file} is not the file that the manifest lists",
                causes=("it was changed or damaged since the bundle was made",),
                next_step="edgeq verify the bundle, or make it again",
            )


def written_config(config: Mapping[str, Any], whole: WholeModel, form: Form) -> str:
    """config.json: as it was, with the type that the tensors have now, and how they are quantized.

    Args:
        config: as the bundle has it.
        whole: what is written.
        form: made of its layout.
    """
    found = {**_typed(config, whole.kind), "quantization_config": form.config()}
    if not found.keys() & {"dtype", "torch_dtype"}:
        found["dtype"] = whole.kind
    return json.dumps(found, indent=2) + "\n"


def _typed(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A config with one dtype wherever it names one."""
    named = {key: kind for key in ("dtype", "torch_dtype") if isinstance(config.get(key), str)}
    inside = {key: _typed(value, kind) for key, value in config.items() if isinstance(value, dict)}
    return {**config, **named, **inside}


def _item(item: Copied | Packed | Unpacked, whole: WholeModel, form: Form) -> Item:
    if isinstance(item, Unpacked):
        return Item(item.name, item.packed, (TensorSlot(item.name, whole.layout.dtype, item.shape),))
    if isinstance(item, Packed):
        return Item(item.layer.name, item.packed, form.slots(item.layer))
    stored = item.source.stored
    dtype = whole.layout.dtype if stored.dtype in FLOATS else stored.dtype
    return Item(item.name, item.source, (TensorSlot(item.name, dtype, stored.shape),))


def _tensors(item: Copied | Packed | Unpacked, whole: WholeModel, form: Form) -> dict[str, torch.Tensor]:
    if isinstance(item, Unpacked):
        (scale,) = read_tensors([item.scale], whole.kind)
        return {item.name: _floats(as_stored(item.packed), scale)}
    if isinstance(item, Packed):
        (scale,) = read_tensors([item.scale], whole.kind)
        return form.tensors(item.layer, as_stored(item.packed), scale)
    if item.source.stored.dtype in FLOATS:
        (tensor,) = read_tensors([item.source], whole.kind)
        return {item.name: tensor}
    return {item.name: as_stored(item.source)}


def _floats(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What a table's integers stand for, in the type of its scales; some rows at a time, for there are many."""
    import torch

    found = torch.empty(len(packed), 4 * packed.shape[1], dtype=scale.dtype)
    for start in range(0, len(packed), _ROWS):
        part = slice(start, start + _ROWS)
        found[part] = unpack_integers(packed[part], 8).to(scale.dtype) * scale[part]
    return found


def as_stored(source: Source) -> torch.Tensor:
    """A tensor [...] whose dtype is that of its file; safetensors' errors go to the caller."""
    from safetensors import safe_open

    with safe_open(source.file, framework="pt", device="cpu") as file:
        tensor: torch.Tensor = file.get_tensor(source.name)
    return tensor
