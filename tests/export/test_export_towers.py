"""Both encoders of models whose halves differ, exported from the one model and proved against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ModelError
from edgeq.export.torch_export import export_classifier
from edgeq.export.towers import export_text, export_vision, load_text_tower, load_towers

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT: dict[str, Any] = {**SMALL, "hidden_size": 48, "vocab_size": 50, "max_position_embeddings": 8}
VISION: dict[str, Any] = {**SMALL, "image_size": 16, "patch_size": 8}
ENDS: dict[str, Any] = {"bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 1}


def clip() -> transformers.PreTrainedModel:
    """OpenAI's activation in one half, OpenCLIP's in the other, and both halves of other widths."""
    return transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**TEXT, **ENDS, "hidden_act": "gelu"},
            vision_config={**VISION, "hidden_act": "quick_gelu"},
            projection_dim=24,
        )
    )


def siglip() -> transformers.PreTrainedModel:
    """A head of the text encoder that brings it to the width of the other."""
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=VISION)
    )


@pytest.mark.parametrize(("build", "dimension"), [(clip, 24), (siglip, 32)])
def test_halves_of_other_widths_and_activations(build: Any, dimension: int, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    towers = load_towers(tmp_path, (16, 16))
    text = np.array([48, 5, 9, 3, 2, 7, 4, 49])
    pixels = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    assert export_text(towers, tmp_path, tmp_path, [text], threads=1).parity.relative < 1e-4
    assert export_vision(towers, tmp_path, tmp_path, pixels, threads=1).relative < 1e-4
    made = OnnxRuntimeEngine(tmp_path / "vision.fp32.onnx", threads=1).run({"pixel_values": pixels})["image_embeds"]
    assert (towers.described.dimension, made.shape) == (dimension, (2, dimension))


def test_a_text_encoder_alone_has_its_own_projection_and_not_the_whole_models(tmp_path: Path) -> None:
    """The text half of a whole model's config does not have the size of the projection: 512 would be taken for it."""
    whole = clip()
    own = {**whole.config.text_config.to_dict(), "projection_dim": 24}
    alone = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**own))
    alone.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith("text_")}, strict=True)
    alone.save_pretrained(tmp_path / "alone")
    whole.save_pretrained(tmp_path / "whole")
    assert whole.config.text_config.projection_dim == 512
    towers, tower = load_towers(tmp_path / "whole", (16, 16)), load_text_tower(tmp_path / "alone")
    assert tower.described == towers.described
    assert tower.text_parameters == towers.text_parameters


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (transformers.SiglipVisionConfig(**VISION, vision_use_head=False), "has no head"),
        (transformers.Siglip2VisionConfig(**SMALL, vision_use_head=False), "has no head"),
        (transformers.Siglip2VisionConfig(**SMALL, patch_size=7), "are not whole patches"),
        (transformers.Siglip2Config(architectures=["Siglip2ForImageClassification"]), "NaFlex with a class head"),
        (transformers.Siglip2Config(), "has a text encoder, and the stages one by one"),
        (transformers.CLIPTextConfig(), "has a text encoder, and the stages one by one"),
    ],
)
def test_encoders_alone_that_give_no_vector_are_refused_before_weights_are_read(
    config: transformers.PreTrainedConfig, said: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=said):
        export_classifier(tmp_path, tmp_path / "model.onnx", image_size=(16, 16))
