"""Embeddings and heads in INT8, some rows at a time: they are the largest weights of a model. Needs torch.

A row, one word of the vocabulary, has one scale, which is a bfloat16 also where the checkpoint's type is float16: the
head's kernel takes scales in bfloat16, and the integers are rounded with what it computes with.
"""

from __future__ import annotations

from typing import Final

import torch

from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.quantize.weight_only.round import Rounded, round_weight

__all__ = ["as_rounded", "round_table"]

_ROWS: Final = 4096
"""Rows that are in float32 at once."""


def round_table(table: torch.Tensor, scheme: WeightScheme) -> Rounded:
    """Round each number to the nearest integer of its row's or group's grid.

    Args:
        table: [vocabulary, hidden] in the checkpoint's 16-bit type, which the scales get, too.
        scheme: how it is stored.
    """
    values = torch.empty(table.shape, dtype=torch.int8)
    scales = torch.empty(len(table), scheme.scales(table.shape[1]), dtype=table.dtype)
    for start in range(0, len(table), _ROWS):
        part = slice(start, start + _ROWS)
        rounded = round_weight(table[part].float(), scheme, torch.bfloat16)
        values[part], scales[part] = rounded.values, rounded.scales
    return Rounded(values, scales, scheme)


def as_rounded(table: torch.Tensor, scheme: WeightScheme | None) -> torch.Tensor:
    """What an embedding stands for once it is stored.

    Args:
        table: float16 or bfloat16 [vocabulary, hidden].
        scheme: INT8 with a scale for each row; None leaves the table as it is.

    Returns:
        [vocabulary, hidden] in the dtype of the table.
    """
    if scheme is None:
        return table
    found = torch.empty_like(table)
    for start in range(0, len(table), _ROWS):
        rounded = round_table(table[start : start + _ROWS], scheme)
        found[start : start + _ROWS] = rounded.values.to(table.dtype) * rounded.scales
    return found
