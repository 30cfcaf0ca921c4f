"""Prompts and pixels against the families' own processors, and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from talk import QUESTION, tiny_settings, write_processor
from vlm import FAMILIES, IMAGE_TOKEN

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.errors import InputError, ModelError
from edgeq.families.registry import runnable
from edgeq.runtime.vlm.prompt import Prompter, find_image_token, load_tokenizer, render

TOKENS = {"llava": 4, "idefics3": 1, "paligemma": 4}
"""Features of a picture."""


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def settings(family: str = "llava", context: int = 128) -> VlmSettings:
    return tiny_settings(family, tokens=TOKENS[family], context=context)


def directory(path: Path, family: str = "llava") -> Path:
    path.mkdir(exist_ok=True)
    FAMILIES[family]().save_pretrained(path)
    write_processor(path, family)
    return path


def processor(path: Path, family: str) -> Any:
    """The whole processor that transformers has for the family."""
    images = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
    words = transformers.AutoTokenizer.from_pretrained(path)
    if family == "llava":
        kind = transformers.LlavaProcessor
        return kind(
            images, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
    if family == "idefics3":
        return transformers.Idefics3Processor(images, words, image_seq_len=TOKENS[family])
    return transformers.PaliGemmaProcessor(images, words)


def by_processor(path: Path, family: str, image: Image.Image) -> Any:
    """What the processor makes of QUESTION and an image."""
    whole = processor(path, family)
    if family == "paligemma":
        return whole(images=image, text=f"<image>{QUESTION}", return_tensors="np")
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    template = whole.tokenizer.chat_template
    text = whole.apply_chat_template([message], add_generation_prompt=True, chat_template=template)
    return whole(images=[[image]], text=[text], add_special_tokens=False, return_tensors="np")


@pytest.mark.parametrize("family", ["llava", "idefics3", "paligemma"])
def test_ids_and_pixels_are_those_of_the_processor(tmp_path: Path, family: str) -> None:
    path = directory(tmp_path / family, family)
    prompter = Prompter.open(path, settings(family))
    pixels = prompter.pixels(picture())
    expected = by_processor(path, family, picture())
    assert prompter.prompt(QUESTION, [pixels.layout]).ids.tolist() == list(expected["input_ids"][0])
    theirs = np.asarray(expected["pixel_values"], np.float32)
    assert np.array_equal(pixels.feeds["pixel_values"], theirs.reshape(-1, 3, 28, 28))


def test_an_image_in_tiles(tmp_path: Path) -> None:
    """56 x 28 pixels are two tiles of 28 x 28 side by side, and the whole comes last: three pictures."""
    prompter = Prompter.open(directory(tmp_path / "m", "idefics3"), settings("idefics3"))
    pixels = prompter.pixels(picture(56, 28))
    assert (pixels.feeds["pixel_values"].shape, pixels.layout.grid) == ((3, 3, 28, 28), (1, 2))
    assert (prompter.prompt(QUESTION, [pixels.layout]).ids == IMAGE_TOKEN).sum() == 3


def test_an_answer_is_read_without_special_tokens(tmp_path: Path) -> None:
    prompter = Prompter.open(directory(tmp_path / "m"), settings())
    ids = prompter.prompt("a crack", [prompter.pixels(picture()).layout]).ids
    assert prompter.text([*ids.tolist(), 2]) == "a crack:"


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question(tmp_path: Path, question: str) -> None:
    prompter = Prompter.open(directory(tmp_path / "m"), settings())
    with pytest.raises(InputError, match="the question is empty"):
        prompter.prompt(question, [prompter.pixels(picture()).layout])


@pytest.mark.parametrize("family", ["llava", "idefics3", "paligemma"])
def test_a_question_with_an_image_in_it(tmp_path: Path, family: str) -> None:
    """It is text, of which this tokenizer knows all but the brackets: no image stands there, and no answer ends."""
    prompter = Prompter.open(directory(tmp_path / "m", family), settings(family))
    layouts = [prompter.pixels(picture()).layout]
    asked, plain = (
        prompter.prompt(text, layouts).ids.tolist() for text in ("a <image></s>?", "a \ufffdimage\ufffd\ufffd/s\ufffd?")
    )
    assert asked == plain
    assert asked.count(IMAGE_TOKEN) == sum(layout.tokens for layout in layouts)


def test_the_border_of_the_context(tmp_path: Path) -> None:
    """`<s>`, four image tokens, the question and `:` are 6 + n tokens, and one must be left for an answer."""
    prompter = Prompter.open(directory(tmp_path / "m"), settings(context=20))
    pixels = prompter.pixels(picture())
    assert len(prompter.prompt("a" * 13, [pixels.layout]).ids) == 19
    with pytest.raises(InputError, match="takes 20 tokens, and the context is 20, answer included"):
        prompter.prompt("a" * 14, [pixels.layout])
    with pytest.raises(InputError, match="takes 100,006 tokens"):
        prompter.prompt("a" * 100_000, [pixels.layout])


def test_the_image_token_is_found_by_its_number(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(directory(tmp_path / "m"))
    assert find_image_token(tokenizer, IMAGE_TOKEN) == "<image>"


@pytest.mark.parametrize("number", [96, 32000, -1])
def test_a_tokenizer_without_the_image_token(tmp_path: Path, number: int) -> None:
    tokenizer = load_tokenizer(directory(tmp_path / "m"))
    with pytest.raises(ModelError, match=f"does not have the image token: config.json says {number}"):
        find_image_token(tokenizer, number)


def test_no_tokenizer(tmp_path: Path) -> None:
    FAMILIES["llava"]().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer that can be used"):
        load_tokenizer(tmp_path)


def test_no_image_processor(tmp_path: Path) -> None:
    path = directory(tmp_path / "m")
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="has no image processor that can be used"):
        Prompter.open(path, settings())


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0]['content'][1]['text'] }}", "writes <image> 0 times"),
        ("<image><image>", "writes <image> 2 times"),
        ("{% for", "cannot be put into a chat template"),
        (None, "cannot be put into a chat template"),
    ],
)
def test_a_chat_template_that_will_not_do(tmp_path: Path, template: str | None, words: str) -> None:
    tokenizer = load_tokenizer(directory(tmp_path / "m"))
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=words):
        render(tokenizer, runnable("llava"), "<image>", QUESTION)


def test_settings_are_read_back(tmp_path: Path) -> None:
    settings().save(tmp_path / "vlm.json")
    assert VlmSettings.load(tmp_path / "vlm.json") == settings()
    content = json.loads((tmp_path / "vlm.json").read_text())
    (tmp_path / "vlm.json").write_text(json.dumps(content | {"tokens": 0}))
    with pytest.raises(InputError, match="does not say how vision and language are joined"):
        VlmSettings.load(tmp_path / "vlm.json")
