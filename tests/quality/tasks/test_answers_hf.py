"""Real transformers models as answerers: against forward passes written out, and NF4 against its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from vlm import FAMILIES, IMAGE_TOKEN, tiny_vlm

from edgeq.errors import ModelError
from edgeq.families.modules import read_modules
from edgeq.plan.rules import plan_modules
from edgeq.quality.hf_answerer import HfAnswerer, Prompt, chat_prompt
from edgeq.quality.tasks.answer_questions import QuestionItem
from edgeq.quality.tasks.answers import compare_answers
from edgeq.quantize.nf4.skip_list import skip_modules

TEMPLATE = (
    "{% for m in messages %}<s> {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} w5{% endif %}"
)
QUESTION = "w7 w8"
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(4, 96))]
WORDS[IMAGE_TOKEN] = "<image>"


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8))


def tokenizer() -> Any:
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, **special, additional_special_tokens=["<image>"]
    )


def processor(template: str | None = TEMPLATE) -> Any:
    pixels = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return transformers.LlavaProcessor(
        image_processor=pixels,
        tokenizer=tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def llava(**options: Any) -> HfAnswerer:
    return HfAnswerer(tiny_vlm("llava", torch.float32, **options), tokenizer(), chat_prompt(processor()))


def forward(model: Any, inputs: Mapping[str, torch.Tensor], answer: list[int]) -> torch.Tensor:
    """Logits before each token of `answer`, and after it, by one pass over prompt and answer without a cache."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer], dtype=torch.int64)], dim=1)
    others = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")}
    start = inputs["input_ids"].shape[1] - 1
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, **others).logits[0, start:]
    return logits


def test_the_prompt_has_the_template_and_the_image() -> None:
    inputs = chat_prompt(processor())(picture(), QUESTION)
    assert inputs["input_ids"].tolist() == [[1, *[IMAGE_TOKEN] * 4, 7, 8, 5]]
    assert inputs["pixel_values"].shape == (1, 3, 28, 28)


def test_without_a_template_the_prompt_is_image_and_question() -> None:
    inputs = chat_prompt(processor(None))(picture(), " " + QUESTION)
    assert inputs["input_ids"].tolist() == [[*[IMAGE_TOKEN] * 4, 7, 8]]


def test_the_answer_is_the_likeliest_token_at_each_step() -> None:
    model, prompt = tiny_vlm("llava", torch.float32), chat_prompt(processor())
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0)
    chosen: list[int] = []
    for _ in range(6):
        chosen.append(int(forward(model, prompt(picture(), QUESTION), chosen)[-1].argmax()))
    answer = HfAnswerer(model, tokenizer(), prompt).answer(picture(), QUESTION, 6)
    assert list(answer.token_ids) == chosen
    assert answer.text == " ".join(WORDS[token] for token in chosen if token > 3)


def test_an_answer_ends_with_its_last_token_and_does_not_show_it() -> None:
    model, prompt = tiny_vlm("llava", torch.float32), chat_prompt(processor())
    first = HfAnswerer(model, tokenizer(), prompt).answer(picture(), QUESTION, 3)
    model.generation_config.eos_token_id = first.token_ids[1]
    again = HfAnswerer(model, tokenizer(), prompt).answer(picture(), QUESTION, 3)
    assert again.token_ids == first.token_ids[:2]


def _prompts() -> dict[str, dict[str, torch.Tensor]]:
    """What each family takes, by hand: an image's tokens, and pixels."""
    torch.manual_seed(3)
    return {
        "llava": {"pixel_values": torch.randn(1, 3, 28, 28)},
        "idefics3": {"pixel_values": torch.randn(1, 1, 3, 28, 28)},
    }


@pytest.mark.parametrize(("family", "tokens"), [("llava", 4), ("idefics3", 1)])
def test_forced_logits_are_those_of_one_pass_over_the_whole(family: str, tokens: int) -> None:
    model = tiny_vlm(family, torch.float32)
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * tokens, 7, 8]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **_prompts()[family]}
    prompt: Prompt = lambda _image, _question: given  # noqa: E731
    answerer, answer = HfAnswerer(model, tokenizer(), prompt), [40, 3, 77, 40, 2]
    found = answerer.logits(picture(), QUESTION, answer)
    assert found.shape == (5, 96)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, forward(model, given, answer)[:-1].numpy(), atol=2e-5)
    assert answerer.features(picture()).shape == (tokens, 64)


def test_features_are_what_the_language_model_gets() -> None:
    model, prompt = tiny_vlm("llava", torch.float32), chat_prompt(processor())
    pixels = prompt(picture(), "")["pixel_values"]
    with torch.no_grad():
        layers = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        expected = model.model.multi_modal_projector(layers[-2][:, 1:])[0]
    found = HfAnswerer(model, tokenizer(), prompt).features(picture())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_a_family_without_image_features_is_named() -> None:
    answerer = HfAnswerer(tiny_vlm("mllama", torch.float32), tokenizer(), chat_prompt(processor()))
    with pytest.raises(ModelError, match="MllamaForConditionalGeneration"):
        answerer.features(picture())


def four_bit(directory: Path, skip: list[str]) -> HfAnswerer:
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=skip,
    )
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        directory, quantization_config=settings, dtype=torch.float32
    )
    return HfAnswerer(model, tokenizer(), chat_prompt(processor()))


def test_nf4_language_leaves_the_features_alone_and_nf4_everywhere_does_not(tmp_path: Path) -> None:
    config = FAMILIES["llava"]()
    config.vision_config.hidden_size = 64  # bitsandbytes' kernels for the CPU want whole blocks in a row
    whole = transformers.LlavaForConditionalGeneration(config)
    whole.save_pretrained(tmp_path)
    asked = [QuestionItem(f"{seed}.jpg", picture(seed), QUESTION) for seed in range(2)]
    skip = skip_modules(plan_modules(read_modules(tmp_path)))
    reference = HfAnswerer(whole, tokenizer(), chat_prompt(processor()))
    planned = compare_answers(reference, four_bit(tmp_path, skip), asked, max_new_tokens=4)
    everything = compare_answers(reference, four_bit(tmp_path, ["lm_head"]), asked, max_new_tokens=4)
    assert planned.features.worst == pytest.approx(1.0, abs=1e-9)
    assert everything.features.cosine.value < 0.999
    assert planned.features.patches == 8
    assert 0.0 < planned.forced.kl.value < everything.forced.kl.value


def test_the_divergence_is_torchs() -> None:
    ours, theirs = llava(), llava(seed=1)
    found = compare_answers(ours, theirs, [QuestionItem("a.jpg", picture(), QUESTION)], max_new_tokens=4)
    ids = ours.answer(picture(), QUESTION, 4).token_ids
    p, q = (
        torch.log_softmax(torch.from_numpy(one.logits(picture(), QUESTION, ids)).double(), dim=1)
        for one in (ours, theirs)
    )
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")
    assert found.forced.kl.value == pytest.approx(float(expected))
    rows, chosen = torch.arange(len(ids)), torch.tensor(ids)
    ratio = (p[rows, chosen].mean() - q[rows, chosen].mean()).exp()
    assert found.forced.perplexity_ratio.value == pytest.approx(float(ratio))
    assert found.divergences[0].token < 4
