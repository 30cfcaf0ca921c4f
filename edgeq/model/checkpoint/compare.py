"""Does a checkpoint hold the model that its config describes? Names, shapes and dtypes, header against meta device.

Checkpoints on the hub keep the names of the release that wrote them (`language_model.model.…`); transformers renames
them while it loads, and its own table of renamings is asked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.model.checkpoint.stored import FLOATS, StoredTensor

if TYPE_CHECKING:
    import torch

__all__ = ["compare"]


@dataclass
class _Match:
    """Stored tensors under the model's names: `whole` one for one, `parts` to be joined or reshaped while loading."""

    whole: dict[str, StoredTensor] = field(default_factory=dict)
    parts: dict[str, StoredTensor] = field(default_factory=dict)


def compare(model: torch.nn.Module, stored: Mapping[str, StoredTensor], directory: Path) -> dict[str, int]:
    """Compare stored tensors with a model on the meta device.

    Args:
        model: as transformers builds it from the config.
        stored: from the headers, under the checkpoint's names.
        directory: for errors.

    Returns:
        Parameter name -> bytes stored for it, for those that are stored one for one.

    Raises:
        ModelError: a parameter is not stored, has another shape, or is not floating point; or a tensor is stored that
            the model has no place for.
    """
    parameters = {name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)}
    match = _match(model, stored)
    _check_known(model, match, parameters.keys(), directory)
    for name, shape in parameters.items():
        if name in match.whole:
            _check_tensor(name, match.whole[name], shape, directory)
    _check_missing(model, match, parameters, directory)
    return {name: tensor.elements * FLOATS[tensor.dtype] for name, tensor in match.whole.items() if name in parameters}


def _match(model: Any, stored: Mapping[str, StoredTensor]) -> _Match:
    """Every stored tensor under the name that transformers loads it into."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    steps = get_model_conversion_mapping(model)
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    renamings = [step for step in steps if not isinstance(step, WeightConverter)]
    state, found = model.state_dict(), _Match()
    for name, tensor in stored.items():
        target, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if converter is None:
            found.whole[target] = tensor
        else:
            found.parts[name] = tensor
    return found


def _check_known(model: Any, match: _Match, parameters: Any, directory: Path) -> None:
    """Raise ModelError for a stored tensor that is no parameter, no buffer, and none that transformers ignores."""
    buffers = {name for name, _ in model.named_buffers()}
    ignored = [*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq$", r"position_ids$"]
    for name in match.whole.keys() - parameters - buffers:
        if not any(re.search(pattern, name) for pattern in ignored):
            raise _difference(directory, f"it stores {name}, which {type(model).__name__} does not have")


def _check_tensor(name: str, tensor: StoredTensor, shape: tuple[int, ...], directory: Path) -> None:
    """Raise ModelError unless a tensor has the parameter's shape and is floating point."""
    if tensor.shape != shape:
        raise _difference(directory, f"{name} is stored as {list(tensor.shape)}, the config makes it {list(shape)}")
    if tensor.dtype not in FLOATS:
        raise _difference(directory, f"{name} is stored as {tensor.dtype}, and config.json names no quantization")


def _check_missing(model: Any, match: _Match, parameters: Mapping[str, tuple[int, ...]], directory: Path) -> None:
    """Raise ModelError unless what is not stored one for one is tied to what is, or made of the remaining tensors."""
    shared = {name: id(value) for name, value in model.named_parameters(remove_duplicate=False)}
    held = {shared[name] for name in match.whole if name in shared}
    missing = {key: name for name, key in reversed(shared.items()) if key not in held}
    sizes = dict(model.named_parameters(remove_duplicate=False))
    wanted, parts = sum(sizes[name].numel() for name in missing.values()), _elements(match.parts)
    if missing and wanted != parts:
        first = min(missing.values())
        raise _difference(directory, f"{len(missing)} of {len(parameters)} parameters are not stored, such as {first}")


def _elements(tensors: Mapping[str, StoredTensor]) -> int:
    return sum(tensor.elements for tensor in tensors.values())


def _difference(directory: Path, what: str) -> ModelError:
    """The error for a checkpoint that is not the config's model."""
    return ModelError(
        f"the weights in {directory} are not those of its config.json: {what}",
        causes=("config.json is from another model", "only a part of the model was saved here"),
    )
