"""Llama 3.2 Vision: what an image costs."""

from __future__ import annotations

from vlm_costs import golden_vlm

from edgeq.families.registry import image_cost


def test_four_tiles_are_always_paid_for() -> None:
    """(560 / 14)² + 1 = 1601 patches a tile, padded to 1608 in the encoder."""
    for size in ((10, 10), (2000, 2000)):
        cost = image_cost(golden_vlm("llama-3.2-11b-vision"), size)
        assert (cost.cross_tokens, cost.tokens, cost.sequence) == (4 * 1601, 1, 4 * 1608)
