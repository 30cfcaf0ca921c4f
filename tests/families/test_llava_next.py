"""LLaVA-NeXT and LLaVA-OneVision: what an image costs, against published figures and transformers' processors."""

from __future__ import annotations

import pytest
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from vlm_costs import SIZES, Pinpoints, golden_vlm

from edgeq.families.registry import image_cost


@pytest.mark.parametrize(
    ("size", "tokens"), [((336, 336), 1176), ((480, 640), 2340), ((1080, 1920), 1948), ((672, 672), 2928)]
)
def test_published_sizes(size: tuple[int, int], tokens: int) -> None:
    assert image_cost(golden_vlm("llava-1.6-mistral-7b"), size).tokens == tokens


def test_next_as_its_processor_counts() -> None:
    llava = golden_vlm("llava-1.6-mistral-7b")
    processor = object.__new__(LlavaNextProcessor)
    processor.image_processor = Pinpoints(llava.config["image_grid_pinpoints"])
    processor.patch_size, processor.num_additional_image_tokens = 14, 1
    for size in SIZES:
        counted = processor._get_number_of_features(*size, 336, 336) - 1  # the class token is dropped
        assert image_cost(llava, size).tokens == counted, size


def test_onevision_as_its_processor_counts() -> None:
    """A SigLIP of 384 pixels: 27 patches a side, no class token; grids of up to 6 x 6 tiles, shrunk to 9."""
    pinpoints = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    config = {
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": pinpoints,
        "vision_aspect_ratio": "anyres_max_9",
    }
    vision_encoder = {"image_size": 384, "patch_size": 14, "model_type": "siglip_vision_model"}
    onevision = golden_vlm("llava-1.5-7b", model_type="llava_onevision", config=config, vision=vision_encoder)
    processor = object.__new__(LlavaOnevisionProcessor)
    processor.image_processor = Pinpoints(pinpoints)
    processor.num_image_tokens, processor.vision_aspect_ratio = 729, "anyres_max_9"
    for size in SIZES:
        assert image_cost(onevision, size).tokens == processor._get_number_of_features(*size, 384, 384), size
