"""Text survives the tokenizer, the picture stands where LLaVA has it, and pixels are what the model is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="the torch extra is not installed")

from transformers import AutoProcessor

from edgeq.demo.vlm.pool import normalized
from edgeq.demo.vlm.report import FINDINGS, QUESTIONS, report
from edgeq.demo.vlm.scenes import draw_finding
from edgeq.demo.vlm.tokens import IMAGE_TOKENS, build_processor, chat, prompt


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor()


@pytest.mark.parametrize(
    "text",
    [*(report(finding) for finding in FINDINGS[::17]), *QUESTIONS, "Breite ≥ 0,3 mm?\n\n  Größe: 木 <s", ""],
)
def test_any_text_comes_back_from_its_tokens(processor: Any, text: str) -> None:
    assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


def test_every_word_of_a_report_is_one_token(processor: Any) -> None:
    for finding in FINDINGS:
        text = report(finding)
        words = len(text.split()) + text.count(".")  # a full stop is a token of its own
        assert len(processor.tokenizer(f" {text}").input_ids) == words


def test_the_tokenizer_is_the_same_every_time_it_is_built(processor: Any) -> None:
    again = build_processor().tokenizer.backend_tokenizer
    assert processor.tokenizer.backend_tokenizer.to_str() == again.to_str()


def test_the_picture_stands_before_the_question(processor: Any) -> None:
    assert prompt(processor, "Is it sound?") == "<s>USER: <image>\nIs it sound? ASSISTANT:"


def test_a_conversation_goes_on_after_the_answer(processor: Any) -> None:
    messages = [
        *chat("Is it sound?"),
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        {"role": "user", "content": "Sure?"},
    ]
    expected = "<s>USER: <image>\nIs it sound? ASSISTANT: Yes.</s>USER: Sure? ASSISTANT:"
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected


def test_one_image_becomes_its_tokens_right_after_the_speaker(processor: Any) -> None:
    image, _ = draw_finding(0)
    ids = processor(images=image, text=prompt(processor, "?"), return_tensors="pt").input_ids[0]
    (where,) = (ids == processor.image_token_id).nonzero(as_tuple=True)
    start = len(processor.tokenizer("<s>USER: ").input_ids)
    assert where.tolist() == list(range(start, start + IMAGE_TOKENS))


def test_the_pool_normalizes_as_the_image_processor_does(processor: Any) -> None:
    image, _ = draw_finding(3)
    made = processor.image_processor(image, return_tensors="pt").pixel_values
    assert np.allclose(made.numpy(), normalized(np.array(image)[None]).numpy(), atol=1e-6)


def test_another_size_of_picture_keeps_its_corners(processor: Any) -> None:
    image, _ = draw_finding(3)
    wide = image.resize((320, 128))
    made = processor.image_processor(wide, return_tensors="pt").pixel_values
    still = processor.image_processor(image, return_tensors="pt").pixel_values
    assert made.shape == still.shape
    assert np.corrcoef(made.flatten().numpy(), still.flatten().numpy())[0, 1] > 0.95


def test_a_saved_processor_does_the_same(processor: Any, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    image, _ = draw_finding(1)
    text = prompt(processor, QUESTIONS[0])
    assert prompt(loaded, QUESTIONS[0]) == text
    one, two = (each(images=image, text=text, return_tensors="pt") for each in (processor, loaded))
    assert one.input_ids.equal(two.input_ids)
    assert one.pixel_values.equal(two.pixel_values)
