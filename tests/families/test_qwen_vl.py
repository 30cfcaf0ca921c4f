"""Qwen-VL: what an image costs, against transformers' image processor."""

from __future__ import annotations

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from vlm_costs import SIZES, golden_vlm

from edgeq.families.registry import image_cost


def test_as_its_processor_counts() -> None:
    qwen, processor = golden_vlm("qwen2.5-vl-7b"), Qwen2VLImageProcessorPil()
    assert image_cost(qwen, (300, 420)).tokens == round(300 / 28) * round(420 / 28)
    for size in SIZES:
        cost = image_cost(qwen, size)
        assert cost.sequence == processor.get_number_of_image_patches(*size), size
        assert cost.tokens == cost.sequence // 4


def test_the_preprocessors_limits_are_heeded() -> None:
    limited = golden_vlm("qwen2.5-vl-7b", preprocessor={"min_pixels": 28 * 28 * 16, "max_pixels": 28 * 28 * 16})
    assert image_cost(limited, (2000, 2000)).tokens == 16
