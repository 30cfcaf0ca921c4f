"""Each family from its directory to its answers: planned, prepared, run and served as transformers' whole model would.

The whole model has the same NF4 weights, and is given the features of the bundle's engine. Both compute in float32 with
the numbers that NF4 stands for, so that tokens are equal and not only likely: a CPU multiplies NF4 weights in bfloat16,
where two tokens that are nearly as likely may change places.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from vlm import in_four_bits
from whole_vlms import WHOLE, odd_photographs, write_whole_vlm

from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.device import device_profile
from edgeq.errors import InputError
from edgeq.families.modules import read_vlm
from edgeq.families.registry import FAMILIES, image_cost
from edgeq.pipeline.vlm import VlmOptions, prepare_vlm
from edgeq.plan.memory import plan_memory
from edgeq.runtime.scheduler.runtime import RuntimeOptions, start_runtime
from edgeq.runtime.vlm.api import IMAGE, GenerationRequest, Turn
from edgeq.runtime.vlm.language import LanguageModel, _model_class
from edgeq.runtime.vlm.model import VisionLanguageModel, open_vlm
from edgeq.runtime.vlm.prompt import Prompt, Prompter
from edgeq.runtime.vlm.stream import Done, Stream
from edgeq.runtime.vlm.tokenize import PromptBuilder
from edgeq.runtime.vlm.vision_encoder import VisionEncoder
from edgeq.tensorrt.inputs import ENGINE_INPUTS, EngineInputs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how" / "vision-language.md"
QUESTIONS = ("what is it?", "how many, and where do they stand?")
ANSWER = 8
MARKS = {"token_type_ids", "mm_token_type_ids", "image_grid_thw"}
"""What the language model itself is given beside ids and features."""
DEVICE = device_profile("orin-nx-16gb")
OPTIONS = RuntimeOptions(slots=3, context=256, threads=1, reserve_bytes=0)


@dataclass(frozen=True)
class Case:
    """A family's model, its bundle, and the whole model with the same 4-bit weights."""

    name: str
    source: Path
    bundle: Path
    vlm: VisionLanguageModel
    whole: Any


_EXPERTS = "qwen3_vl_moe"
"""Not served: what an expert computes for a token depends on the rest of the batch."""


def test_every_family_is_here_and_in_the_table_of_the_page() -> None:
    known = {model_type for family in FAMILIES for model_type in family.model_types}
    assert {kind.config().model_type for kind in WHOLE.values()} == known - {_EXPERTS}
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("|")]
    served = " ".join(row[0] for row in rows if [cell.strip() for cell in row[1:6]] == ["yes"] * 5)
    assert all(family.name in served for family in FAMILIES)


@pytest.fixture(scope="module", params=WHOLE)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    source = write_whole_vlm(folder / "model", request.param)
    photographs = folder / "photographs"
    photographs.mkdir()
    for number, photograph in enumerate(odd_photographs()):
        photograph.save(photographs / f"{number}.png")
    questions = photographs / "questions.jsonl"
    questions.write_text(json.dumps({"image": "0.png", "question": QUESTIONS[0], "answer": "a crack"}))
    options = VlmOptions(threads=1, max_new_tokens=4, canaries=2)
    made = prepare_vlm(source, photographs, folder / "bundle", questions=questions, options=options)
    assert made.canaries.answered_by == "reference"
    assert made.quality is not None
    assert made.quality.features.worst > 0.999, "features in FP16 against the whole model's"
    return Case(request.param, source, folder / "bundle", exact(folder / "bundle"), unpacked(in_four_bits(source)))


def unpacked(model: Any) -> Any:
    """The same numbers in float32; before the first pass, which would rearrange them."""
    return model.dequantize().float().eval()


def exact(bundle: Path) -> VisionLanguageModel:
    """A bundle whose language model computes in float32 with the numbers of its NF4 weights."""
    settings = VlmSettings.of(bundle)
    prompter = Prompter.open(bundle, settings)
    kind = _model_class(bundle / LANGUAGE)
    model = unpacked(kind.from_pretrained(bundle / LANGUAGE, device_map={"": "cpu"}, dtype="auto"))
    language = LanguageModel(model, prompter.image_prompt, settings.image_token_id, prompter.config)
    return VisionLanguageModel(prompter, VisionEncoder.open(bundle / settings.vision, threads=1), language)


