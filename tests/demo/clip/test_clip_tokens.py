"""Text becomes the same tokens in transformers and in tokenizers, between its start and end, and is cut at 32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="the torch extra is not installed")

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from edgeq.demo.clip.captions import captions
from edgeq.demo.clip.tokens import CONTEXT, VOCABULARY, build_processor
from edgeq.demo.vlm.pool import normalized
from edgeq.demo.vlm.report import FINDINGS
from edgeq.demo.vlm.scenes import draw_finding

CAPTIONS = [text for finding in FINDINGS for text in captions(finding)]
OTHERS = ["", "Breite ≥ 0,3 mm?\n\n  Größe: 木 <s", "a crack<|endoftext|>or two", "isn't it 1999?", "ÉTÉ"]


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor()


@pytest.fixture(scope="module")
def folder(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    processor.save_pretrained(path)
    return path


def test_transformers_and_tokenizers_give_the_same_tokens(folder: Path) -> None:
    ours, plain = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in [*CAPTIONS, *OTHERS]:
        assert ours(text).input_ids == plain.encode(text).ids, text


def test_a_long_text_is_cut_and_keeps_its_end(folder: Path) -> None:
    ours, plain = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.enable_truncation(CONTEXT)
    text = "severe corrosion at the top left " * 9
    ids = ours(text, truncation=True).input_ids
    assert ids == plain.encode(text).ids
    assert len(ids) == CONTEXT
    assert (ids[0], ids[-1]) == (ours.bos_token_id, ours.eos_token_id)
    assert ids[1:7] * 5 == ids[1:-1]  # six words, five times


def test_a_word_of_a_caption_is_a_token_between_start_and_end(processor: Any) -> None:
    tokenizer = processor.tokenizer
    ids = tokenizer("Severe  corrosion\nat the top left").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|startoftext|>",
        *("Ġsevere", "Ġcorrosion", "Ġat", "Ġthe", "Ġtop", "Ġleft"),
        "<|endoftext|>",
    ]
    assert all(len(tokenizer(text).input_ids) <= CONTEXT for text in CAPTIONS)


def test_shorter_texts_are_filled_up_with_the_end(processor: Any) -> None:
    short, long = processor.tokenizer(["no damage", "a shadow at the top"], padding=True).input_ids
    assert short[3:] == [processor.tokenizer.eos_token_id] * (len(long) - 3)


def test_the_vocabulary_is_small_and_the_same_every_time_it_is_built(processor: Any) -> None:
    assert 256 < len(processor.tokenizer) <= VOCABULARY
    again = build_processor().tokenizer
    assert again.get_vocab() == processor.tokenizer.get_vocab()
    assert processor.tokenizer.eos_token_id != 2  # by which transformers knows configs that pool at the largest id


@pytest.mark.parametrize("text", ["breite ≥ 0,3 mm? größe: 木 <s", CAPTIONS[7]])
def test_any_text_comes_back_in_lower_case(processor: Any, text: str) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text.lower()


def test_a_scene_is_what_training_makes_of_it(processor: Any) -> None:
    image, _ = draw_finding(3)
    made = processor.image_processor(image, return_tensors="pt").pixel_values
    assert np.allclose(made.numpy(), normalized(np.array(image)[None]).numpy(), atol=1e-6)
