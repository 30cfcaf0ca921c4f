"""RepQ-ViT's maps, worked out by hand, and that they bring all channels to one range."""

from __future__ import annotations

import blocks
import numpy as np

from edgeq.quantize.equalize.channel_ranges import Range, channel_ranges
from edgeq.quantize.equalize.points import find_points
from edgeq.quantize.equalize.repq import repq, repq_maps
from edgeq.quantize.equalize.rescale import rescale


def test_the_formula() -> None:
    # Spans 2 and 4, mean 3; zero points at 1/2 and 0 of the span, mean 1/4.
    scale, shift = repq_maps(Range(np.array([-1.0, 0.0]), np.array([1.0, 4.0])))
    np.testing.assert_allclose(scale, [2 / 3, 4 / 3])
    np.testing.assert_allclose(shift, [2 * (1 / 2 - 1 / 4), 4 * (0 - 1 / 4)])
    # So both end at (-1 + 1/2) / (2/3) = (0 - 1) / (4/3) = -3/4 and (1 + 1/2) / (2/3) = (4 - 1) / (4/3) = 9/4.


def test_a_channel_that_never_moves_is_left_as_it_is() -> None:
    scale, shift = repq_maps(Range(np.array([2.0, -1.0, 0.0]), np.array([2.0, 1.0, 0.0])))
    np.testing.assert_allclose(scale, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(shift, [0.0, 0.0, 0.0])


def test_all_channels_behind_a_normalization_get_one_range() -> None:
    model = blocks.unbalance(blocks.transformer(layers=1), layers=1)
    layers = frozenset(node.name for node in model.graph.node if node.op_type == "MatMul")
    points, _ = find_points(model, (blocks.SIDE, blocks.SIDE), layers)
    pixels = np.random.default_rng(3).standard_normal((3, 3, blocks.SIDE, blocks.SIDE)).astype(np.float32)
    changes = repq(points, channel_ranges(model, points, [pixels], threads=1))
    assert [change.point.name for change in changes] == ["0.before", "0.after"]  # the value cannot be shifted
    made = rescale(model, changes)
    for change in changes:
        after = channel_ranges(made, [change.point], [pixels], threads=1)[change.point.name]
        span = float(after.high.max() - after.low.min())
        assert np.ptp(after.low) < 1e-3 * span
        assert np.ptp(after.high) < 1e-3 * span
    before, now = blocks.run(model, pixels), blocks.run(made, pixels)
    assert np.abs(before - now).max() < 1e-5 * np.ptp(before)
