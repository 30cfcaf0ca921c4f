"""Weights as symmetric integers with 16-bit scales, in the form that compressed-tensors calls "pack-quantized".

llm-compressor writes it; vLLM and transformers (with the package compressed-tensors) read it. A weight [out, in], of a
linear layer or of an embedding, whose output is the vocabulary, is three tensors: `weight_packed` int32
[out, in * bits / 32], whose integers lie one behind the other from the lowest bits on, each with 2 ** (bits - 1) added;
`weight_scale`, a 16-bit float for each group along the input; and `weight_shape` int64 [2]. `config.json` names the
groups and the layers that are left alone. Source: compressed-tensors 0.20, compressors/pack_quantized, and its
documentation of `quantization_config`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import ModelError
from edgeq.model.checkpoint.safetensors_file import TensorSlot

if TYPE_CHECKING:
    import torch

__all__ = [
    "GROUPS",
    "METHOD",
    "UNPACKED_AT_ONCE",
    "WeightScheme",
    "pack_integers",
    "packed_bytes",
    "packed_scheme",
    "packed_slots",
    "quantization_config",
    "read_schemes",
    "unpack_integers",
]

METHOD: Final = "compressed-tensors"
_FORMAT: Final = "pack-quantized"
_WORD: Final = 32

GROUPS: Final = (128, 64, 32)
"""Numbers along the input with one scale in INT4, as the kernels have them (vLLM's Marlin, torch, Edge-LLM: 128)."""

UNPACKED_AT_ONCE: Final = 1 << 26
"""Numbers of a weight in INT8 that a GPU has unpacked at once where it unpacks them: 128 MiB in 16 bits."""


@dataclass(frozen=True)
class WeightScheme:
    """How a weight is stored.

    Attributes:
        bits: 4 or 8.
        group: numbers along the input with one scale; None for one scale of an output channel.
    """

    bits: int
    group: int | None

    @property
    def lowest(self) -> int:
        """The least integer."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The largest integer."""
        return -self.lowest - 1

    def scales(self, in_features: int) -> int:
        """How many scales an output channel has."""
        return 1 if self.group is None else in_features // self.group


def packed_scheme(bits: int, in_features: int) -> WeightScheme | None:
    """How a layer of so many inputs is stored in so many bits; None where it cannot be.

    INT4 has the largest group that divides the input, INT8 a scale for each output channel.
    """
    if bits == 8:
        return WeightScheme(8, None) if in_features % (_WORD // 8) == 0 else None
    return next((WeightScheme(bits, group) for group in GROUPS if in_features % group == 0), None)


def packed_slots(layer: str, shape: tuple[int, ...], scheme: WeightScheme, dtype: str) -> tuple[TensorSlot, ...]:
    """The tensors of one weight.

    Args:
        layer: its full name.
        shape: [out, in].
        scheme: how it is stored; what it asks of `in` is given.
        dtype: of the scales, F16 or BF16.
    """
    rows, columns = shape
    return (
        TensorSlot(f"{layer}.weight_packed", "I32", (rows, columns * scheme.bits // _WORD)),
        TensorSlot(f"{layer}.weight_scale", dtype, (rows, scheme.scales(columns))),
        TensorSlot(f"{layer}.weight_shape", "I64", (2,)),
    )


def packed_bytes(shape: tuple[int, ...], scheme: WeightScheme) -> int:
    """Bytes of one weight [out, in]."""
    return sum(slot.bytes for slot in packed_slots("", shape, scheme, "F16"))


def pack_integers(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers of some bits as words.

    Args:
        values: int8 [out, in], from -2 ** (bits - 1) on; `in * bits` fills whole words.
        bits: 4 or 8.

    Returns:
        int32 [out, in * bits / 32].
    """
    import torch

    unsigned = values.contiguous().view(torch.uint8) + (1 << (bits - 1))  # bytes wrap round
    if bits == 4:
        unsigned = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    return unsigned.contiguous().view(torch.int32)  # little-endian, as on every machine that edgeq runs on


def unpack_integers(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """What `pack_integers` was given: int8 [out, in] of int32 [out, in * bits / 32]."""
    import torch

    unsigned = packed.contiguous().view(torch.uint8)
    if bits == 4:
        unsigned = torch.stack([unsigned & 15, unsigned >> 4], -1).flatten(1)
    return (unsigned - (1 << (bits - 1))).view(torch.int8)


def quantization_config(
    schemes: Mapping[str, WeightScheme], ignored: Sequence[str], embeddings: Collection[str] = ()
) -> dict[str, Any]:
    """What config.json says under `quantization_config`.

    Args:
        schemes: full name of each layer that is stored so -> how.
        ignored: full names of all other linear layers.
        embeddings: names in `schemes` that are embeddings; the others are linear layers.
    """
    linear = {scheme for name, scheme in schemes.items() if name not in embeddings}
    kinds = sorted(set(schemes.values()), key=lambda scheme: -(scheme.group or 0))
    groups = {}
    for number, kind in enumerate(kinds):
        names = [name for name, scheme in schemes.items() if scheme == kind]
        by_class = linear == {kind}
        if by_class:
            names = [name for name in names if name in embeddings]
        groups[f"group_{number}"] = {
            "format": _FORMAT,
            "input_activations": None,
            "output_activations": None,
            "targets": [*(["Linear"] if by_class else []), *(f"re:^{re.escape(name)}$" for name in names)],
            "weights": {
                "actorder": None,
                "dynamic": False,
                "group_size": kind.group,
                "num_bits": kind.bits,
                "strategy": "channel" if kind.group is None else "group",
                "symmetric": True,
                "type": "int",
            },
        }
    return {
        "config_groups": groups,
        "format": _FORMAT,
        "ignore": list(ignored),
        "kv_cache_scheme": None,
        "quant_method": METHOD,
        "quantization_status": "compressed",
    }


def read_schemes(
    config: Mapping[str, Any], linear: Collection[str], embeddings: Collection[str] = ()
) -> dict[str, WeightScheme]:
    """How each layer of a checkpoint is stored; those that are not named are left alone.

    Args:
        config: `quantization_config` of a config.json.
        linear: full names of the model's linear layers.
        embeddings: full names of its embeddings.

    Raises:
        ModelError: it is another format, or one of what this format can be that is not read here: activations, zero
            points, other bits or groups.
    """
    if config.get("quant_method") != METHOD or config.get("format") != _FORMAT:
        raise _other(f"{config.get('quant_method')} {config.get('format')}")
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _other("no config_groups")
    ignored = [str(name) for name in config.get("ignore") or ()]
    found: dict[str, WeightScheme] = {}
    layers = {**dict.fromkeys(linear, "Linear"), **dict.fromkeys(embeddings, "Embedding")}
    for group in groups.values():
        scheme, targets = _scheme(group), [str(target) for target in group.get("targets") or ()]
        for name, kind in layers.items():
            if name not in found and _named(name, kind, targets) and not _named(name, kind, ignored):
                found[name] = scheme
    return found


def _scheme(group: Any) -> WeightScheme:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise _other("a group without weights")
    if group.get("input_activations") or group.get("output_activations"):
        raise _other("quantized activations")
    if weights.get("type", "int") != "int" or not weights.get("symmetric", True) or weights.get("actorder"):
        raise _other("floats, zero points or another order of the weights")
    bits, strategy, size = (weights.get(key) for key in ("num_bits", "strategy", "group_size"))
    if bits in (4, 8) and strategy == "group" and size in GROUPS:
        return WeightScheme(bits, size)
    if bits in (4, 8) and strategy == "channel":
        return WeightScheme(bits, None)
    raise _other(f"{bits} bits by {strategy} {size or ''}".strip())


def _named(layer: str, kind: str, patterns: Collection[str]) -> bool:
    """As compressed-tensors has it: a full name, a class, or a regular expression from the name's start on."""
    return any(
        re.match(pattern.removeprefix("re:"), layer) is not None
        if pattern.startswith("re:")
        else pattern in (layer, kind)
        for pattern in patterns
    )


def _other(what: str) -> ModelError:
    groups = ", ".join(map(str, GROUPS))
    return ModelError(
        f"config.json says that the weights are stored as {what}, which edgeq does not read",
        expected=f"{METHOD} {_FORMAT}: symmetric integers of 4 or 8 bits, in groups of {groups} or by output channel",
    )
