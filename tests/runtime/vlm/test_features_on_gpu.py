"""Features of an image stay on the GPU, which is simulated in the host's memory: no copy to the host, in call lists and
by addresses, and the same answers as through ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import ANSWER_TOKENS
from decoders import noise
from host_gpu import HostGpu
from onnx import TensorProto, helper
from PIL import Image
from talk import QUESTION

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.errors import EngineError
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.batch_decoder import BatchDecoder
from edgeq.runtime.vlm.model import VisionLanguageModel, load_vlm
from edgeq.runtime.vlm.prompt import ProcessedImage
from edgeq.runtime.vlm.tokenize import PromptBuilder
from edgeq.runtime.vlm.vision_encoder import VisionEncoder

TO_THE_GPU = ["wait for caller", "allocate", "copy in", "allocate", "execute", "synchronize"]
"""Of a first image: a place for its pixels, one for its features. Of later ones the first is there."""
LATER = [call for index, call in enumerate(TO_THE_GPU) if index != 1]


@pytest.fixture(scope="module")
def plain(prepared_vlm: PreparedVlm) -> VisionLanguageModel:
    """With the vision graph in ONNX Runtime."""
    return load_vlm(prepared_vlm.bundle, threads=1)


@pytest.fixture
def gpu(prepared_vlm: PreparedVlm, monkeypatch: pytest.MonkeyPatch) -> HostGpu:
    return HostGpu(prepared_vlm.bundle / VlmSettings.of(prepared_vlm.bundle).vision, monkeypatch)


@pytest.fixture
def vlm(plain: VisionLanguageModel, gpu: HostGpu) -> VisionLanguageModel:
    return replace(plain, vision_encoder=VisionEncoder(gpu.engine))


@pytest.fixture
def picture(tiny_photographs: Path) -> Image.Image:
    return Image.open(tiny_photographs / "green" / "green-000.jpg").convert("RGB")


def pixels(vlm: VisionLanguageModel, seed: int) -> ProcessedImage:
    return vlm.prompter.pixels(noise(seed))


def test_the_features_are_where_the_engine_wrote_them(vlm: VisionLanguageModel, gpu: HostGpu) -> None:
    made = vlm.vision_encoder.encode(pixels(vlm, 0).feeds)
    assert gpu.log == TO_THE_GPU
    assert made.keys() == gpu.written.keys()
    for name, value in made.items():
        assert isinstance(value, torch.Tensor)
        assert value.data_ptr() == gpu.written[name]
        assert value.dtype == torch.float32


def test_joined_they_are_still_there(vlm: VisionLanguageModel, gpu: HostGpu) -> None:
    seen = pixels(vlm, 0)
    features = vlm.prompter.joined(vlm.vision_encoder.encode(seen.feeds), seen.layout)
    states = vlm.language.to_device(features)
    assert isinstance(features.places, torch.Tensor)
    assert features.places.data_ptr() in gpu.written.values()
    assert len(states.places) == seen.layout.tokens
    assert "copy out" not in gpu.log


def test_a_later_image_does_not_write_over_them(vlm: VisionLanguageModel, gpu: HostGpu) -> None:
    (first,) = vlm.vision_encoder.encode(pixels(vlm, 0).feeds).values()
    assert isinstance(first, torch.Tensor)
    before = first.clone()
    (second,) = vlm.vision_encoder.encode(pixels(vlm, 1).feeds).values()
    assert isinstance(second, torch.Tensor)
    assert gpu.log == TO_THE_GPU + LATER
    assert torch.equal(first, before)
    assert not torch.equal(first, second)


def test_they_are_onnx_runtimes_numbers(
    vlm: VisionLanguageModel, plain: VisionLanguageModel, picture: Image.Image
) -> None:
    np.testing.assert_array_equal(vlm.features(picture), plain.features(picture))


def test_the_answer_is_the_same(
    vlm: VisionLanguageModel, plain: VisionLanguageModel, gpu: HostGpu, picture: Image.Image
) -> None:
    wanted = plain.ask(picture, QUESTION, ANSWER_TOKENS)
    assert vlm.ask(picture, QUESTION, ANSWER_TOKENS).token_ids == wanted.token_ids
    assert gpu.log == TO_THE_GPU
    several = vlm.ask([picture, noise(3)], QUESTION, ANSWER_TOKENS)
    assert several.token_ids == plain.ask([picture, noise(3)], QUESTION, ANSWER_TOKENS).token_ids
    assert "copy out" not in gpu.log


def test_slots_take_them_and_a_second_question_does_not_encode(
    vlm: VisionLanguageModel, plain: VisionLanguageModel, gpu: HostGpu, picture: Image.Image
) -> None:
    context = vlm.prompter.settings.context
    decoder = BatchDecoder(
        vlm.prompter, vlm.vision_encoder, vlm.language, slots=2, context=context, cache_bytes=1 << 20
    )
    ask = GenerationRequest.about(picture, QUESTION, ANSWER_TOKENS)
    wanted = list(plain.ask(picture, QUESTION, ANSWER_TOKENS).token_ids)
    for slot in range(2):
        first = decoder.begin(slot, PromptBuilder(vlm.prompter, context).question(ask))
        assert first.encoder_cache_hit == bool(slot)
        said = [first.said]
        while said[-1].ended is None:
            said += decoder.step()
        assert [one.token_id for one in said] == wanted
    assert gpu.log == TO_THE_GPU


def test_numbers_that_are_none_are_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square root: of noise below 0 it is no number."""
    shape: list[str | int] = ["n", 3, "h", "w"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("pixel_values", "y")]
    graph = helper.make_graph([helper.make_node("Sqrt", ["pixel_values"], ["y"])], "root", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    encoder = VisionEncoder(HostGpu(model.SerializeToString(), monkeypatch).engine)
    with pytest.raises(EngineError, match="gave NaN or infinity"):
        encoder.encode({"pixel_values": np.full((1, 3, 2, 2), -1, np.float32)})
    (root,) = encoder.encode({"pixel_values": np.full((1, 3, 2, 2), 4, np.float32)}).values()
    assert float(root.min()) == float(root.max()) == 2.0
