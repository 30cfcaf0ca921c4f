"""Published models by their exact sizes; every vision-language family of transformers, planned or refused in words."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from edgeq.api.workshop.describe import plan_model
from edgeq.device import device_profile
from edgeq.errors import ModelError
from edgeq.families.modules import VlmDescription, read_vlm
from edgeq.families.registry import family_of
from edgeq.plan.memory import plan_memory

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
SIZES: dict[str, dict[str, float]] = json.loads((GOLDEN / "sizes.json").read_text())
NX = device_profile("orin-nx-16gb")

REFUSED = {
    "has no model in it": {
        *("chameleon", "evolla", "mistral4", "pi0", "t5gemma2", "udop", "vision-encoder-decoder"),
    },
    "has no vision part": {"emu3", "fuyu", "gemma4", "gemma4_unified"},
    "no vision encoder and language model were found": {"apertus1p5", "git", "pix2struct"},
    "cannot build a model": {
        *("aya_vision", "cohere_compass", "deepseek_ocr2", "diffusion_gemma", "granite4_vision", "hunyuan_vl"),
        *(() if find_spec("timm") else ("fast_vlm", "gemma3n", "perception_lm")),
        "qwen4_exp",
    },
}
"""What the error says of a family's default config -> families: the config speaks of neither half or of one alone, the
model has no decoder of its own, or the config is not whole or its encoder comes from a package that is not installed
(timm)."""


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    plan = plan_memory(read_vlm(GOLDEN / name), NX)
    assert round(plan.parameters / 1e6, 1) == SIZES[name]["millions"]
    assert round(plan.weights_bytes / 1e9, 2) == SIZES[name]["nf4_GB"]


@pytest.mark.parametrize(
    ("image_size", "context", "tokens", "fits"),
    [
        ((1080, 1920), 2048, 2040, False),  # 8 tokens are too few for question and answer
        ((1080, 1920), 4096, 2040, True),
        ((3024, 4032), 16384, 11844, False),
        ((3000, 4000), 2048, 11750, False),
    ],
)
def test_a_qwen3_vl_8b_on_an_orin_nx(image_size: tuple[int, int], context: int, tokens: int, fits: bool) -> None:
    """A token is 32 x 32 pixels: 34 x 60 at 1080p, 94 x 126 and 94 x 125 at 12 megapixels."""
    plan = plan_memory(read_vlm_of_16_megapixels(), NX, context=context, image_size=image_size)
    assert (plan.image.tokens, plan.fits) == (tokens, fits)


def read_vlm_of_16_megapixels() -> VlmDescription:
    """As it is published: an image keeps its size up to 16.8 megapixels."""
    return replace(
        read_vlm(GOLDEN / "qwen3-vl-8b"), preprocessor={"size": {"shortest_edge": 65536, "longest_edge": 16777216}}
    )


@pytest.mark.parametrize("model_type", MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
def test_every_family_of_transformers(model_type: str, tmp_path: Path) -> None:
    """With its default config, on the meta device."""
    CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    refused = next((words for words, types in REFUSED.items() if model_type in types), None)
    if refused is not None:
        with pytest.raises(ModelError, match=refused):
            plan_model(tmp_path)
        return
    planned = plan_model(tmp_path)
    assert planned.parameters is not None
    assert planned.weights_bytes is not None
    assert planned.parameters / 2 < planned.weights_bytes <= 2 * planned.parameters
    if family_of(model_type) is None:
        assert planned.lacking is not None
        assert planned.lacking.startswith(
            f"edgeq does not know the family {model_type}: it counts parameters and bytes"
        )
        with pytest.raises(ModelError, match="how many tokens an image becomes"):
            plan_model(tmp_path, device="orin-nx-16gb")