def test_a_plan_counts_the_tokens_of_each_photograph(case: Case) -> None:
    model = read_vlm(case.source)
    for photograph in odd_photographs():
        size, layout = (photograph.height, photograph.width), case.vlm.prompter.pixels(photograph).layout
        cost = image_cost(model, size)
        assert (cost.tokens, cost.tiles if layout.pictures > 1 else 1) == (layout.tokens, layout.pictures), size
        plan = plan_memory(model, DEVICE, context=256, image_size=size)
        assert (plan.image.tokens, plan.fits) == (layout.tokens, True)


def test_an_engine_would_take_every_photograph(case: Case) -> None:
    """Those at full resolution too, which the proof sees smaller."""
    inputs, vision = EngineInputs.load(case.bundle / ENGINE_INPUTS), case.vlm.prompter.vision
    for photograph in odd_photographs():
        pixels = case.vlm.prompter.pixels(photograph)
        assert not vision.pictures or len(pixels.feeds["pixel_values"]) <= inputs.pictures
        for name, length in vision.lengths(pixels.feeds).items():
            least, usual, most = inputs.ranges[name]
            assert least <= usual <= most
            assert least <= length <= most


def test_run_says_what_the_whole_model_says(case: Case) -> None:
    answers = set()
    for photograph in odd_photographs():
        for question in QUESTIONS:
            found = case.vlm.ask(photograph, question, ANSWER).token_ids
            assert found == whole_answer(case, photograph, question)
            answers.add(found)
    assert len(answers) > 3, "the photograph and the question make a difference"


@pytest.mark.parametrize("together", [1, 3])
def test_served_answers_are_those_of_run(case: Case, together: int) -> None:
    asks = [(photograph, question) for photograph in odd_photographs() for question in QUESTIONS]
    with start_runtime(exact(case.bundle), case.bundle, OPTIONS, DEVICE) as served:
        for start in range(0, len(asks), together):
            group = asks[start : start + together]
            streams = [served.submit(GenerationRequest.about(*ask, ANSWER)) for ask in group]
            for ask, stream in zip(group, streams, strict=True):
                assert answered(stream).token_ids == case.vlm.ask(*ask, ANSWER).token_ids, ask


def test_two_images_of_a_conversation(case: Case) -> None:
    """Before and after, in two turns of different shapes; or a refusal in words."""
    images = (odd_photographs()[0], odd_photographs()[3])
    turns = (
        Turn("user", (IMAGE, "this was before.")),
        Turn.said("assistant", "yes"),
        Turn("user", ("and this is after:", IMAGE, "what changed?")),
    )
    ask = GenerationRequest(images, turns, ANSWER)
    prompter, builder = case.vlm.prompter, PromptBuilder(case.vlm.prompter, 512)
    if prompter.image_prompt.most_images == 1:
        with pytest.raises(InputError, match=r"2 images; a .* model takes 1 in a conversation"):
            builder.question(ask)
        return
    prompt = builder.question(ask).prompt
    assert len(prompt.cuts) == 3, "behind each image, and where the first question ended"
    expected = generated(case, images, prompt)
    pixels = [prompter.pixels(image) for image in images]
    seen = [prompter.joined(case.vlm.vision_encoder.encode(one.feeds), one.layout) for one in pixels]
    found = case.vlm.language.generate(prompt, seen, limit=ANSWER, stop=prompter.settings.stop)
    assert tuple(found) == expected
    with start_runtime(exact(case.bundle), case.bundle, OPTIONS, DEVICE) as served:
        assert answered(served.submit(ask)).token_ids == expected


