"""Twin uniform quantizers: two grids of k - 1 bits in one tensor, and a bit that says which.

From PTQ4ViT (arXiv 2111.12293). What comes out is the sum of a tensor on the one grid and a tensor on the other, each
zero where the other is not: an engine could do it as two integer products summed. In one tensor, as here, it is a
simulation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["TwinGelu", "TwinSoftmax"]


@dataclass(frozen=True)
class TwinSoftmax:
    """For values in 0..1: steps of split / (2^(k-1) - 1) up to the split, of 1 / (2^(k-1) - 1) from there to 1.

    What would be rounded from above the split to below it is given the split, which the finer grid has: so the order
    of the values is kept, and the error is smaller.

    Attributes:
        split: a power of two below 1; then the one grid is the other, shifted.
        bits: k.
    """

    split: float
    bits: int

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Round."""
        top = 2 ** (self.bits - 1) - 1
        fine = torch.round(values.clamp(0.0, self.split) * (top / self.split)) * (self.split / top)
        coarse = (torch.round(values.clamp(max=1.0) * top) / top).clamp(min=self.split)
        return torch.where(values <= self.split, fine, coarse)


@dataclass(frozen=True)
class TwinGelu:
    """One step for x > 0 and one for x < 0: the codes 0 .. 2^(k-1) - 1 and -2^(k-1) .. 0.

    Attributes:
        negative, positive: the steps.
        bits: k.
    """

    negative: float
    positive: float
    bits: int

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Round."""
        half = 2 ** (self.bits - 1)
        below = torch.round(values / self.negative).clamp_(-half, 0) * self.negative
        above = torch.round(values / self.positive).clamp_(0, half - 1) * self.positive
        return below + above
