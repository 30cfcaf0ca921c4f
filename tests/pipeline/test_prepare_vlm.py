"""The main job for a vision-language model: what lies in the bundle, what is refused before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from bundles import ANSWER_TOKENS
from command import listing
from networks import write_model
from PIL import Image
from talk import QUESTION, chatty_vlm
from vlm import FAMILIES, write_vlm

from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.errors import ExportError, GateError, GuardError, ImageError, ModelError, OutputError, PlanError
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline import vlm_reference as judging_module
from edgeq.pipeline.vlm import PreparedVlm, VlmOptions, prepare_vlm
from edgeq.pipeline.vlm_fit import is_vision_language
from edgeq.pipeline.vlm_processor import copy_processor, take_photographs
from edgeq.plan.memory import MemoryPlan
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.quality.tasks.answers import VlmQuality
from edgeq.runtime.canary.canaries import CANARY_LIST, Canaries
from edgeq.runtime.vlm.model import load_vlm

LINEARS = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
"""Numbers in the linear layers of the tiny language model: two, 64 wide, keys and values 32, feed-forward 128."""


def test_what_is_in_the_bundle(prepared_vlm: PreparedVlm) -> None:
    manifest = read_manifest(prepared_vlm.bundle)
    assert manifest == prepared_vlm.manifest
    assert manifest.kind == "vision-language"
    names = {file.name for file in manifest.files}
    assert {"vision.fp16.onnx", "vision.json", "plan.yaml", "memory.json", "quality.json", "vlm.json"} <= names
    assert prepared_vlm.quality is not None
    assert ("divergences.html" in names) == bool(prepared_vlm.quality.divergences)
    assert {"language/model.safetensors", "language/config.json", "config.json", "chat_template.jinja"} <= names
    assert {"preprocessor_config.json", "tokenizer.json", "canaries/0.png", "canaries/2.npy"} <= names
    assert not [name for name in names if "fp32" in name]


def test_artifacts_are_those_returned(prepared_vlm: PreparedVlm) -> None:
    bundle = prepared_vlm.bundle
    assert Canaries.load(bundle / CANARY_LIST) == prepared_vlm.canaries
    assert VlmQuality.load(bundle / "quality.json") == prepared_vlm.quality
    assert MemoryPlan.load(bundle / "memory.json") == prepared_vlm.memory
    plan = PrecisionPlan.load(bundle / "plan.yaml")
    assert {d.precision for d in plan.decisions if d.component == "vision"} == {Precision.FP16}
    assert VlmSettings.load(bundle / "vlm.json") == VlmSettings(
        model_type="llava",
        vision="vision.fp16.onnx",
        image_token="<image>",
        image_token_id=90,
        tokens=4,
        context=64,
        stop=(2,),
    )


def test_what_is_four_bit(prepared_vlm: PreparedVlm) -> None:
    assert prepared_vlm.quantized_parameters == LINEARS
    assert prepared_vlm.fp16_bytes == 2 * prepared_vlm.parameters
    vision, language = prepared_vlm.bundle / "vision.fp16.onnx", prepared_vlm.bundle / "language"
    assert prepared_vlm.vision_bytes == vision.stat().st_size
    assert prepared_vlm.language_bytes == sum(file.stat().st_size for file in language.iterdir())
    assert prepared_vlm.warnings == ()


def test_canaries_have_the_answers_of_the_whole_model(prepared_vlm: PreparedVlm, tiny_vlm_model: Path) -> None:
    whole = transformers.LlavaForConditionalGeneration.from_pretrained(tiny_vlm_model, dtype=torch.float32)
    prompter = load_vlm(prepared_vlm.bundle, threads=1).prompter
    assert prepared_vlm.canaries.answered_by == "reference"
    assert len(prepared_vlm.canaries.canaries) == 3
    for canary in prepared_vlm.canaries.canaries:
        with Image.open(prepared_vlm.bundle / "canaries" / canary.image) as image:
            pixels = prompter.pixels(image)
        assert canary.question == QUESTION
        ids = torch.from_numpy(prompter.prompt(canary.question, [pixels.layout]).ids)[None]
        values = torch.from_numpy(pixels.feeds["pixel_values"])
        said = whole.generate(input_ids=ids, pixel_values=values, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        assert list(canary.token_ids) == said[0, ids.shape[1] :].tolist()
        with torch.inference_mode():
            features = torch.cat(whole.get_image_features(pixel_values=values).pooler_output).numpy()
        kept = np.load(prepared_vlm.bundle / "canaries" / canary.features)
        assert kept.dtype == np.float16
        assert np.abs(kept - features).max() <= 1e-3 * np.abs(features).max()


def test_quality_is_that_of_both_questions(prepared_vlm: PreparedVlm) -> None:
    quality = prepared_vlm.quality
    assert quality is not None
    assert (quality.items, quality.features.images, quality.features.patches) == (2, 2, 8)
    assert quality.features.worst > 0.999
    assert quality.exact is not None
    assert quality.exact.items == 1


def made(model: Path, images: Path, tmp_path: Path, **options: Any) -> PreparedVlm:
    settings = VlmOptions(threads=1, max_new_tokens=2, canaries=1, photographs=1, **options)
    return prepare_vlm(model, images, tmp_path / "bundle", options=settings)


@pytest.mark.parametrize("family", ["idefics3", "paligemma"])
def test_other_families(tiny_photographs: Path, tmp_path: Path, family: str) -> None:
    prepared = made(chatty_vlm(tmp_path / "model", family), tiny_photographs, tmp_path)
    reply = load_vlm(prepared.bundle, threads=1).ask(Image.new("RGB", (60, 30), "red"), QUESTION, 4)
    assert 1 <= len(reply.token_ids) <= 4


def test_without_the_whole_model_the_bundle_answers_and_says_so(
    tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path
) -> None:
    prepared = made(tiny_vlm_model, tiny_photographs, tmp_path, reference_answers=False, keep_fp32=True)
    assert prepared.canaries.answered_by == "bundle"
    assert prepared.quality is None
    assert len(prepared.warnings) == 2
    assert (prepared.bundle / "vision.fp32.onnx").exists()
    vlm = load_vlm(prepared.bundle, threads=1)
    with Image.open(prepared.bundle / "canaries" / "0.png") as image:
        assert vlm.ask(image, VlmOptions().question, 2).token_ids == prepared.canaries.canaries[0].token_ids


def test_a_whole_model_that_memory_does_not_hold_is_not_loaded(
    tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging_module, "_ROOM", 1 << 60)
    assert made(tiny_vlm_model, tiny_photographs, tmp_path).canaries.answered_by == "bundle"


def test_a_saved_plan_is_followed(tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    keep = Rule(name="keep-first", layer="*layers.0.*", component="language", precision=Precision.FP16, reason="a try")
    first = made(tiny_vlm_model, tiny_photographs, tmp_path / "a", rules=(keep,), reference_answers=False)
    assert first.quantized_parameters == LINEARS // 2
    plan = PrecisionPlan.load(first.bundle / "plan.yaml")
    second = made(tiny_vlm_model, tiny_photographs, tmp_path / "b", plan=plan, reference_answers=False)
    assert second.quantized_parameters == LINEARS // 2
    assert PrecisionPlan.load(second.bundle / "plan.yaml") == plan


def refused(error: type[Exception], words: str, tmp_path: Path, model: Path, images: Path, **options: Any) -> None:
    """It raises, and leaves nothing behind."""
    place = tmp_path / "out"
    place.mkdir()
    with pytest.raises(error, match=words):
        made(model, images, place, **options)
    assert listing(place) == []


def test_a_model_that_does_not_fit_is_refused_before_any_work(
    tiny_photographs: Path, tmp_path: Path, tiny_vlm_model: Path
) -> None:
    """100 million tokens of 2 layers x 2 x 32 numbers of 2 bytes are 25.6 GB."""
    words = r"does not fit Jetson Orin NX 16 GB with a context of 100,000,000 tokens: .* GB are missing"
    context = {"device": "orin-nx-16gb", "context": 100_000_000}
    refused(GateError, words, tmp_path, tiny_vlm_model, tiny_photographs, **context)


def test_a_vision_encoder_in_four_bits(tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    rule = Rule(name="all", layer="*vision_tower*fc1", precision=Precision.NF4, reason="a try")
    refused(GuardError, "EQ101", tmp_path, tiny_vlm_model, tiny_photographs, rules=(rule,))
    (tmp_path / "out").rmdir()
    allowed = {"rules": (rule,), "allow": {"EQ101": "a try"}}
    refused(PlanError, "wants .*fc1 of the vision in nf4", tmp_path, tiny_vlm_model, tiny_photographs, **allowed)


def test_a_model_that_is_not_vision_language(tiny_photographs: Path, tmp_path: Path) -> None:
    refused(ModelError, "config.json|vision-language", tmp_path, write_model(tmp_path / "cnn"), tiny_photographs)
    (tmp_path / "out").rmdir()
    text = transformers.LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=96)
    text.save_pretrained(tmp_path / "llama")
    refused(ModelError, "is not a vision-language model", tmp_path, tmp_path / "llama", tiny_photographs)


def test_a_family_that_is_not_known(tiny_photographs: Path, tmp_path: Path) -> None:
    config = FAMILIES["llava"]().to_dict()
    names = {"architectures": ["VipLlavaForConditionalGeneration"], "vision_feature_layers": [-2]}
    transformers.VipLlavaConfig(**{**config, "model_type": "vipllava", **names}).save_pretrained(tmp_path / "model")
    refused(ExportError, "vipllava model cannot be exported", tmp_path, tmp_path / "model", tiny_photographs)


def change(model: Path, target: Path, name: str, **changes: Any) -> Path:
    """A copy of a model with one of its JSON files changed."""
    shutil.copytree(model, target)
    content = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps(content | changes))
    return target


def test_a_tokenizer_without_the_image_token(tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    model = change(tiny_vlm_model, tmp_path / "m", "config.json", image_token_index=95_000)
    refused(ModelError, "does not have the image token", tmp_path, model, tiny_photographs)


def test_no_weights(tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_vlm_model, tmp_path / "m")
    (model / "model.safetensors").unlink()
    refused(ModelError, "has no weights", tmp_path, model, tiny_photographs)


def test_a_missing_shard(tiny_photographs: Path, tmp_path: Path) -> None:
    model = write_vlm(tmp_path / "model", "llava", shard="100KB")
    (model / "model-00002-of-00003.safetensors").unlink()
    refused(ModelError, "lacks 1 of its 3 weight files", tmp_path, model, tiny_photographs)


def test_images_that_cannot_be_read(tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(b"no image")
    refused(ImageError, "no image of .* can be read, 1 were tried", tmp_path, tiny_vlm_model, images)
    shutil.copy(tiny_photographs / "red" / "red-000.jpg", images / "b.jpg")
    photographs, skipped = take_photographs(ImageSet.open(images), 5)
    assert (len(photographs), skipped) == (1, ("a.jpg",))


def test_large_photographs_are_scaled_down(tmp_path: Path) -> None:
    Image.new("RGB", (2048, 512)).save(tmp_path / "wide.png")
    (photograph,), _ = take_photographs(ImageSet.open(tmp_path), 1)
    assert photograph.size == (1024, 256)


def test_an_output_that_exists(tiny_vlm_model: Path, tiny_photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        prepare_vlm(tiny_vlm_model, tiny_photographs, tmp_path)


def test_an_older_chat_template_is_found(tiny_vlm_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_vlm_model, tmp_path / "m")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (tmp_path / "b").mkdir()
    copy_processor(model, tmp_path / "b")
    assert (tmp_path / "b" / "chat_template.jinja").read_text() == template


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"vision_config": {}, "text_config": {}}, True),
        ({"text_config": {}}, True),
        ({"model_type": "resnet"}, False),
        ({"vision_config": {}, "text_config": {}, "architectures": ["CLIPForImageClassification"]}, False),
    ],
)
def test_which_configs_speak_of_two_halves(config: dict[str, Any], expected: bool) -> None:
    assert is_vision_language(config) is expected
