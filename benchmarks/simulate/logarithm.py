"""Logarithmic quantizers: powers of a base, for values that are never negative.

Base 2 is FQ-ViT's (arXiv 2111.13824), the square root of 2 RepQ-ViT's (arXiv 2212.08254), a rational power of 2
AdaLog's (arXiv 2407.12951). Code q stands for s times the base to the -q.

Zero has no logarithm. The papers keep 2^k powers, the codes 0 .. 2^k - 1, and give zero to everything smaller: that is
2^k + 1 different numbers, one more than k bits can tell apart. Here zero takes the last code, unless `free_zero` asks
for the papers' count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

__all__ = ["DENOMINATOR", "AdaLog", "Log2", "LogSqrt2", "Shifted"]

DENOMINATOR: Final = 37
"""AdaLog's r, as its authors chose it: the base is 2^(q/r), and only q is searched."""


def _codes(values: torch.Tensor, scale: float, per_octave: float, bits: int, free_zero: bool) -> torch.Tensor:
    """round(-log(x / s)), in steps of which `per_octave` halve the value; infinite where the value becomes zero."""
    codes = torch.round(-per_octave * torch.log2(values.clamp(min=0.0) / scale)).clamp_(min=0.0)
    powers = 2**bits if free_zero else 2**bits - 1
    return codes.masked_fill_(codes >= powers, torch.inf)


@dataclass(frozen=True)
class Log2:
    """q = round(-log2(x / s)), x' = s 2^-q.

    Attributes:
        scale: s, the largest value.
        bits: k.
        free_zero: zero costs no code, see above.
    """

    scale: float
    bits: int
    free_zero: bool = False

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Round."""
        return self.scale * torch.exp2(-_codes(values, self.scale, 1.0, self.bits, self.free_zero))


@dataclass(frozen=True)
class LogSqrt2:
    """q = round(-2 log2(x / s)), x' = s 2^-ceil(q / 2), times the square root of 2 where q is odd.

    Attributes:
        scale, bits, free_zero: as in `Log2`.
    """

    scale: float
    bits: int
    free_zero: bool = False

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Round."""
        codes = _codes(values, self.scale, 2.0, self.bits, self.free_zero)
        odd = torch.where(codes % 2 == 1, 2.0**0.5, 1.0)
        return self.scale * torch.exp2(-torch.ceil(codes / 2)) * odd


@dataclass(frozen=True)
class AdaLog:
    """i = round(-(r / q) log2(x / s)), x' = s 2^(-i q / r): the base is 2^(q/r).

    The exponent is a whole number and a fraction with the denominator r, so x' is a shift by floor(i q / r) of
    2^(-(i q mod r) / r). A table of those, one entry for each code, needs no floating point: the entries lie in
    (1/2, 1] and are stored in steps of 1 / (2^(k+1) - 2). Without the table the power is exact.

    Attributes:
        scale, bits, free_zero: as in `Log2`.
        numerator: q; 37 is base 2, 18.5 would be its square root.
        table: take the power's fraction from the table.
        denominator: r.
    """

    scale: float
    bits: int
    numerator: int
    table: bool = True
    free_zero: bool = False
    denominator: int = DENOMINATOR

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Round."""
        per_octave = self.denominator / self.numerator
        codes = _codes(values, self.scale, per_octave, self.bits, self.free_zero)
        if not self.table:
            return self.scale * torch.exp2(-codes * self.numerator / self.denominator)
        zero = torch.isinf(codes)
        powers = codes.masked_fill(zero, 0.0) * self.numerator
        entries = 2 ** (self.bits + 1) - 2
        fractions = torch.round(torch.exp2(-(powers % self.denominator) / self.denominator) * entries) / entries
        shifted = torch.exp2(-torch.floor(powers / self.denominator)) * fractions
        rounded: torch.Tensor = self.scale * shifted.masked_fill_(zero, 0.0)
        return rounded


@dataclass(frozen=True)
class Shifted:
    """A quantizer for values that are never negative, of values that are never below -shift, such as GELU's.

    AdaLog's bias reparameterization: x + shift is quantized, and shift times the next layer's weights goes into its
    bias; taking the shift off again here gives the same sum.

    Attributes:
        inner: quantizes x + shift.
        shift: at least -min(x).
    """

    inner: Log2 | LogSqrt2 | AdaLog
    shift: float

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Round."""
        return self.inner(values + self.shift) - self.shift
