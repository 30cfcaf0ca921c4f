"""Grids and stored integers against ONNX's own definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeq.quantize.int8.grid import (
    Grid,
    quantize_bias,
    round_weight,
    signed_grid,
    unsigned_grid,
    weight_amax,
    weight_scale,
)


def quantize_weight(
    weight: NDArray[np.float32], axis: int | None, smallest_scale: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scale = weight_scale(weight_amax(weight, axis), smallest_scale)
    return round_weight(weight, axis, scale), scale


def test_signed_grid_is_symmetric() -> None:
    assert signed_grid(12.7) == Grid(float(np.float32(12.7 / 127)), 0, "int8")


def test_unsigned_grid_of_a_relu_starts_at_zero() -> None:
    assert unsigned_grid(0.0, 5.1) == Grid(float(np.float32(5.1 / 255)), 0, "uint8")


def test_unsigned_grid_of_a_signed_tensor_moves_its_zero() -> None:
    assert unsigned_grid(-1.0, 3.0).zero_point == 64  # 255 / 4 = 63.75 steps below zero


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_zero_is_stored_exactly_and_the_range_is_covered(low: float, high: float) -> None:
    grid = unsigned_grid(-low, high)
    assert 0 <= grid.zero_point <= 255
    assert grid.scale > 0
    covered = (-grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale)
    slack = 0.51 * grid.scale  # the zero point is rounded to a whole step
    assert covered[0] - slack <= -low
    assert high <= covered[1] + slack


def test_an_empty_range_still_has_a_positive_scale() -> None:
    assert signed_grid(0.0).scale > 0
    assert unsigned_grid(0.0, 0.0).scale > 0


def test_weights_have_one_scale_for_each_output_channel() -> None:
    weight = np.array([[1.27, -0.5], [0.0254, 0.0127]], np.float32)
    integers, scale = quantize_weight(weight, 0)
    np.testing.assert_allclose(scale, [0.01, 0.0002], rtol=1e-6)
    assert integers.tolist() == [[127, -50], [127, 64]]  # 0.0127 / 0.0002 = 63.5 rounds to even


def test_per_tensor_weights_have_one_scale() -> None:
    integers, scale = quantize_weight(np.array([[1.27, -0.5], [0.0254, 0.01]], np.float32), None)
    assert scale.shape == ()
    assert integers.tolist() == [[127, -50], [3, 1]]


def test_a_dead_channel_is_stored_as_zeros() -> None:
    integers, scale = quantize_weight(np.array([[0.0, 0.0], [1.0, 2.0]], np.float32), 0)
    assert integers[0].tolist() == [0, 0]
    assert scale[0] > 0


def test_a_bias_beyond_int32_raises_the_weight_scale() -> None:
    weight = np.array([[1e-9, 1e-9], [1.0, 0.5]], np.float32)
    bias, step = np.array([1e3, 1.0]), 0.01
    floor = np.abs(bias) / (step * (2**31 - 1))
    _, scale = quantize_weight(weight, 0, smallest_scale=floor)
    stored = quantize_bias(bias.astype(np.float32), (np.float32(step) * scale).astype(np.float32))
    np.testing.assert_allclose(stored * (step * scale.astype(np.float64)), bias, rtol=1e-6)
