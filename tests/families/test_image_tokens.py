"""Image tokens of each family, against published figures and against transformers' own image processors."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edgeq.families.image_tokens import image_cost, native_size
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from edgeq.errors import InputError, ModelError
from edgeq.families.modules import VlmDescription, read_vlm

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
DRAWN = random.Random(0)
SIZES = [(DRAWN.randint(20, 2500), DRAWN.randint(20, 2500)) for _ in range(200)] + [(1, 1), (50, 2500), (2500, 50)]


def model(name: str, **changed: Any) -> VlmDescription:
    return replace(read_vlm(GOLDEN / name), **changed)


def test_llava_has_one_size() -> None:
    """336 / 14 = 24 patches a side; the class token is attended to and dropped."""
    llava = model("llava-1.5-13b")
    for size in ((336, 336), (1080, 1920)):
        cost = image_cost(llava, size)
        assert (cost.tokens, cost.tiles, cost.sequence) == (24 * 24, 1, 24 * 24 + 1)
    full = replace(llava, config={**llava.config, "vision_feature_select_strategy": "full"})
    assert image_cost(full, (336, 336)).tokens == 577


@pytest.mark.parametrize(
    ("size", "tokens"), [((336, 336), 1176), ((480, 640), 2340), ((1080, 1920), 1948), ((672, 672), 2928)]
)
def test_llava_next_at_published_sizes(size: tuple[int, int], tokens: int) -> None:
    assert image_cost(model("llava-1.6-mistral-7b"), size).tokens == tokens


class Grid:
    """What the LLaVA processors ask of their image processor."""

    def __init__(self, pinpoints: list[list[int]]) -> None:
        self.image_grid_pinpoints = pinpoints


def test_llava_next_as_its_processor_counts() -> None:
    llava = model("llava-1.6-mistral-7b")
    processor = object.__new__(LlavaNextProcessor)
    processor.image_processor = Grid(llava.config["image_grid_pinpoints"])
    processor.patch_size, processor.num_additional_image_tokens = 14, 1
    for size in SIZES:
        counted = processor._get_number_of_features(*size, 336, 336) - 1  # the class token is dropped
        assert image_cost(llava, size).tokens == counted, size


def test_llava_onevision_as_its_processor_counts() -> None:
    """A SigLIP of 384 pixels: 27 patches a side, no class token; grids of up to 6 x 6 tiles, shrunk to 9."""
    pinpoints = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    config = {
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": pinpoints,
        "vision_aspect_ratio": "anyres_max_9",
    }
    vision_encoder = {"image_size": 384, "patch_size": 14, "model_type": "siglip_vision_model"}
    onevision = model("llava-1.5-7b", model_type="llava_onevision", config=config, vision=vision_encoder)
    processor = object.__new__(LlavaOnevisionProcessor)
    processor.image_processor = Grid(pinpoints)
    processor.num_image_tokens, processor.vision_aspect_ratio = 729, "anyres_max_9"
    for size in SIZES:
        assert image_cost(onevision, size).tokens == processor._get_number_of_features(*size, 384, 384), size


def test_llama_always_pays_for_four_tiles() -> None:
    """(560 / 14)² + 1 = 1601 patches a tile, padded to 1608 in the encoder."""
    for size in ((10, 10), (2000, 2000)):
        cost = image_cost(model("llama-3.2-11b-vision"), size)
        assert (cost.cross_tokens, cost.tokens, cost.sequence) == (4 * 1601, 1, 4 * 1608)


def test_qwen_as_its_processor_counts() -> None:
    qwen, processor = model("qwen2.5-vl-7b"), Qwen2VLImageProcessorPil()
    assert image_cost(qwen, (300, 420)).tokens == round(300 / 28) * round(420 / 28)
    for size in SIZES:
        cost = image_cost(qwen, size)
        assert cost.sequence == processor.get_number_of_image_patches(*size), size
        assert cost.tokens == cost.sequence // 4


def test_qwen_heeds_its_preprocessors_limits() -> None:
    limited = model("qwen2.5-vl-7b", preprocessor={"min_pixels": 28 * 28 * 16, "max_pixels": 28 * 28 * 16})
    assert image_cost(limited, (2000, 2000)).tokens == 16


def test_smolvlm_as_its_processor_counts() -> None:
    """384 / 14 = 27 patches a side; 27² / 3² = 81 tokens a tile."""
    smol = model("smolvlm2-2.2b")
    processor = Idefics3ImageProcessorPil(size={"longest_edge": 4 * 384}, max_image_size={"longest_edge": 384})
    for size in SIZES:
        tiles, rows, columns = processor.get_number_of_image_patches(*size)
        cost = image_cost(smol, size)
        assert (cost.tiles, cost.tokens) == (max(tiles, 1), 81 * max(tiles, 1)), size
        assert cost.markers == 3 + rows * (2 * columns + 1), "as Idefics3Processor puts them around the tiles"


def test_internvl_as_its_processor_counts() -> None:
    vision_encoder = {"image_size": [448, 448], "patch_size": [14, 14], "model_type": "internvl_vision"}
    intern = model("llava-1.5-7b", model_type="internvl", config={"image_seq_length": 256}, vision=vision_encoder)
    processor = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=True)
    for size in SIZES:
        tiles = processor.get_number_of_image_patches(*size)
        cost = image_cost(intern, size)
        assert (cost.tiles, cost.tokens, cost.sequence) == (tiles, 256 * tiles, 32 * 32 + 1), size


def test_paligemma_and_gemma_have_one_size() -> None:
    vision_encoder = {"image_size": 896, "patch_size": 14, "model_type": "siglip_vision_model"}
    gemma = model("llava-1.5-7b", model_type="gemma3", config={"mm_tokens_per_image": 256}, vision=vision_encoder)
    assert (image_cost(gemma, (9, 9)).tokens, image_cost(gemma, (9, 9)).sequence) == (256, 64 * 64)
    pali = model("llava-1.5-7b", model_type="paligemma", config={}, vision={**vision_encoder, "image_size": 224})
    assert image_cost(pali, (9, 9)).tokens == 16 * 16


def test_the_size_an_encoder_was_made_for() -> None:
    assert native_size(model("llava-1.5-7b")) == (336, 336)
    assert native_size(model("qwen2.5-vl-7b")) == (448, 448)


def test_what_cannot_be_counted() -> None:
    with pytest.raises(InputError, match="has no tokens"):
        image_cost(model("llava-1.5-7b"), (0, 336))
    with pytest.raises(ModelError, match="how many tokens an image becomes in a new_kind model is not known"):
        image_cost(model("llava-1.5-7b", model_type="new_kind"), (336, 336))
    with pytest.raises(ModelError, match="do not say how many tokens"):
        image_cost(model("llama-3.2-11b-vision", vision={}), (336, 336))
