"""llama.cpp's blocks of integers, which hold what a bundle's packed weights hold, to the last bit.

Q4_0 is 32 numbers along the input: a float16 scale d, then 16 bytes, whose low halves are the numbers 0 to 15 and whose
high halves the numbers 16 to 31; a number is (half - 8) * d. Q8_0 is d and 32 int8. Both have one scale for 32 numbers,
so the scale of a larger group, or of a whole row, comes several times. Source: ggml-common.h and ggml-quants.c
(`dequantize_row_q4_0`, `dequantize_row_q8_0`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import QuantizeError
from edgeq.model.checkpoint.packed_weights import unpack_integers

if TYPE_CHECKING:
    import torch

__all__ = ["BLOCK", "KINDS", "blocks_of", "rounded_scales"]

BLOCK: Final = 32
"""Numbers of a row with one scale."""

KINDS: Final = {4: "Q4_0", 8: "Q8_0"}
"""Bits -> GGUF's name of the type."""


def blocks_of(packed: torch.Tensor, scale: torch.Tensor, bits: int) -> NDArray[np.uint8]:
    """A weight's blocks, row by row.

    Args:
        packed: int32 [out, in * bits / 32], as `edgeq.model.checkpoint.packed_weights` has it; 32 divides `in`.
        scale: 16-bit floats [out, in / group].
        bits: 4 or 8.

    Returns:
        uint8 [out, bytes of a row].

    Raises:
        QuantizeError: a scale is beyond float16.
    """
    values = unpack_integers(packed, bits).numpy()
    rows, columns = values.shape
    blocks = columns // BLOCK
    scales = np.repeat(_halves(scale), blocks // scale.shape[1], axis=1)[:, :, None].view(np.uint8)
    numbers = values.reshape(rows, blocks, BLOCK)
    if bits == 4:
        halves = (numbers + 8).astype(np.uint8)
        stored: NDArray[Any] = halves[:, :, : BLOCK // 2] | (halves[:, :, BLOCK // 2 :] << 4)
    else:
        stored = numbers.view(np.uint8)
    return np.concatenate([scales, stored], axis=2).reshape(rows, -1)


def rounded_scales(scale: torch.Tensor) -> int:
    """How many scales float16 does not hold as they are; those of bfloat16 below 2 ** -14 may be of them.

    Args:
        scale: 16-bit floats of any shape.
    """
    return int((scale.half().float() != scale.float()).sum())


def _halves(scale: torch.Tensor) -> NDArray[np.float16]:
    found: NDArray[np.float16] = scale.half().numpy()
    if not np.isfinite(found).all():
        raise QuantizeError("a scale is beyond float16, which GGUF's blocks have", next_step="run it with edgeq")
    return found
