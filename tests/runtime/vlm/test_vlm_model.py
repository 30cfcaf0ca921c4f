"""The two halves of a bundle joined, against the whole model of transformers with the same weights and features."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from bundles import ANSWER_TOKENS
from onnx import TensorProto, helper
from PIL import Image
from talk import QUESTION
from transformers.modeling_outputs import BaseModelOutputWithPooling
from vlm import in_four_bits

from edgeq.bundle.manifest import write_manifest
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, EngineError, InputError
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.runtime.vlm.model import VisionLanguageModel, open_vlm
from edgeq.runtime.vlm.vision_encoder import VisionEncoder


@pytest.fixture(scope="module")
def vlm(prepared_vlm: PreparedVlm) -> VisionLanguageModel:
    return open_vlm(prepared_vlm.bundle, threads=1)


@pytest.fixture
def picture(tiny_photographs: Path) -> Image.Image:
    return Image.open(tiny_photographs / "green" / "green-000.jpg").convert("RGB")


def inputs(source: Path, picture: Image.Image) -> Any:
    """What the model's own processor makes of QUESTION."""
    images = transformers.AutoImageProcessor.from_pretrained(source, backend="pil")
    words = transformers.AutoTokenizer.from_pretrained(source)
    processor = transformers.LlavaProcessor(
        images, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return processor(text=f"<s><image>{QUESTION}:", images=picture, add_special_tokens=False, return_tensors="pt")


def test_token_for_token_as_the_whole_model_with_the_same_features(
    vlm: VisionLanguageModel, tiny_vlm_model: Path, picture: Image.Image
) -> None:
    whole, given = in_four_bits(tiny_vlm_model), inputs(tiny_vlm_model, picture)
    features = list(torch.from_numpy(vlm.features(picture)).half()[None])
    ids = given["input_ids"]
    expected = whole.generate(
        input_ids=ids,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
        max_new_tokens=16,
        do_sample=False,
    )[0, ids.shape[1] :].tolist()
    reply = vlm.ask(picture, QUESTION, 16)
    assert list(reply.token_ids) == expected
    assert reply.text == vlm.prompter.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert (reply.prompt_tokens, reply.image_tokens) == (ids.shape[1], 4)


def test_features_are_those_of_the_whole_model_but_for_fp16(
    vlm: VisionLanguageModel, tiny_vlm_model: Path, picture: Image.Image
) -> None:
    whole = transformers.LlavaForConditionalGeneration.from_pretrained(tiny_vlm_model, dtype=torch.float32)
    pixels = inputs(tiny_vlm_model, picture)["pixel_values"]
    with torch.inference_mode():
        expected = torch.cat(whole.get_image_features(pixel_values=pixels).pooler_output).numpy()
    found = vlm.features(picture)
    assert found.shape == expected.shape == (4, 64)
    assert np.abs(found - expected).max() <= 5e-3 * np.abs(expected).max()


def test_forced_logits_choose_the_answer(vlm: VisionLanguageModel, picture: Image.Image) -> None:
    """Row i has seen the answer's first i tokens, so what is likeliest there is the answer itself."""
    answer = vlm.answer(picture, QUESTION, 8)
    logits = vlm.logits(picture, QUESTION, answer.token_ids)
    assert logits.shape == (len(answer.token_ids), 96)
    assert tuple(logits.argmax(1).tolist()) == answer.token_ids


def test_an_answer_ends_where_the_context_does(vlm: VisionLanguageModel, picture: Image.Image) -> None:
    """The bundle was planned for 64 tokens; the model itself would take 128."""
    room = 64 - vlm.ask(picture, QUESTION, 1).prompt_tokens
    reply = vlm.ask(picture, QUESTION, 1000)
    assert reply.ended in ("context", "stop")
    assert len(reply.token_ids) == room or reply.ended == "stop"
    assert vlm.ask(picture, QUESTION, 2).ended in ("limit", "stop")


def test_no_token_at_all(vlm: VisionLanguageModel, picture: Image.Image) -> None:
    with pytest.raises(InputError, match="an answer of 0 tokens is none"):
        vlm.ask(picture, QUESTION, 0)


def test_canaries_are_answered_as_in_the_workshop(vlm: VisionLanguageModel, prepared_vlm: PreparedVlm) -> None:
    for canary in prepared_vlm.canaries.canaries:
        folder = prepared_vlm.bundle / "canaries"
        with Image.open(folder / canary.image) as image:
            features = vlm.features(image)
        reference = np.load(folder / canary.features).astype(np.float32)
        assert features.shape == reference.shape
        assert np.abs(features - reference).max() <= 5e-3 * np.abs(reference).max()
        assert len(canary.token_ids) <= ANSWER_TOKENS


def test_a_bundle_with_a_changed_byte_is_not_loaded(prepared_vlm: PreparedVlm, tmp_path: Path) -> None:
    bundle = shutil.copytree(prepared_vlm.bundle, tmp_path / "bundle")
    weights = bundle / "language" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"language/model\.safetensors is not the file that the manifest lists"):
        open_vlm(bundle)


def test_the_bundle_of_a_classifier_answers_nothing(tmp_path: Path) -> None:
    write_manifest(tmp_path, labels=("a", "b"))
    with pytest.raises(ArtifactError, match="the bundle of a classifier, which answers no questions"):
        open_vlm(tmp_path)


def graph(*, output: str, scale: float = 1.0) -> VisionEncoder:
    """Pixels times `scale`, as an ONNX graph whose output has the type `output`."""
    half = helper.make_node("Cast", ["scaled"], ["image_features"], to=getattr(TensorProto, output))
    nodes = [helper.make_node("Mul", ["flat", "scale"], ["scaled"]), half]
    nodes.insert(0, helper.make_node("Reshape", ["pixel_values", "shape"], ["flat"]))
    made = helper.make_graph(
        nodes,
        "vision_encoder",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 2, 2])],
        [helper.make_tensor_value_info("image_features", getattr(TensorProto, output), ["n", 3, 4])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 3, 4]),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return VisionEncoder(OnnxRuntimeEngine(model.SerializeToString(), threads=1))


def test_eyes_give_float32_for_every_picture() -> None:
    pixels = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    found = graph(output="FLOAT16").encode({"pixel_values": pixels})["image_features"]
    assert found.dtype == np.float32
    assert np.array_equal(found, pixels.reshape(2, 3, 4))


def test_features_that_overflowed_are_an_error() -> None:
    with pytest.raises(EngineError, match="gave NaN or infinity for this image"):
        graph(output="FLOAT16", scale=1e6).encode({"pixel_values": np.ones((1, 3, 2, 2), np.float32)})
