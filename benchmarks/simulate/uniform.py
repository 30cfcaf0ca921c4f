"""The uniform grid of k bits: equal steps, symmetric around zero or with a zero point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

__all__ = ["Quantizer", "Uniform", "affine", "symmetric"]

_SMALLEST = 1e-12  # in the place of the step of a tensor that is all zeros


class Quantizer(Protocol):
    """A fake quantizer: float32 tensor of any shape to the numbers, of the same shape, that its k bits can hold."""

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Round."""
        ...


@dataclass(frozen=True)
class Uniform:
    """x' = s (clip(round(x / s) + z, lowest, highest) - z), rounding half to even.

    Attributes:
        step: s > 0; one number, or a tensor that is broadcast against the values (one for each output channel).
        lowest, highest: the codes, 2^k of them.
        zero_point: z, the code of 0.
    """

    step: torch.Tensor
    lowest: int
    highest: int
    zero_point: int = 0

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Round."""
        codes = torch.round(values / self.step) + self.zero_point
        return (codes.clamp_(self.lowest, self.highest) - self.zero_point) * self.step


def symmetric(amax: torch.Tensor, bits: int) -> Uniform:
    """Signed, zero point 0: the codes -2^(k-1) .. 2^(k-1) - 1 and s = amax / (2^(k-1) - 1/2), as PTQ4ViT has it.

    Args:
        amax: largest magnitude, one number or one for each channel.
        bits: k.
    """
    half = 2 ** (bits - 1)
    return Uniform((amax / (half - 0.5)).clamp(min=_SMALLEST), -half, half - 1)


def affine(low: float, high: float, bits: int) -> Uniform:
    """Unsigned, with a zero point: the codes 0 .. 2^k - 1 over [min(low, 0), max(high, 0)], as ONNX Runtime has it."""
    low, high, top = min(low, 0.0), max(high, 0.0), 2**bits - 1
    step = max((high - low) / top, _SMALLEST)
    return Uniform(torch.tensor(step), 0, top, min(top, round(-low / step)))
