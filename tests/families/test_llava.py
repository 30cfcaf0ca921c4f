"""LLaVA: what an image costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from vlm_costs import golden_vlm

from edgeq.errors import ModelError
from edgeq.families.base import Layout
from edgeq.families.registry import image_cost, runnable


def test_an_image_has_one_size() -> None:
    """336 / 14 = 24 patches a side; the class token is attended to and dropped."""
    llava = golden_vlm("llava-1.5-13b")
    for size in ((336, 336), (1080, 1920)):
        cost = image_cost(llava, size)
        assert (cost.tokens, cost.tiles, cost.sequence) == (24 * 24, 1, 24 * 24 + 1)
    full = replace(llava, config={**llava.config, "vision_feature_select_strategy": "full"})
    assert image_cost(full, (336, 336)).tokens == 577


def test_a_pixtral_encoder_is_not_counted() -> None:
    pixtral = golden_vlm("llava-1.5-13b", vision={"model_type": "pixtral", "patch_size": 16, "image_size": 1024})
    with pytest.raises(ModelError, match="the Pixtral encoder takes images of any size, and its rule is not known"):
        image_cost(pixtral, (336, 336))


def test_nothing_is_written_around_the_image() -> None:
    assert runnable("llava").places("*", Layout(2, 1, 5)) == "**"
