"""Gemma 3: what an image costs."""

from __future__ import annotations

from vlm_costs import golden_vlm

from edgeq.families.registry import image_cost


def test_an_image_has_one_size() -> None:
    """896 / 14 = 64 patches a side, averaged into 256 tokens."""
    siglip = {"image_size": 896, "patch_size": 14, "model_type": "siglip_vision_model"}
    gemma = golden_vlm("llava-1.5-7b", model_type="gemma3", config={"mm_tokens_per_image": 256}, vision=siglip)
    for size in ((9, 9), (1080, 1920)):
        assert (image_cost(gemma, size).tokens, image_cost(gemma, size).sequence) == (256, 64 * 64)
