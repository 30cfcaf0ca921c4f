"""One weight as NF4: bitsandbytes' own numbers, made in pieces, under the names that its checkpoints use.

NF4 is the 4-bit type of QLoRA (Dettmers et al., 2023, https://arxiv.org/abs/2305.14314): blocks of 64 numbers, each
with its largest magnitude (absmax); with double quantization the magnitudes, less their mean, are stored in 8 bits in
blocks of 256. bitsandbytes' code for the CPU wants several times a weight's size beside it; blocks do not depend on
each other, so a weight is quantized in pieces of whole blocks, and the result is the same to the bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edgeq.model.checkpoint.safetensors_file import TensorSlot

if TYPE_CHECKING:
    import torch

__all__ = ["nf4_slots", "nf4_tensors"]

_BLOCK: Final = 64
_NESTED_BLOCK: Final = 256
_PIECE: Final = 2**22
"""Numbers quantized at a time: a multiple of the block."""


def nf4_slots(name: str, shape: tuple[int, ...], *, double_quant: bool) -> tuple[TensorSlot, ...]:
    """The tensors that a quantized weight consists of.

    Args:
        name: of the weight, `….weight`.
        shape: [out, in].
        double_quant: whether the magnitudes are quantized, too.
    """
    numbers = math.prod(shape)
    blocks = -(-numbers // _BLOCK)
    slots = (
        TensorSlot(name, "U8", (-(-numbers // 2), 1)),
        TensorSlot(f"{name}.absmax", "U8" if double_quant else "F32", (blocks,)),
        TensorSlot(f"{name}.quant_map", "F32", (16,)),
        TensorSlot(f"{name}.quant_state.bitsandbytes__nf4", "U8", None),
    )
    if not double_quant:
        return slots
    nested = -(-blocks // _NESTED_BLOCK)
    return (
        *slots,
        TensorSlot(f"{name}.nested_absmax", "F32", (nested,)),
        TensorSlot(f"{name}.nested_quant_map", "F32", (256,)),
    )


def nf4_tensors(name: str, weight: torch.Tensor, *, double_quant: bool) -> dict[str, torch.Tensor]:
    """A weight quantized, as the tensors of `nf4_slots`.

    Args:
        name: of the weight, `….weight`.
        weight: float32, float16 or bfloat16 [out, in], on the CPU.
        double_quant: whether the magnitudes are quantized, too.

    Returns:
        The tensors by name: packed uint8 [out * in / 2, 1], magnitudes [blocks], float32 or uint8, and what they need.
    """
    import torch
    from bitsandbytes.functional import QuantState, get_4bit_type, quantize_blockwise

    packed, absmax = _quantize(weight)
    offset, nested = None, None
    if double_quant:
        offset = absmax.mean()
        absmax, nested = quantize_blockwise(absmax - offset, blocksize=_NESTED_BLOCK)
    state = QuantState(
        absmax=absmax,
        shape=weight.shape,
        code=get_4bit_type("nf4", device=torch.device("cpu")),
        blocksize=_BLOCK,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=offset,
        state2=nested,
    )
    return {name: packed} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}


def _quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed numbers uint8 [n / 2, 1] and magnitudes float32 [n / 64]."""
    import torch
    from bitsandbytes.functional import quantize_4bit

    packed, absmax = [], []
    flat = weight.reshape(-1)
    for start in range(0, len(flat), _PIECE):
        numbers, state = quantize_4bit(flat[start : start + _PIECE], blocksize=_BLOCK, quant_type="nf4")
        packed.append(numbers)
        absmax.append(state.absmax)
    return torch.cat(packed), torch.cat(absmax)
