"""Simulated quantizers: every formula by hand, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.simulate.logarithm import AdaLog, Log2, LogSqrt2, Shifted
from benchmarks.simulate.twin import TwinGelu, TwinSoftmax
from benchmarks.simulate.uniform import Quantizer, affine, symmetric

ROOT = 2.0**0.5


def assert_rounds(quantizer: Quantizer, pairs: dict[float, float]) -> None:
    found = quantizer(torch.tensor(list(pairs)))
    torch.testing.assert_close(found, torch.tensor(list(pairs.values())), rtol=1e-6, atol=1e-7)


def levels(values: torch.Tensor) -> int:
    return len(set(values.tolist()))


def test_symmetric_grid() -> None:
    # 3 bits: codes -4..3, and 3.5 / (4 - 1/2) = 1.
    assert_rounds(symmetric(torch.tensor(3.5), 3), {-5.0: -4.0, -1.4: -1.0, 0.5: 0.0, 1.5: 2.0, 2.6: 3.0, 9.0: 3.0})


def test_a_step_for_each_channel() -> None:
    steps = symmetric(torch.tensor([[1.5], [15.0]]), 2)  # 1.5 / (2 - 1/2) = 1, and 10
    found = steps(torch.tensor([[0.6, -3.0], [6.0, 4.0]]))
    assert found.tolist() == [[1.0, -2.0], [10.0, 0.0]]


def test_affine_grid() -> None:
    # 2 bits over -1..2: four codes, a step of 1, the zero point 1.
    assert_rounds(affine(-1.0, 2.0, 2), {-3.0: -1.0, -0.4: 0.0, 0.6: 1.0, 1.6: 2.0, 9.0: 2.0})
    # Where nothing is negative the grid begins at 0: 3 / 3 = 1.
    assert_rounds(affine(0.5, 3.0, 2), {0.4: 0.0, 0.6: 1.0, 2.7: 3.0})


def test_twin_softmax() -> None:
    # 3 bits: 2^2 - 1 = 3 steps of 1/12 up to the split at 1/4, and of 1/3 from there on.
    twins = TwinSoftmax(0.25, 3)
    assert_rounds(twins, {0.0: 0.0, 0.04: 0.0, 0.05: 1 / 12, 0.2: 2 / 12, 0.24: 0.25})
    assert_rounds(twins, {0.25: 0.25, 0.3: 1 / 3, 0.45: 1 / 3, 0.55: 2 / 3, 0.9: 1.0})


def test_twin_softmax_keeps_what_is_above_the_split_above_it() -> None:
    # 0.1 is nearer to 0 than to 1/3, but above the split at 1/16, which is kept for it.
    assert_rounds(TwinSoftmax(1 / 16, 3), {0.1: 1 / 16, 0.05: 2 / 48, 0.4: 1 / 3})


def test_twin_gelu() -> None:
    # 3 bits: -4..0 in steps of 0.05, 0..3 in steps of 0.5.
    twins = TwinGelu(negative=0.05, positive=0.5, bits=3)
    assert_rounds(twins, {-0.3: -0.2, -0.17: -0.15, -0.02: 0.0, 0.3: 0.5, 1.3: 1.5, 2.4: 1.5})


def test_twins_are_two_uniform_tensors_summed() -> None:
    values = torch.linspace(-0.17, 4.0, 999)
    low, high = symmetric(torch.tensor(0.175), 4), affine(0.0, 3.5, 3)  # steps of 0.175 / 7.5 and 3.5 / 7
    apart = low(values.clamp(max=0.0)) + high(values.clamp(min=0.0))
    torch.testing.assert_close(TwinGelu(0.175 / 7.5, 0.5, 4)(values), apart)


def test_log2() -> None:
    # 3 bits: codes 0..6 for 1 .. 1/64; -log2 of 0.8, 0.7 and 0.3 are 0.32, 0.51 and 1.74.
    assert_rounds(Log2(1.0, 3), {2.0: 1.0, 1.0: 1.0, 0.8: 1.0, 0.7: 0.5, 0.3: 0.25, 0.0: 0.0, -1.0: 0.0})
    assert_rounds(Log2(1.0, 3), {2**-6.4: 1 / 64, 2**-6.6: 0.0})
    assert_rounds(Log2(0.5, 3), {0.5: 0.5, 0.35: 0.25, 0.01: 1 / 128})  # log2(0.5 / 0.01) = 5.64


def test_log_sqrt2() -> None:
    # -2 log2 of 0.9, 0.8, 0.5, 0.4 and 0.125 are 0.30, 0.64, 2, 2.64 and 6; code 7 is zero.
    powers = {0.9: 1.0, 0.8: ROOT / 2, 0.5: 0.5, 0.4: ROOT / 4, 0.125: 0.125, 0.1: 0.0}
    assert_rounds(LogSqrt2(1.0, 3), powers)


def test_the_papers_count_zero_for_nothing() -> None:
    # Their last code is a power, too: 2^-7, and 2^-4 times the root of 2.
    assert_rounds(Log2(1.0, 3, free_zero=True), {2**-7.4: 1 / 128, 2**-7.6: 0.0})
    assert_rounds(LogSqrt2(1.0, 3, free_zero=True), {0.09: ROOT / 16, 0.07: 0.0})
    assert_rounds(AdaLog(1.0, 3, 37, free_zero=True), {2**-7.4: 1 / 128, 2**-7.6: 0.0})


def test_adalog_without_its_table() -> None:
    values = torch.rand(1000)
    torch.testing.assert_close(AdaLog(1.0, 4, 37, table=False)(values), Log2(1.0, 4)(values))
    torch.testing.assert_close(AdaLog(1.0, 4, 1, table=False, denominator=2)(values), LogSqrt2(1.0, 4)(values))
    # Base 2^(2/3): codes 1 and 2 are 2^(-2/3) and 2^(-4/3).
    assert_rounds(AdaLog(1.0, 3, 2, table=False, denominator=3), {0.6: 2 ** (-2 / 3), 0.4: 2 ** (-4 / 3)})


def test_adalog_with_its_table() -> None:
    # 3 bits: entries in steps of 1/14. 14 x 2^(-1/2) = 9.90, so 10/14; code 3 is that, shifted by 1.
    assert_rounds(AdaLog(1.0, 3, 1, denominator=2), {1.0: 1.0, 0.7: 10 / 14, 0.5: 0.5, 0.36: 5 / 14})
    # 14 x 2^(-2/3) = 8.82, so 9/14 for code 1; code 2 is 2^(-1/3), 14 times which is 11.1, shifted by 1.
    assert_rounds(AdaLog(1.0, 3, 2, denominator=3), {0.6: 9 / 14, 0.4: 11 / 28, 0.0: 0.0})
    values = torch.rand(1000)
    torch.testing.assert_close(AdaLog(1.0, 4, 37)(values), Log2(1.0, 4)(values))


def test_shifted() -> None:
    # 1/4 is added before and taken off behind: -1/4 is zero's place, 0 that of 2^-2.
    assert_rounds(Shifted(Log2(1.0, 3), 0.25), {-0.25: -0.25, -0.1: 0.125 - 0.25, 0.0: 0.0, 0.7: 0.75})


MADE: dict[str, Callable[[int], Quantizer]] = {
    "symmetric": lambda bits: symmetric(torch.tensor(0.9), bits),
    "affine": lambda bits: affine(-0.2, 0.9, bits),
    "twin softmax, 1/2": lambda bits: TwinSoftmax(0.5, bits),
    "twin softmax, 1/512": lambda bits: TwinSoftmax(2**-9, bits),
    "twin GELU": lambda bits: TwinGelu(0.02, 0.1, bits),
    "log2": lambda bits: Log2(0.9, bits),
    "log-sqrt2": lambda bits: LogSqrt2(0.9, bits),
    "AdaLog, 2^(3/37)": lambda bits: AdaLog(0.9, bits, 3, table=False),
    "AdaLog, 2^(50/37)": lambda bits: AdaLog(0.9, bits, 50, table=False),
    "AdaLog, 2^(12/37), table": lambda bits: AdaLog(0.9, bits, 12),
    "AdaLog, 2^(50/37), table": lambda bits: AdaLog(0.9, bits, 50),
}


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("name", MADE)
def test_order_levels_and_a_second_time(name: str, bits: int) -> None:
    quantizer = MADE[name](bits)
    values = torch.cat([torch.linspace(-0.3, 1.2, 5001), torch.logspace(-9, 0, 2001)]).sort().values
    rounded = quantizer(values)
    assert bool((rounded.diff() >= 0).all())
    assert torch.equal(quantizer(rounded), rounded)
    assert levels(rounded) <= 2**bits


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_the_number_of_levels(bits: int) -> None:
    values = torch.linspace(-2.0, 2.0, 20001)
    assert levels(symmetric(torch.tensor(1.0), bits)(values)) == 2**bits
    assert levels(affine(-0.3, 1.0, bits)(values)) == 2**bits
    assert levels(TwinGelu(0.001, 0.005, bits)(values)) == 2**bits
    # Both grids have zero, so one of the twins' codes is spare.
    assert levels(TwinSoftmax(0.125, bits)(values.abs() / 2)) <= 2**bits


def test_no_more_than_the_papers_have() -> None:
    values = torch.logspace(-9, 0, 20001)
    assert levels(Log2(1.0, 4)(values)) == 16
    assert levels(Log2(1.0, 4, free_zero=True)(values)) == 17


def test_a_tensor_of_zeros() -> None:
    zeros = torch.zeros(3)
    for quantizer in (symmetric(zeros.max(), 8), affine(0.0, 0.0, 8), TwinSoftmax(0.5, 8), Log2(1.0, 8)):
        assert torch.equal(quantizer(zeros), zeros)
