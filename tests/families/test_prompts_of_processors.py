"""What is written in the place of an image, against processors of transformers that need no torchvision.

Those of Qwen-VL, LLaVA-OneVision and InternVL ask for a video processor: their own tests compare what is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from whole_vlms import WHOLE, odd_photographs, write_whole_vlm

from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.families.modules import read_vlm
from edgeq.model.images.image_processor import load_image_processor
from edgeq.runtime.vlm.prompt import Prompter, find_image_token, load_tokenizer

QUESTION = "what is it?"


def _llava_next(images: Any, words: Any) -> Any:
    return transformers.LlavaNextProcessor(
        images, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


MADE: dict[str, Callable[[Any, Any], Any]] = {
    "llava_next": _llava_next,
    "mllama": lambda images, words: transformers.MllamaProcessor(images, words, chat_template=words.chat_template),
    "gemma3": lambda images, words: transformers.Gemma3Processor(images, words, image_seq_length=16),
}


@pytest.mark.parametrize("name", MADE)
def test_ids_are_those_of_the_processor(name: str, tmp_path: Path) -> None:
    source = write_whole_vlm(tmp_path / name, name)
    model, tokenizer = read_vlm(source), load_tokenizer(source)
    number = model.config.get("image_token_id", model.config.get("image_token_index"))
    settings = VlmSettings(
        model_type=model.model_type,
        vision="none.onnx",
        image_token=find_image_token(tokenizer, number),
        image_token_id=number,
        tokens=1,
        context=1024,
        stop=(2,),
    )
    prompter = Prompter.open(source, settings)
    processor = MADE[name](load_image_processor(source), tokenizer)
    image = str(WHOLE[name].image)
    for photograph in odd_photographs():
        found = prompter.prompt(QUESTION, [prompter.pixels(photograph).layout])
        text = f"<s>u:{image}{QUESTION}a:"
        given = processor(images=[[photograph]], text=[text], add_special_tokens=False, return_tensors="np")
        assert found.ids.tolist() == np.asarray(given["input_ids"])[0].tolist()
