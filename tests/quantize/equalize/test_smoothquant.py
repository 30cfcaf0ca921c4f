"""SmoothQuant's scales, worked out by hand."""

from __future__ import annotations

import blocks
import numpy as np
import pytest

from edgeq.quantize.equalize.channel_ranges import channel_ranges
from edgeq.quantize.equalize.points import find_points
from edgeq.quantize.equalize.rescale import consumer_weights, rescale
from edgeq.quantize.equalize.smoothquant import smooth, smooth_scale

ALL = np.ones(2, np.bool_)


def test_the_formula() -> None:
    # sqrt(16) / sqrt(1) = 4 and sqrt(1) / sqrt(4) = 0.5; over their geometric mean, sqrt(2)
    scale = smooth_scale(np.array([16.0, 1.0]), np.array([1.0, 4.0]), ALL, strength=0.5)
    np.testing.assert_allclose(scale, [4 / 2**0.5, 0.5 / 2**0.5])


def test_a_channel_that_is_zero_or_not_read_keeps_its_scale() -> None:
    scale = smooth_scale(np.array([0.0, 3.0, 5.0]), np.array([1.0, 0.0, 1.0]), np.ones(3, np.bool_), strength=0.5)
    np.testing.assert_allclose(scale, [1.0, 1.0, 1.0])  # the third alone is its own geometric mean


def test_beside_channels_that_stay_the_others_are_not_brought_to_a_mean() -> None:
    scale = smooth_scale(np.array([16.0, 1.0]), np.array([1.0, 4.0]), np.array([True, False]), strength=0.5)
    np.testing.assert_allclose(scale, [4.0, 1.0])


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_at_the_ends_one_side_becomes_alike(strength: float) -> None:
    model = blocks.unbalance(blocks.transformer(layers=1), layers=1)
    layers = frozenset(node.name for node in model.graph.node if node.op_type == "MatMul")
    found, _ = find_points(model, (blocks.SIDE, blocks.SIDE), layers)
    points = [
        point for point in found if point.kind == "normalization"
    ]  # scaling a value changes the weights behind one
    pixels = np.random.default_rng(3).standard_normal((2, 3, blocks.SIDE, blocks.SIDE)).astype(np.float32)
    ranges = channel_ranges(model, points, [pixels], threads=1)
    made = rescale(model, smooth(model, points, ranges, layers, strength))
    for point in points:
        activations = channel_ranges(made, [point], [pixels], threads=1)[point.name].largest
        weights = consumer_weights(made, point, layers)
        alike, other = (activations, weights) if strength else (weights, activations)
        assert alike.max() / alike.min() == pytest.approx(1.0, rel=1e-4)
        assert other.max() / other.min() > 2.0