def test_an_image_that_comes_in_the_second_question(case: Case) -> None:
    """What was said before it has been read without it."""
    image = odd_photographs()[2]
    prompter, builder = case.vlm.prompter, PromptBuilder(case.vlm.prompter, 512)
    if not prompter.image_prompt.template:
        return
    turns = (
        Turn.said("user", "are you there?"),
        Turn.said("assistant", "yes"),
        Turn.said("user", "what is it?", images=1),
    )
    with start_runtime(exact(case.bundle), case.bundle, OPTIONS, DEVICE) as served:
        answered(served.submit(GenerationRequest((), turns[:1], ANSWER)))
        found = answered(served.submit(GenerationRequest((image,), turns, ANSWER)))
    expected = generated(case, [image], builder.question(GenerationRequest((image,), turns, ANSWER)).prompt)
    assert found.token_ids == expected
    reads_before_images = prompter.image_prompt.cross is None
    assert (found.usage.cached_tokens > 0) == reads_before_images


def test_the_bundle_answers_in_four_bits(case: Case) -> None:
    """As it is installed: each token is the likeliest by the model itself, up to rounding in bfloat16."""
    photograph, question = odd_photographs()[0], QUESTIONS[0]
    vlm = open_vlm(case.bundle, threads=1)
    said = vlm.ask(photograph, question, ANSWER).token_ids
    with start_runtime(vlm, case.bundle, OPTIONS, DEVICE) as served:
        again = answered(served.submit(GenerationRequest.about(photograph, question, ANSWER))).token_ids
    for tokens in (said, again):
        logits = case.vlm.logits(photograph, question, tokens)
        missing = logits.max(1) - logits[np.arange(len(tokens)), tokens]
        assert (missing <= 0.1 * np.ptp(logits, axis=1)).all()


def answered(stream: Stream) -> Done:
    *_, last = stream
    assert isinstance(last, Done), last
    return last


def whole_answer(case: Case, photograph: Image.Image, question: str) -> tuple[int, ...]:
    """What the whole model says to a question about one photograph."""
    layout = case.vlm.prompter.pixels(photograph).layout
    return generated(case, [photograph], case.vlm.prompter.prompt(question, [layout]))


def generated(case: Case, photographs: Sequence[Image.Image], prompt: Prompt) -> tuple[int, ...]:
    """What `generate` of the whole model says to a prompt, with the features of the bundle's engine."""
    prompter = case.vlm.prompter
    pixels = [prompter.pixels(photograph) for photograph in photographs]
    given = prompter.image_prompt.whole([one.given for one in pixels], prompt.ids, prompter.settings.image_token_id)
    tensors: dict[str, Any] = {name: torch.from_numpy(np.asarray(value)) for name, value in given.items()}
    seen = shown(case, photographs)
    if seen is not None:
        tensors = {name: tensors[name] for name in tensors.keys() & MARKS} | {"mm_encoder_outputs": {"image": seen}}
    ids = torch.tensor(prompt.ids)[None]
    said = case.whole.generate(
        input_ids=ids,
        **tensors,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=ANSWER,
        do_sample=False,
        eos_token_id=list(prompter.settings.stop),
        pad_token_id=0,
    )
    return tuple(said[0, len(prompt.ids) :].tolist())


def shown(case: Case, photographs: Sequence[Image.Image]) -> Any:
    """What the bundle's engine gives, as `generate` takes it; Mllama's connector is made to give it: None."""
    prompter, encoder = case.vlm.prompter, case.vlm.vision_encoder
    pixels = [prompter.pixels(photograph) for photograph in photographs]
    seen = [prompter.joined(encoder.encode(one.feeds), one.layout) for one in pixels]
    if seen[0].cross is not None:
        states = torch.from_numpy(np.stack([one.cross for one in seen if one.cross is not None]))
        case.whole.model.multi_modal_projector.forward = lambda _hidden: states
        return None
    places = [torch.from_numpy(one.places) for one in seen]
    levels = [
        [torch.from_numpy(level) for level in levels] for levels in zip(*(one.deepstack for one in seen), strict=True)
    ]
    output = BaseModelOutputWithDeepstackFeatures(pooler_output=places, deepstack_features=levels)
    if case.vlm.prompter.vision.pictures and not case.name.startswith("llava"):
        output.pooler_output = torch.cat(places)
    return output
