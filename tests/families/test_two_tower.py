"""Which models of texts and images are prepared, which are refused, and in what words: configs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from two_towers import write_two_tower

from edgeq.api.workshop.describe import inspect, plan_model
from edgeq.api.workshop.prepare import prepare
from edgeq.errors import ModelError
from edgeq.families.two_tower import (
    check_image_size,
    describe_text_tower,
    describe_two_tower,
    encoder_notes,
    is_two_tower,
)

HALF = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def siglip(**changes: Any) -> dict[str, Any]:
    """The config of a SigLIP model, with changes to its vision encoder."""
    found: dict[str, Any] = transformers.SiglipConfig(text_config=HALF, vision_config={**HALF, **changes}).to_dict()
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("AlignModel", "AltCLIPModel", "BlipModel", "BlipForImageTextRetrieval", "BridgeTowerModel"),
        *("CLIPSegForImageSegmentation", "ChineseCLIPModel", "FlavaModel", "GroupViTModel", "MetaClip2Model"),
        *("OwlViTModel", "Owlv2Model", "XCLIPModel"),
    ],
)
def test_others_are_refused_by_name_before_weights_are_looked_for(name: str, tmp_path: Path) -> None:
    config = getattr(transformers, name).config_class().to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [name]}, default=str))
    asked = (
        lambda: inspect(tmp_path),
        lambda: plan_model(tmp_path),
        lambda: prepare(tmp_path, tmp_path / "no images", tmp_path / "out"),
    )
    for ask in asked:
        with pytest.raises(ModelError, match=rf"^{name} \(model_type {config['model_type']}\) is a model of") as caught:
            ask()
        assert "CLIPModel, SiglipModel or Siglip2Model" in (caught.value.expected or "")


def test_one_that_transformers_does_not_know_is_told_by_its_temperature() -> None:
    """Vision-language models have none; jina-clip, say, brings its own code."""
    both: dict[str, Any] = {"model_type": "jina_clip", "text_config": {}, "vision_config": {}}
    assert is_two_tower({**both, "logit_scale_init_value": 2.6592})
    assert not is_two_tower(both)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("blip", "BlipForConditionalGeneration"),
        ("clip", "CLIPForImageClassification"),
        ("siglip", "SiglipForImageClassification"),
        ("siglip2", "Siglip2ForImageClassification"),
    ],
)
def test_what_answers_or_classifies_is_none(kind: str, name: str) -> None:
    config = {"model_type": kind, "text_config": {}, "vision_config": {}, "architectures": [name]}
    assert not is_two_tower(config)
    assert is_two_tower({**config, "architectures": None}) == (kind != "blip")  # it does not say which it is
    assert is_two_tower({**config, "architectures": ["BlipForImageTextRetrieval"]})


def test_what_a_config_says() -> None:
    clip = transformers.CLIPConfig(
        text_config={**HALF, "hidden_size": 48, "hidden_act": "gelu", "eos_token_id": 7}, vision_config=HALF
    ).to_dict()
    found = describe_two_tower({**clip, "projection_dim": 24})
    assert (found.model_type, found.dimension, found.padding, found.pooling) == ("clip", 24, "trim", "first")
    for made, kind in ((siglip(), "siglip"), (transformers.Siglip2Config(text_config=HALF).to_dict(), "siglip2")):
        made["vision_config"] |= {"hidden_size": 40}
        made["text_config"] |= {"hidden_size": 32, "projection_size": 40}
        found = describe_two_tower(made)
        assert (found.model_type, found.dimension, found.context) == (kind, 40, 64)
        assert (found.padding, found.pooling, found.eos_id) == ("fixed", "last", None)


def test_texts_and_images_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ModelError, match="gives texts vectors of 32 numbers, and images vectors of 48"):
        describe_two_tower(siglip(hidden_size=48))


def test_a_vision_encoder_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="has no head that makes one vector"):
        describe_two_tower(siglip(vision_use_head=False))


def test_a_text_encoder_alone() -> None:
    """Behind the projection where it has one, else of its hidden size; SigLIP's is part of the encoder."""
    text = transformers.CLIPTextConfig(**HALF, projection_dim=24).to_dict()
    for name, dimension in (("CLIPTextModelWithProjection", 24), ("CLIPTextModel", 32)):
        assert describe_text_tower({**text, "architectures": [name]}).dimension == dimension
    for kind in (transformers.SiglipTextConfig, transformers.Siglip2TextConfig):
        found = describe_text_tower(kind(**HALF, projection_size=40).to_dict())
        assert (found.dimension, found.padding) == (40, "fixed")


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"image_size": 224, "patch_size": 16}, (384, 384)),
        ({"image_size": 224, "patch_size": 16}, (224, 256)),
        ({"num_patches": 256, "patch_size": 16}, (200, 256)),
        ({"num_patches": 200, "patch_size": 16}, (256, 256)),
    ],
)
def test_images_of_a_size_that_the_encoder_does_not_take(config: dict[str, Any], size: tuple[int, int]) -> None:
    with pytest.raises(ModelError):
        check_image_size(config, size)


def test_a_size_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    model = write_two_tower(tmp_path / "model", "clip")
    config = json.loads((model / "config.json").read_text())
    config["vision_config"]["image_size"] = 40
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="images of 32 x 32 pixels, and the vision encoder takes 40 x 40"):
        inspect(model)


def test_what_a_reader_should_know() -> None:
    (square,) = encoder_notes({"model_type": "siglip2"}, (256, 256))
    assert "resized to 256 x 256 pixels, whatever its shape" in square
    assert "embeddings of square images are NaFlex's" in square
    (wide,) = encoder_notes({"model_type": "siglip2"}, (192, 336))
    assert "images 336 wide to 192 high are NaFlex's" in wide
    alone = {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"]}
    assert ["in INT8" in note for note in encoder_notes(alone, (224, 224))] == [True]
    cut = encoder_notes({**alone, "architectures": ["CLIPVisionModel"]}, (224, 224))
    assert "CLIPVisionModel ends before the projection" in cut[1]
    assert len(encoder_notes({"model_type": "siglip2_vision_model"}, (256, 256))) == 2
    assert encoder_notes({"model_type": "clip"}, (224, 224)) == encoder_notes({}, (1, 1)) == ()
