"""InternVL: what an image costs, against transformers' image processor, and how it is written."""

from __future__ import annotations

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from vlm_costs import SIZES, golden_vlm

from edgeq.families.base import Layout
from edgeq.families.registry import image_cost, runnable


def test_as_its_processor_counts() -> None:
    vision_encoder = {"image_size": [448, 448], "patch_size": [14, 14], "model_type": "internvl_vision"}
    intern = golden_vlm("llava-1.5-7b", model_type="internvl", config={"image_seq_length": 256}, vision=vision_encoder)
    processor = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=True)
    for size in SIZES:
        tiles = processor.get_number_of_image_patches(*size)
        cost = image_cost(intern, size)
        assert (cost.tiles, cost.tokens, cost.sequence) == (tiles, 256 * tiles, 32 * 32 + 1), size


def test_all_tiles_are_in_one_frame() -> None:
    assert runnable("internvl").places("*", Layout(6, 3, 9)) == "<img>******</img>"
