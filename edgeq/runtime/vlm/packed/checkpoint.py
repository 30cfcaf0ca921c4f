"""How a checkpoint's weights are stored, by its config.json and its files' headers: no weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from edgeq.errors import ModelError
from edgeq.files import read_json_object
from edgeq.model.checkpoint.packed_weights import METHOD, WeightScheme, packed_slots, read_schemes
from edgeq.model.checkpoint.stored import StoredTensor, read_stored

__all__ = ["WeightFormat", "check_packed", "weight_format"]

WeightFormat = Literal["bitsandbytes", "packed", "float"]

_BITSANDBYTES: Final = "bitsandbytes"
_PACKED: Final = ".weight_packed"
_SCALES: Final = ("F16", "BF16")
_REFUSED: Final = ("weight_zero_point", "weight_g_idx", "weight_global_scale")
"""Tensors of what compressed-tensors can be besides."""


def weight_format(directory: Path) -> WeightFormat:
    """What config.json says of the weights: NF4 of bitsandbytes, packed integers, or nothing.

    Raises:
        ModelError: they are stored in another way; or there is no such file.
    """
    config = read_json_object(directory / "config.json").get("quantization_config")
    if config is None:
        return "float"
    method = config.get("quant_method") if isinstance(config, dict) else config
    if method == _BITSANDBYTES:
        return "bitsandbytes"
    if method == METHOD:
        read_schemes(config, ())
        return "packed"
    raise ModelError(
        f"config.json in {directory} says that the weights are stored by {method}, which edgeq does not read",
        expected=f"{_BITSANDBYTES} (NF4) or {METHOD} (INT4 and INT8)",
        next_step="prepare the model with edgeq, or store it so with llm-compressor",
    )


def check_packed(directory: Path) -> dict[str, WeightScheme]:
    """The packed layers by their full names, which are as config.json says.

    Raises:
        ModelError: the tensors of a layer are missing, or have other shapes or types; or config.json has another
            format.
    """
    stored = read_stored(directory)
    config: dict[str, Any] = read_json_object(directory / "config.json")["quantization_config"]
    layers = [name.removesuffix(_PACKED) for name in stored if name.endswith(_PACKED)]
    schemes = read_schemes(config, layers)
    faults = [f"{name}: not read by edgeq" for name in stored if name.rpartition(".")[2] in _REFUSED]
    for layer in layers:
        faults += _faults(layer, schemes.get(layer), stored)
    if faults or not layers:
        raise ModelError(
            f"{len(faults)} tensors in {directory} are not those of config.json"
            if layers
            else f"{directory} holds no packed weights, and config.json says that it does",
            causes=(*faults[:5], "a file is missing, damaged, or of another checkpoint"),
            next_step="copy the checkpoint again",
        )
    return schemes


def _faults(layer: str, scheme: WeightScheme | None, stored: dict[str, StoredTensor]) -> list[str]:
    """What is wrong with a layer's tensors."""
    if scheme is None:
        return [f"{layer}: packed, and config.json leaves it out"]
    packed, scale = stored[f"{layer}{_PACKED}"], stored.get(f"{layer}.weight_scale")
    if len(packed.shape) != 2 or scale is None or scale.dtype not in _SCALES:
        return [f"{layer}: without 16-bit scales for its weight"]
    shape = (packed.shape[0], packed.shape[1] * 32 // scheme.bits)
    if scheme.group and shape[1] % scheme.group:
        return [f"{layer}: {shape[1]} inputs do not fall into groups of {scheme.group}"]
    return [
        f"{slot.name}: {_said(stored.get(slot.name))}, expected {slot.dtype} {slot.shape}"
        for slot in packed_slots(layer, shape, scheme, scale.dtype)
        if (found := stored.get(slot.name)) is None or (found.dtype, found.shape) != (slot.dtype, slot.shape)
    ]


def _said(tensor: StoredTensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
