"""Tokens of published models by edgeq's rules, against the image processors that come with them, at full size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlm_costs import golden_vlm

from edgeq.families.registry import image_cost, runnable
from edgeq.model.images.image_processor import load_image_processor

SIZES = (
    *((336, 336), (224, 224), (480, 640), (640, 480), (1080, 1920), (1920, 1080)),
    *((100, 900), (900, 100), (768, 1024), (333, 777), (1500, 2000)),
)
"""Heights and widths."""


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


_ANYRES = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
_QWEN = {"image_processor_type": "Qwen2VLImageProcessor", "temporal_patch_size": 2, "merge_size": 2}
PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "llava-1.5-7b": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 336},
        "crop_size": _square(336),
    },
    "llava-1.6-mistral-7b": {
        "image_processor_type": "LlavaNextImageProcessor",
        "size": {"shortest_edge": 336},
        "crop_size": _square(336),
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    },
    "llava-onevision-7b": {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": _square(384),
        "image_grid_pinpoints": _ANYRES,
    },
    "llama-3.2-11b-vision": {
        "image_processor_type": "MllamaImageProcessor",
        "size": _square(560),
        "max_image_tiles": 4,
    },
    "qwen2.5-vl-7b": {**_QWEN, "patch_size": 14, "min_pixels": 3136, "max_pixels": 12845056},
    "qwen3-vl-8b": {**_QWEN, "patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}},
    "smolvlm2-2.2b": {
        "image_processor_type": "SmolVLMImageProcessor",
        "size": {"longest_edge": 1536},
        "max_image_size": {"longest_edge": 384},
    },
    "smolvlm-500m": {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 2048},
        "max_image_size": {"longest_edge": 512},
    },
    "internvl3-8b": {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": _square(448),
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
    },
    "gemma3-4b": {"image_processor_type": "Gemma3ImageProcessor", "size": _square(896)},
    "paligemma2-3b-448": {"image_processor_type": "SiglipImageProcessor", "size": _square(448)},
}
"""Published model -> its image processor's settings. InternVL's own processor overrides `crop_to_patches`."""


@pytest.mark.parametrize("name", PROCESSORS)
def test_as_many_as_the_image_processor_makes(name: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[name]))
    model, processor = golden_vlm(name, preprocessor=PROCESSORS[name]), load_image_processor(tmp_path)
    prompt = runnable(model.model_type)
    told = prompt.processing(model.config)
    for height, width in SIZES:
        given = processor(images=Image.new("RGB", (width, height)), return_tensors="np", **told)
        layout, cost = prompt.layout(given, model.config), image_cost(model, (height, width))
        assert layout.tokens == cost.tokens, (height, width)
        assert layout.pictures * layout.patches == cost.sequences * cost.sequence, (height, width)
